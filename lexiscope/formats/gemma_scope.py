"""Gemma Scope's JumpReLU dictionaries (Google DeepMind), version 1 and 2.

    gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz
    gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium/{config.json,params.safetensors}

The files of version 1 record neither model nor hook point: both are read from the names of the folders.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.formats.stored import (
    Format,
    StoredDictionary,
    check_widths,
    drop_unit_scaling,
    named,
    read_json,
    read_tensors,
)
from lexiscope.selection import Threshold

ARRAYS, TENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")
"""Version 1: the base model's size, pretrained or instruction-tuned, and what the dictionaries read."""
HOOKS = {"res": "blocks.{}.hook_resid_post", "mlp": "blocks.{}.hook_mlp_out", "att": "blocks.{}.attn.hook_z"}


def at(path: Path) -> list[Path]:
    """The file that `path` is, or the one in the folder `path`."""
    if path.is_file():
        return [path] if path.name == TENSORS or path.suffix == ".npz" else []
    return [path / name for name in (ARRAYS, TENSORS) if (path / name).is_file()][:1]


def read(file: Path) -> StoredDictionary:
    stored = _read_arrays(file) if file.suffix == ".npz" else read_tensors(file)
    tensors = {re.sub(r"^w_", "W_", name): tensor for name, tensor in stored.items()}
    drop_unit_scaling(tensors, file)
    skip = ("affine_skip_connection",) if "affine_skip_connection" in tensors else ()
    wanted = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", *skip)
    w = named(tensors, wanted, where=file, what="a Gemma Scope dictionary")
    dense = w[skip[0]] if skip else None
    dictionary = Dictionary(
        w["W_enc"],
        w["b_enc"],
        w["W_dec"],
        w["b_dec"],
        Threshold(w["threshold"]),
        dense_in=dense,  # added as x @ affine_skip_connection
        dense_out=None if dense is None else torch.eye(dense.shape[1]),
    )
    config = file.with_name(CONFIG)
    if config.is_file():
        return _second_version(file, dictionary, read_json(config))
    return _first_version(file, dictionary)


def _first_version(file: Path, dictionary: Dictionary) -> StoredDictionary:
    folders = "/".join(file.absolute().parts[:-1])
    repository, layer = REPOSITORY.search(folders), re.search(r"layer_(\d+)", folders)
    kind = repository[3] if repository else "res"
    width, l0 = re.search(r"width_(\w+?)(?=/|$)", folders), re.search(r"average_l0_(\d+)", folders)
    hook = hook_out = model = ""
    if "embedding" in folders.split("/")[-3:]:
        hook = "hook_embed"
    elif layer and kind == "transcoders":
        hook, hook_out = f"blocks.{layer[1]}.ln2.hook_normalized", HOOKS["mlp"].format(layer[1])
    elif layer:
        hook = HOOKS[kind].format(layer[1])
    if repository:
        model = f"google/gemma-2-{repository[1]}" + ("-it" if repository[2] == "it" else "")
    parts = ("gemmascope", kind, width and width[1], l0 and f"l0-{l0[1]}")
    check_widths(file, dictionary, None, None, dictionary.d_out if hook_out else None)
    return StoredDictionary(
        dictionary,
        "gemma-scope",
        "jumprelu",
        hook,
        model,
        {},
        hook_out,
        set_name="-".join(part for part in parts if part),
    )


def _second_version(file: Path, dictionary: Dictionary, config: dict[str, Any]) -> StoredDictionary:
    if config.get("architecture") not in (None, "jump_relu"):
        raise CheckpointError(
            f"{file}: its architecture is {config['architecture']!r}; jump_relu is read here."
        )
    hook, hook_out = str(config.get("hf_hook_point_in") or ""), str(config.get("hf_hook_point_out") or "")
    hook_out = "" if hook_out == hook else hook_out
    model = str(config.get("model_name") or "").replace("-v3", "-3")
    if model and "/" not in model:
        model = f"google/{model}"
    check_widths(file, dictionary, None, None, dictionary.d_out if hook_out else None)
    name = re.sub(r"^layer_\d+_", "", file.absolute().parent.name)
    return StoredDictionary(
        dictionary, "gemma-scope", "jumprelu", hook, model, config, hook_out, set_name=f"gemmascope-2-{name}"
    )


def _read_arrays(file: Path) -> dict[str, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise CheckpointError(f"{file} is truncated, damaged, or holds more than arrays: {error}.") from error


FORMAT = Format("Gemma Scope", f"{ARRAYS} or {TENSORS}", at, read)
