"""Dictionaries of dictionary_learning (saprmarks): `ae.pt` with a state dictionary, `config.json` beside it.

Read as the library's own `from_pretrained` does; the class is `trainer.dict_class` of config.json, or follows
from the names of the tensors where that is unambiguous.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.formats.stored import (
    LEAST_NORM,
    Format,
    StoredDictionary,
    block_of,
    check_widths,
    gated_dictionary,
    named,
    read_json,
    read_plain_pickle,
    whole_k,
)
from lexiscope.selection import Threshold, TopK

FILE, CONFIG = "ae.pt", "config.json"
FILES = re.compile(r"ae(_\d+)?\.pt")
"""The finished dictionary, and those of `checkpoints/` while it trained."""
LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
TRANSPOSED = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
GATED = ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias")
CLASSES = {
    "AutoEncoder": (*LINEAR, "bias"),
    "AutoEncoderNew": (*LINEAR, "decoder.bias"),
    "GatedAutoEncoder": GATED,
    "JumpReluAutoEncoder": TRANSPOSED,
    "AutoEncoderTopK": (*LINEAR, "b_dec", "k", "threshold"),
    "BatchTopKSAE": (*LINEAR, "b_dec", "k", "threshold"),
    "MatryoshkaBatchTopKSAE": (*TRANSPOSED, "k", "group_sizes"),
}
"""The library's classes and their tensors. AutoEncoderTopK keeps a threshold that its encoding does not
use.
"""


def at(path: Path) -> list[Path]:
    """The file that `path` is, or the one in the folder `path`."""
    file = path / FILE if path.is_dir() else path
    return [file] if FILES.fullmatch(file.name) and file.is_file() else []


def read(file: Path) -> StoredDictionary:
    state = read_plain_pickle(file)
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    settings = block_of(folder / CONFIG, config, "trainer")
    kind = str(settings.get("dict_class") or _class_of(file, state))
    if kind == "AutoEncoderTopK" and "k" not in state and settings.get("k"):  # older files
        state |= {"k": torch.tensor(settings["k"])}
    dictionary = _dictionary(file, kind, state)
    check_widths(file, dictionary, settings.get("activation_dim"), settings.get("dict_size"))
    layer, module = settings.get("layer"), str(settings.get("submodule_name") or "resid_post")
    hook = ""
    if layer is not None:
        hook = (
            f"blocks.{layer}.hook_resid_post"
            if module.startswith("resid_post")
            else f"{module} of layer {layer}"
        )
    return StoredDictionary(
        dictionary,
        "dictionary_learning",
        kind,
        hook,
        str(settings.get("lm_name") or ""),
        config,
        set_name=f"{kind}-{folder.name}" if folder.name.startswith("trainer_") else "",
    )


def _class_of(file: Path, state: dict[str, Any]) -> str:
    matching = [kind for kind, names in CLASSES.items() if set(state) == set(names)]
    if len(matching) == 1:
        return matching[0]
    which = f" ({' or '.join(matching)})" if matching else ""
    raise CheckpointError(
        f"{file}: {CONFIG} is missing beside it, and its tensors ({', '.join(sorted(state))}) do not tell "
        f"which class of dictionary_learning they belong to{which}: trainer.dict_class of {CONFIG} does."
    )


def _dictionary(file: Path, kind: str, state: dict[str, Any]) -> Dictionary:
    if kind not in CLASSES:
        raise CheckpointError(
            f"{file}: dictionary_learning's '{kind}' is not read here; {', '.join(CLASSES)} are."
        )
    w = named(state, _tensors_of(kind, state), where=file, what=f"dictionary_learning's {kind}")
    if kind == "GatedAutoEncoder":
        gated = gated_dictionary(
            w["encoder.weight"].T,
            w["decoder.weight"].T,
            w["decoder_bias"],
            gate=w["gate_bias"],
            magnitude=w["mag_bias"],
            log_gain=w["r_mag"],
        )
        return _pre_bias(gated)
    if "W_enc" in w:
        dictionary = Dictionary(
            w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], _thresholds(w["b_enc"], w["threshold"])
        )
    else:
        b_enc = w["encoder.bias"]
        b_dec = next(w[name] for name in ("b_dec", "bias", "decoder.bias") if name in w)
        selection: TopK | Threshold = _thresholds(b_enc, w.get("threshold", torch.zeros(())))
        if kind == "AutoEncoderTopK":
            selection = TopK(whole_k(file, {"k": w["k"].item()}, b_enc))
        dictionary = Dictionary(
            w["encoder.weight"].T, b_enc, w["decoder.weight"].T.contiguous(), b_dec, selection
        )
    if kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        dictionary = _pre_bias(dictionary)
    return _unit_norm(dictionary) if kind == "AutoEncoder" else dictionary  # as its from_pretrained does


def _tensors_of(kind: str, state: dict[str, Any]) -> tuple[str, ...]:
    older = kind == "AutoEncoderTopK" and "threshold" not in state
    return tuple(name for name in CLASSES[kind] if not (older and name == "threshold"))


def _thresholds(b_enc: Tensor, threshold: Tensor) -> Threshold:
    return Threshold(threshold.expand_as(b_enc).clone())


def _pre_bias(dictionary: Dictionary) -> Dictionary:
    """b_dec is taken off the input."""
    return replace(dictionary, b_enc=dictionary.b_enc - dictionary.b_dec @ dictionary.W_enc)


def _unit_norm(dictionary: Dictionary) -> Dictionary:
    norms = dictionary.W_dec.norm(dim=-1).clamp_min(LEAST_NORM)  # a pruned feature's row may be 0
    return replace(
        dictionary,
        W_enc=dictionary.W_enc * norms,
        b_enc=dictionary.b_enc * norms,
        W_dec=dictionary.W_dec / norms[:, None],
    )


FORMAT = Format("dictionary_learning", f"{FILE} and {CONFIG}", at, read)
