"""Dictionaries of EleutherAI's sparsify and of the VASAE paper's authors, read so that they encode as their
own code would.
"""

import re
from pathlib import Path
from typing import Any

import torch

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.selection import TopK
from lexiscope.weights import (
    Foreign,
    check_widths,
    named,
    read_json,
    read_plain_pickle,
    read_tensors,
    whole_k,
)

CONFIG, SPARSIFY_WEIGHTS, VASAE_FILE = "cfg.json", "sae.safetensors", "checkpoint.pt"
SEED_FOLDER = re.compile(r"seed\d+")


def sparsify_folder(path: Path) -> Path | None:
    """The one sparsify dictionary in `path`: itself, or a hook point's folder under a run's. None where there
    is none.

    Raises CheckpointError where a run holds several.
    """
    if (path / SPARSIFY_WEIGHTS).is_file():
        return path
    found = sorted(p.parent for pattern in ("*/", "*/seed*/") for p in path.glob(pattern + SPARSIFY_WEIGHTS))
    if len(found) > 1:
        inside = ", ".join(str(p.relative_to(path)) for p in found[:8])
        raise CheckpointError(
            f"{path} is a sparsify run with {len(found)} dictionaries ({inside}); give the folder of one of them."
        )
    return found[0] if found else None


def read_sparsify(folder: Path) -> Foreign:
    """A sparsify hook point's folder. Raises CheckpointError: a transcoder, groupmax, signed activations;
    damage of any kind.
    """
    config = read_json(folder / CONFIG)
    if config.get("transcode"):
        raise CheckpointError(
            f"{folder} is a transcoder: it writes another hook point than the one it reads, and is not read here."
        )
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        how = "signed top-k" if config.get("signed") else config["activation"]
        raise CheckpointError(
            f"{folder}: its activation is {how}; only top-k of positive pre-activations is read here."
        )
    tensors = read_tensors(folder / SPARSIFY_WEIGHTS)
    wanted = (
        "encoder.weight",
        "encoder.bias",
        "W_dec",
        "b_dec",
        *(("W_skip",) if config.get("skip_connection") else ()),
    )
    w = named(tensors, wanted, where=folder / SPARSIFY_WEIGHTS, what="a sparsify dictionary")
    encoder, b_enc, b_dec = w["encoder.weight"], w["encoder.bias"], w["b_dec"]
    try:
        b_enc = b_enc - encoder @ b_dec  # sparsify takes b_dec off its input
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: encoder.weight is {tuple(encoder.shape)} and b_dec {tuple(b_dec.shape)}: they do not fit."
        ) from error
    skip = w.get("W_skip")
    dictionary = Dictionary(
        encoder.T,
        b_enc,
        w["W_dec"],
        b_dec,
        TopK(whole_k(folder, config, b_enc)),
        dense_in=None if skip is None else skip.T,
        dense_out=None if skip is None else torch.eye(len(b_dec)),
    )
    check_widths(folder, dictionary, config.get("d_in"), config.get("num_latents") or None)
    hook_folder = folder.parent if SEED_FOLDER.fullmatch(folder.name) else folder
    run = hook_folder.parent / "config.json"
    model = str(read_json(run).get("model") or "") if run.is_file() else ""
    return Foreign(dictionary, "sparsify", "topk", hook_folder.name, model, config)


def read_vasae(path: Path) -> Foreign:
    """The authors' `checkpoint.pt`: a linear encoder and decoder without pre-bias; ReLU, then TopK.

    Its run folder is named `<model>_L<layer>_<method>` unless a name was given; the layer is read from there.
    Raises CheckpointError.
    """
    found = read_plain_pickle(path)
    settings, state = found.get("sae_config"), found.get("model_state_dict")
    if not isinstance(settings, dict) or not isinstance(state, dict):
        raise CheckpointError(
            f"{path} is no VASAE checkpoint: `sae_config` and `model_state_dict` must be in it."
        )
    if settings.get("use_abs_topk") or not settings.get("nonneg_latents", True):
        raise CheckpointError(
            f"{path}: its features may be negative (use_abs_topk, or nonneg_latents off), which is not read here."
        )
    wanted = (
        "encoder.fc.weight",
        "encoder.fc.bias",
        "decoder.weight",
        *(("decoder.bias",) if "decoder.bias" in state else ()),
    )
    w = named(state, wanted, where=path, what="a VASAE checkpoint")
    directions = w["decoder.weight"].T.contiguous()
    bias = w.get("decoder.bias", torch.zeros(directions.shape[1]))
    encoder, b_enc = w["encoder.fc.weight"], w["encoder.fc.bias"]
    dictionary = Dictionary(encoder.T, b_enc, directions, bias, TopK(whole_k(path, settings, b_enc)))
    check_widths(path, dictionary, settings.get("dim_input"), settings.get("dim_sparse"))
    config: dict[str, Any] = {key: value for key, value in found.items() if key != "model_state_dict"}
    run = re.fullmatch(r"(?P<model>.+)_L(?P<layer>\d+)_.+", path.resolve().parent.name)
    hook, model = (f"layers.{run['layer']}", run["model"]) if run else ("", "")
    return Foreign(
        dictionary,
        "vasae",
        f"topk, {found['method']}" if found.get("method") else "topk",
        hook,
        model,
        config,
    )
