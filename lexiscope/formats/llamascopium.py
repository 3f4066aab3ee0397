"""Dictionaries of OpenMOSS (lm_saes, Llamascopium): Llama Scope, Llama Scope R1, and what the library saves
today.

    Llama3_1-8B-Base-L15R-8x/{hyperparams.json,checkpoints/final.safetensors}      Llama Scope
    <name>/{config.json,sae_weights.safetensors}                                   since then

Training scales activations to a mean norm of √d_model; the scale is √d_model /
dataset_average_activation_norm. Weights are of the scaled space, as SAELens reads them; a jump_relu_threshold
of hyperparams.json is of raw space.
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
    check_widths,
    named,
    read_json,
    read_tensors,
    whole_k,
)
from lexiscope.selection import Selection, Threshold, TopK

HYPERPARAMETERS, CONFIG = "hyperparams.json", "config.json"
FINAL, WEIGHTS = "final.safetensors", "sae_weights.safetensors"
TYPE_OF_OTHERS = "cfg.json"
"""SAELens's settings, which stand beside weights of the same name."""
NORM = "dataset_average_activation_norm"
SPELLINGS = {
    "W_enc": ("W_E", "encoder.weight"),
    "b_enc": ("b_E", "encoder.bias"),
    "W_dec": ("W_D", "decoder.weight"),
    "b_dec": ("b_D", "decoder.bias"),
}


def at(path: Path) -> list[Path]:
    """The weights that `path` is, or those in the folder `path`."""
    if path.is_file():
        return [path] if path.name == FINAL or (path.name == WEIGHTS and _settings_file(path)) else []
    files = (path / WEIGHTS, path / FINAL, path / "checkpoints" / FINAL)
    return [file for file in files if file.is_file() and (_settings_file(file) or file.name == FINAL)][:1]


def _settings_file(file: Path) -> Path | None:
    if (file.parent / TYPE_OF_OTHERS).is_file():
        return None
    folders = (file.parent, file.parent.parent) if file.parent.name == "checkpoints" else (file.parent,)
    names = (HYPERPARAMETERS, CONFIG)
    return next((f / name for f in folders for name in names if (f / name).is_file()), None)


def read(file: Path) -> StoredDictionary:
    found = _settings_file(file)
    if found is None:
        raise CheckpointError(
            f"{file}: {HYPERPARAMETERS} (Llama Scope) or {CONFIG} (Llamascopium) is missing beside it or "
            "above its folder 'checkpoints': without it neither the activation function nor the scale is "
            "known."
        )
    settings = read_json(found)
    if settings.get("use_glu_encoder"):
        raise CheckpointError(
            f"{file}: its encoder is a gated linear unit (use_glu_encoder), which is not read here."
        )
    tensors = read_tensors(file)
    norms = {name: t for name, t in tensors.items() if name.startswith(NORM)}
    transposed = "encoder.weight" in tensors
    tensors = {_spelling(name): t for name, t in tensors.items() if name not in norms}
    threshold = ("log_threshold",) if "log_threshold" in tensors else ()
    wanted = ("W_enc", "b_enc", "W_dec", *(("b_dec",) if "b_dec" in tensors else ()), *threshold)
    w = named(tensors, wanted, where=file, what="a dictionary of Llamascopium")
    W_enc, W_dec = w["W_enc"], w["W_dec"]
    if transposed:
        W_enc, W_dec = W_enc.T, W_dec.T.contiguous()
    hook, hook_out = str(settings.get("hook_point_in") or ""), str(settings.get("hook_point_out") or "")
    hook_out = "" if hook_out == hook else hook_out
    scale = _scale(file, settings, norms, hook, len(W_enc))
    b_dec = w.get("b_dec", torch.zeros(W_dec.shape[1]))
    dictionary = Dictionary(W_enc, w["b_enc"], W_dec, b_dec, Threshold(w["b_enc"]))
    if settings.get("apply_decoder_bias_to_pre_encoder"):
        dictionary = replace(dictionary, b_enc=dictionary.b_enc - b_dec @ W_enc)
    by_norm = torch.ones(len(W_dec))
    if settings.get("sparsity_include_decoder_norm"):
        by_norm = W_dec.norm(dim=-1).clamp_min(LEAST_NORM)  # a pruned feature's row may be 0
    selection = _selection(file, settings, w, by_norm, scale or 1.0)
    dictionary = replace(dictionary, selection=selection)
    if isinstance(selection, TopK):  # selected by z · ‖d‖: the same dictionary with unit norms
        dictionary = replace(
            dictionary,
            W_enc=dictionary.W_enc * by_norm,
            b_enc=dictionary.b_enc * by_norm,
            W_dec=W_dec / by_norm[:, None],
        )
    notes: tuple[str, ...] = ()
    if settings.get("norm_activation") == "token-wise":
        dictionary = replace(dictionary, normalise="constant_norm")
    elif scale is not None:
        dictionary = dictionary.fold(torch.zeros(dictionary.d_in), scale)
        notes = (f"activations were scaled by {scale:.4g} in training; the scale is folded into the weights",)
    check_widths(file, dictionary, settings.get("d_model"), settings.get("d_sae"))
    architecture = str(settings.get("act_fn") or "relu")
    name = found.parent.name
    return StoredDictionary(
        dictionary,
        "llamascopium",
        architecture,
        hook,
        _model(settings, name),
        settings,
        hook_out,
        set_name=re.sub(r"^.*-L\d+(?=[A-Z]+-)", "llamascope", name) if "Base-L" in name else "",
        notes=notes,
    )


