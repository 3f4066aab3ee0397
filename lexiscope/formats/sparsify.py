"""Dictionaries of EleutherAI's sparsify: a folder a hook point, or a run's folder that holds several.

<run>/config.json                       the language model's name
<run>/layers.10[/seed1]/cfg.json        k, widths, activation
<run>/layers.10[/seed1]/sae.safetensors
"""

import re
from pathlib import Path

import torch

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.formats.stored import (
    Format,
    StoredDictionary,
    check_widths,
    named,
    read_json,
    read_tensors,
    whole_k,
)
from lexiscope.selection import TopK

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
SEED_FOLDER = re.compile(r"seed\d+")


def at(path: Path) -> list[Path]:
    """The hook point's folder that `path` is, or that holds the file `path`."""
    folder = path.parent if path.name in (CONFIG, WEIGHTS) else path
    return [folder] if (folder / WEIGHTS).is_file() else []


def read(folder: Path) -> StoredDictionary:
    """A sparsify hook point's folder. Raises CheckpointError: a transcoder, groupmax, signed activations;
    damage of any kind.
    """
    config = read_json(folder / CONFIG)
    if config.get("transcode"):
        raise CheckpointError(
            f"{folder} is a transcoder: it writes another hook point than the one it reads, and is not read "
            "here."
        )
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        how = "signed top-k" if config.get("signed") else config["activation"]
        raise CheckpointError(
            f"{folder}: its activation is {how}; only top-k of positive pre-activations is read here."
        )
    tensors = read_tensors(folder / WEIGHTS)
    wanted = (
        "encoder.weight",
        "encoder.bias",
        "W_dec",
        "b_dec",
        *(("W_skip",) if config.get("skip_connection") else ()),
    )
    w = named(tensors, wanted, where=folder / WEIGHTS, what="a sparsify dictionary")
    encoder, b_enc, b_dec = w["encoder.weight"], w["encoder.bias"], w["b_dec"]
    try:
        b_enc = b_enc - encoder @ b_dec  # sparsify takes b_dec off its input
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: encoder.weight is {tuple(encoder.shape)} and b_dec {tuple(b_dec.shape)}: they do not "
            "fit."
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
    return StoredDictionary(dictionary, "sparsify", "topk", hook_folder.name, model, config)


FORMAT = Format("sparsify", f"{CONFIG} and {WEIGHTS}", at, read)
