"""A dictionary on disk: SAELens's folder layout, plus one `metadata.lexiscope` block and the anchors' fit.

    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec (and dense_in, dense_out)
    cfg.json                  SAELens's keys; metadata.lexiscope: recipe, seed, text, tokens seen, scale, versions
    anchors.safetensors       anchors [vocab, d_in], counts [vocab], mean [d_in], assigned [d_sae], lift [d_sae]
    metrics.json              held-out, METHOD.md §5
    train.jsonl               one line a log step

A plain dictionary loads in SAELens as it is. One with a dense path names an architecture of its own, so that SAELens refuses
it instead of reconstructing wrongly. Pickle is never executed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError

WEIGHTS, CONFIG, ANCHORS, METRICS, LOG = "sae_weights.safetensors", "cfg.json", "anchors.safetensors", "metrics.json", "train.jsonl"
DENSE_ARCHITECTURE = "lexiscope_topk_dense"
CONVENTIONS = {"apply_b_dec_to_input": False, "rescale_acts_by_decoder_norm": False, "normalize_activations": "none"}
"""What other libraries' dictionaries may do to their activations, and `lexiscope.dictionary.Dictionary` does not."""


class AnchorFit(NamedTuple):
    """What names are computed from, so that anyone can recompute a cosine."""

    anchors: Tensor
    """[vocab, d_in] anchor vectors (any norm), in the centred raw space of the hook point"""
    counts: Tensor
    """[vocab] occurrences of each token in the training text"""
    mean: Tensor
    """[d_in] mean residual stream"""
    assigned: Tensor
    """[d_sae] the token each row was held near, −1 for none"""
    lift: Tensor | None = None
    """[d_sae] the training token of highest lift, −1 where the feature was silent; None in older checkpoints"""


class Checkpoint(NamedTuple):
    path: Path
    dictionary: Dictionary
    config: dict[str, Any]
    """cfg.json as it stands"""
    fit: AnchorFit | None
    metrics: dict[str, Any]

    @property
    def details(self) -> dict[str, Any]:
        """The metadata.lexiscope block; empty for a foreign dictionary."""
        found: dict[str, Any] = self.config.get("metadata", {}).get("lexiscope", {})
        return found


@contextmanager
def new_checkpoint(path: Path) -> Iterator[Path]:
    """A folder to fill, moved to `path` when the block ends well and removed when it does not.

    Raises CheckpointError where `path` already holds something: an existing run is never overwritten.
    """
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error.strerror or error}. Nothing that was there has changed.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} already holds a run; it is kept. Give another place with --out, or remove it first.")


def save_weights(
    folder: Path, dictionary: Dictionary, *, fit: AnchorFit | None, model: str, hook: str, context: int, details: dict[str, Any]
) -> None:
    """Write weights, anchors and cfg.json into `folder`."""
    tensors = {name: getattr(dictionary, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "dense_in", "dense_out")}
    save_file({name: tensor.contiguous().float() for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS)
    if fit is not None:
        found = {"anchors": fit.anchors.half().contiguous(), "counts": fit.counts, "mean": fit.mean.float(), "assigned": fit.assigned}
        save_file(found | ({} if fit.lift is None else {"lift": fit.lift}), folder / ANCHORS)
    dense = dictionary.dense_in is not None
    config = {
        "architecture": DENSE_ARCHITECTURE if dense else "topk",
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "k": dictionary.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "model_name": model,
            "hook_name": hook,
            "hook_head_index": None,
            "context_size": context,
            "prepend_bos": True,
            "neuronpedia_id": None,
            "lexiscope": details,
        },
    }
    write_json(folder / CONFIG, config)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_checkpoint(path: Path, *, anchors: bool = True) -> Checkpoint:
    """Read a checkpoint folder; with `anchors=False` the anchors' fit stays on disk.

    Raises CheckpointError: no folder, a missing or truncated file, a pickle, widths that disagree, an unknown architecture,
    a convention of another library that would be read wrongly.
    """
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint folder at {path}.")
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        pickles = [p.name for p in path.iterdir() if p.suffix in (".pt", ".pth", ".pkl", ".bin")]
        hint = f" It holds {pickles[0]}, a pickle, which is never executed." if pickles else ""
        raise CheckpointError(f"{path} is no checkpoint: {CONFIG} and {WEIGHTS} must lie in it.{hint}")
    config = _read_json(path / CONFIG)
    architecture = config.get("architecture")
    if architecture not in ("topk", DENSE_ARCHITECTURE):
        raise CheckpointError(f"{path}: architecture '{architecture}' is not one that can be read here (topk, {DENSE_ARCHITECTURE}).")
    for key, value in CONVENTIONS.items():
        if config.get(key) not in (value, None):
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; only {value!r} is read here, anything else would be wrong.")
    tensors = _read_tensors(path / WEIGHTS)
    try:
        weights = {name: tensors[name].float() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        dictionary = Dictionary(**weights, k=int(config["k"]), dense_in=tensors.get("dense_in"), dense_out=tensors.get("dense_out"))
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing from {WEIGHTS} or {CONFIG}.") from error
    _check_shapes(path, dictionary, config)
    fit = None
    if anchors and (path / ANCHORS).is_file():
        found = _read_tensors(path / ANCHORS)
        fit = AnchorFit(found["anchors"].float(), found["counts"], found["mean"], found["assigned"], found.get("lift"))
    metrics = _read_json(path / METRICS) if (path / METRICS).is_file() else {}
    return Checkpoint(path, dictionary, config, fit, metrics)


def _check_shapes(path: Path, dictionary: Dictionary, config: dict[str, Any]) -> None:
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    expected = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for name, shape in expected.items():
        found = tuple(getattr(dictionary, name).shape)
        if found != shape:
            raise CheckpointError(f"{path}: {name} has shape {found}, but {CONFIG} says d_in {d_in} and d_sae {d_sae}: {shape}.")
    if not 0 < dictionary.k <= dictionary.d_sae:
        raise CheckpointError(f"{path}: k is {dictionary.k}, which is not between 1 and d_sae {dictionary.d_sae}.")
    if not all(torch.isfinite(getattr(dictionary, name)).all() for name in expected):
        raise CheckpointError(f"{path}: the weights hold NaN or Inf.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        with open(path, "rb") as file:
            start = file.read(2)
        if start in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"{path} is a pickle, not safetensors; it is never executed.") from error
        raise CheckpointError(f"{path} is truncated or damaged: {error}.") from error
