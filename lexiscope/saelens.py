"""SAELens's dictionaries, read so that they encode as its own code would; lexiscope's own have the same
layout.

What SAELens does around the two matrix products is folded into the weights: a bias subtracted from the input,
decoder norms in the selection, a gate, a training-time scale. What cannot be folded is refused, because it
would be read wrongly in silence.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.weights import Foreign, check_widths, named, read_json, read_tensors, whole_k

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
DENSE_ARCHITECTURE = "lexiscope_topk_dense"

TRAINED_AS_THRESHOLD = ("batchtopk", "matryoshka_batchtopk")
"""SAELens saves these as `jumprelu` when training ends; its training checkpoints keep the name, and one
threshold for all features.
"""
REFUSED = {
    "abstopk": "its features fire on negative pre-activations too",
    "matching_pursuit": "its code is found by iteration",
    "temporal": "its code depends on the tokens before",
    **dict.fromkeys(
        ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
        "it writes another hook point than the one it reads",
    ),
}
CENTRED_MODELS = re.compile(
    r"(^|/)(gpt2|distilgpt2|pythia|gpt-neo|gpt-j|opt-|tiny-stories|stanford-gpt2|gelu-|solu-|attn-only)",
    re.IGNORECASE,
)
"""Models with LayerNorm, which TransformerLens loaded with a centred residual stream unless told not to."""


def read_saelens(folder: Path) -> Foreign:
    """A SAELens folder of any version, and lexiscope's own, which has the same layout. Raises
    CheckpointError.
    """
    config = read_json(folder / CONFIG)
    settings = _current_spelling(config)
    architecture = str(settings["architecture"])
    if architecture in REFUSED:
        raise CheckpointError(
            f"{folder}: a SAELens '{architecture}' is not read here, because {REFUSED[architecture]}."
        )
    if settings.get("reshape_activations") not in (None, "none"):
        raise CheckpointError(
            f"{folder}: reshape_activations is {settings['reshape_activations']!r}: it reads attention heads, not the residual stream."
        )
    tensors = read_tensors(folder / WEIGHTS)
    _drop_unit_scaling(tensors, folder)
    dictionary = _saelens_dictionary(folder, architecture, settings, tensors)
    check_widths(folder, dictionary, settings.get("d_in"), settings.get("d_sae"))
    metadata = settings["metadata"]
    dictionary = _as_trained(folder, dictionary, settings)
    hook = str(metadata.get("hook_name") or "")
    if metadata.get("hook_head_index") is not None:
        hook = f"{hook} head {metadata['hook_head_index']}"
    return Foreign(dictionary, "saelens", architecture, hook, str(metadata.get("model_name") or ""), config)


def _current_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """Settings as SAELens 6 spells them, with its defaults; `metadata` holds what earlier versions kept
    beside the rest.
    """
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    found = {renamed.get(key, key): value for key, value in config.items()}
    defaults: dict[str, Any] = {
        "architecture": "standard",
        "apply_b_dec_to_input": True,
        "activation_fn": "relu",
    }
    found = defaults | found
    arguments: Any = found.get("activation_fn_kwargs") or {}
    if found["activation_fn"] == "topk" and arguments.get("k") is not None:
        found |= {"architecture": "topk", "k": arguments["k"]}
    if isinstance(found.get("normalize_activations"), bool):
        found["normalize_activations"] = (
            "expected_average_only_in" if found["normalize_activations"] else "none"
        )
    nested = found.get("metadata") or {}
    if not isinstance(nested, dict):
        nested = {}
    beside = (
        "hook_name",
        "hook_head_index",
        "model_name",
        "neuronpedia_id",
        "context_size",
        "prepend_bos",
        "model_from_pretrained_kwargs",
    )
    found["metadata"] = {key: found[key] for key in beside if key in found} | nested
    return found


def _drop_unit_scaling(tensors: dict[str, Tensor], folder: Path) -> None:
    """SAELens long wrote a `scaling_factor` of ones, which its own reader drops."""
    scaling = tensors.get("scaling_factor")
    if scaling is not None:
        if not torch.allclose(scaling.float(), torch.ones(())):
            raise CheckpointError(
                f"{folder}: scaling_factor is not 1 everywhere: activations finetuned by a factor are not read here."
            )
        del tensors["scaling_factor"]


def _saelens_dictionary(
    folder: Path, architecture: str, settings: dict[str, Any], tensors: dict[str, Tensor]
) -> Dictionary:
    what = f"a SAELens '{architecture}'"
    if settings["activation_fn"] not in ("relu", "topk"):
        raise CheckpointError(
            f"{folder}: activation_fn is '{settings['activation_fn']}'; relu and topk are read here."
        )
    base = ("W_enc", "b_enc", "W_dec", "b_dec")
    match architecture:
        case "standard":
            w = named(tensors, base, where=folder, what=what)
            found = Dictionary(
                w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], 0, threshold=torch.zeros_like(w["b_enc"])
            )
        case "topk":
            w = named(tensors, base, where=folder, what=what)
            found = Dictionary(
                w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], whole_k(folder, settings, w["b_enc"])
            )
        case "lexiscope_topk_dense":
            w = named(
                tensors, (*base, "dense_in", "dense_out"), where=folder, what="a dictionary with a dense path"
            )
            k = whole_k(folder, settings, w["b_enc"])
            found = Dictionary(
                w["W_enc"],
                w["b_enc"],
                w["W_dec"],
                w["b_dec"],
                k,
                dense_in=w["dense_in"],
                dense_out=w["dense_out"],
            )
        case "jumprelu" | "batchtopk" | "matryoshka_batchtopk":
            given = next(
                (name for name in ("threshold", "topk_threshold", "log_threshold") if name in tensors),
                "threshold",
            )
            w = named(tensors, (*base, given), where=folder, what=what)
            threshold = w[given].exp() if given == "log_threshold" else w[given]
            if threshold.ndim == 0:
                threshold = threshold.expand(len(w["b_enc"])).clone()
            found = Dictionary(w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], 0, threshold=threshold)
        case "gated":
            w = named(
                tensors, ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"), where=folder, what=what
            )
            gain = w["r_mag"].exp()
            # it fires where x W + b_gate > 0, which is where its magnitude x W e^r + b_mag is above b_mag −
            # b_gate e^r
            found = Dictionary(
                w["W_enc"] * gain,
                w["b_mag"],
                w["W_dec"],
                w["b_dec"],
                0,
                threshold=w["b_mag"] - w["b_gate"] * gain,
            )
        case _:
            known = (
                f"standard, topk, jumprelu, gated, {', '.join(TRAINED_AS_THRESHOLD)}, {DENSE_ARCHITECTURE}"
            )
            raise CheckpointError(
                f"{folder}: architecture '{architecture}' is not one that can be read here ({known})."
            )
    return found


def _as_trained(folder: Path, found: Dictionary, settings: dict[str, Any]) -> Dictionary:
    """The dictionary with what SAELens does to its input, selection and scale folded in."""
    if settings["apply_b_dec_to_input"]:
        found = replace(found, b_enc=found.b_enc - found.b_dec @ found.W_enc)
    if settings.get("rescale_acts_by_decoder_norm"):
        norms = found.W_dec.norm(dim=-1).clamp_min(1e-8)
        found = replace(
            found, W_enc=found.W_enc * norms, b_enc=found.b_enc * norms, W_dec=found.W_dec / norms[:, None]
        )
    match settings.get("normalize_activations"):
        case None | "none":
            pass
        case "constant_norm_rescale":
            found = replace(found, normalise="constant_norm")
        case "layer_norm":
            found = replace(found, normalise="layer_norm")
        case "expected_average_only_in":
            found = found.fold(torch.zeros_like(found.b_dec), _unfolded_scale(folder))
        case other:
            raise CheckpointError(
                f"{folder}: normalize_activations is {other!r} and not folded into the weights, as SAELens does when training ends."
            )
    if _reads_centred_stream(settings) and found.normalise != "layer_norm":
        if found.normalise != "none" or found.dense_in is not None:
            raise CheckpointError(
                f"{folder}: center_writing_weights together with {found.normalise} is not read here."
            )
        found = found.centred()
    return found


def _unfolded_scale(folder: Path) -> float:
    """SAELens folds the scale in when training ends; a checkpoint from before that keeps it in a file of its
    own.
    """
    beside = folder / "activation_scaler.json"
    scale = read_json(beside).get("scaling_factor") if beside.is_file() else None
    if not isinstance(scale, int | float) or scale <= 0:
        raise CheckpointError(
            f"{folder}: normalize_activations is 'expected_average_only_in', so its inputs were scaled by a number that is not in the "
            "folder. Write it into activation_scaler.json beside the weights: "
            '{"scaling_factor": …} (pretrained_saes.yaml calls it norm_scaling_factor; 1.0 if it is folded in already).'
        )
    return float(scale)


def _reads_centred_stream(settings: dict[str, Any]) -> bool:
    """Was the residual stream's mean over the width taken off before it was read?

    TransformerLens did so by default, to models with LayerNorm, in the days when SAELens wrote `hook_point`;
    later files say it.
    """
    recorded = settings["metadata"].get("model_from_pretrained_kwargs")
    if isinstance(recorded, dict) and "center_writing_weights" in recorded:
        return bool(recorded["center_writing_weights"])
    return (
        recorded is None
        and "hook_point_layer" in settings
        and bool(CENTRED_MODELS.search(str(settings.get("model_name"))))
    )
