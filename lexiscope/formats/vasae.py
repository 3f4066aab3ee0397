"""Dictionaries of the VASAE paper's authors: `checkpoint.pt`, a linear encoder and decoder without pre-bias;
ReLU, then TopK.
"""

import re
from pathlib import Path
from typing import Any

import torch

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.formats.stored import Format, StoredDictionary, check_widths, named, read_plain_pickle, whole_k
from lexiscope.selection import TopK

FILE = "checkpoint.pt"


def at(path: Path) -> list[Path]:
    """The checkpoint that `path` is, or the one in the folder `path`."""
    file = path / FILE if path.is_dir() else path
    return [file] if file.name == FILE and file.is_file() else []


def read(path: Path) -> StoredDictionary:
    """The run folder is named `<model>_L<layer>_<method>` unless a name was given; the layer is read from
    there. Raises CheckpointError.
    """
    stored = read_plain_pickle(path)
    settings, state = stored.get("sae_config"), stored.get("model_state_dict")
    if not isinstance(settings, dict) or not isinstance(state, dict):
        raise CheckpointError(
            f"{path} is no VASAE checkpoint: `sae_config` and `model_state_dict` must be in it."
        )
    if settings.get("use_abs_topk") or not settings.get("nonneg_latents", True):
        raise CheckpointError(
            f"{path}: its features may be negative (use_abs_topk, or nonneg_latents off), which is not read "
            "here."
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
    config: dict[str, Any] = {key: value for key, value in stored.items() if key != "model_state_dict"}
    run = re.fullmatch(r"(?P<model>.+)_L(?P<layer>\d+)_.+", path.resolve().parent.name)
    hook, model = (f"layers.{run['layer']}", run["model"]) if run else ("", "")
    return StoredDictionary(
        dictionary,
        "vasae",
        f"topk, {stored['method']}" if stored.get("method") else "topk",
        hook,
        model,
        config,
    )


FORMAT = Format("VASAE (the paper's authors)", FILE, at, read)