def _spelling(name: str) -> str:
    if name.endswith("log_jumprelu_threshold"):
        return "log_threshold"
    return next((own for own, others in SPELLINGS.items() if name in others), name)


def _scale(
    file: Path, settings: dict[str, Any], norms: dict[str, Tensor], hook: str, d_model: int
) -> float | None:
    """What activations were multiplied by; None where nothing was."""
    how = settings.get("norm_activation", "dataset-wise")
    if how in ("inference", "token-wise"):
        return None
    if how != "dataset-wise":
        raise CheckpointError(
            f"{file}: norm_activation is {how!r}; dataset-wise, token-wise and inference are read here."
        )
    recorded = settings.get(NORM) or {}
    norm: Any = recorded.get("in", recorded.get(hook)) if isinstance(recorded, dict) else recorded
    if norm is None and f"{NORM}.{hook}" in norms:
        norm = norms[f"{NORM}.{hook}"].item()
    if not isinstance(norm, int | float) or not norm > 0:
        raise CheckpointError(
            f"{file}: norm_activation is 'dataset-wise', but the mean norm of the activations is not "
            "recorded. Write it "
            f'into the settings beside the weights: "{NORM}": {{"in": …}} (√d_model divided by the '
            "norm_scaling_factor of SAELens's pretrained_saes.yaml)."
        )
    return float(d_model**0.5 / norm)


def _selection(
    file: Path, settings: dict[str, Any], w: dict[str, Tensor], by_norm: Tensor, scale: float
) -> Selection:
    b_enc, kind = w["b_enc"], str(settings.get("act_fn") or "relu").lower()
    if "log_threshold" in w:
        return Threshold(w["log_threshold"].exp().expand_as(b_enc) / by_norm)
    match kind:
        case "relu":
            return Threshold(torch.zeros_like(b_enc))
        case "topk":
            return TopK(whole_k(file, {"k": settings.get("top_k")}, b_enc))
        case "jumprelu" if isinstance(settings.get("jump_relu_threshold"), int | float):
            level = float(settings["jump_relu_threshold"]) * scale
            return Threshold(torch.full_like(b_enc, level) / by_norm)
    raise CheckpointError(
        f"{file}: act_fn is '{kind}', without a threshold for each feature: relu, topk and jumprelu are read "
        "here. Llamascopium converts batchtopk to jumprelu (runners/topk_to_jumprelu_conversion)."
    )


def _model(settings: dict[str, Any], name: str) -> str:
    recorded = settings.get("model_name") or settings.get("model")
    if isinstance(recorded, str):
        return recorded
    return "meta-llama/Llama-3.1-8B" if name.startswith("Llama3_1-8B-Base") else ""


FORMAT = Format(
    "OpenMOSS's Llamascopium", f"{FINAL} and {HYPERPARAMETERS}, or {WEIGHTS} and {CONFIG}", at, read
)
