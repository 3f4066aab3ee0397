"""SAELens's dictionaries, read so that they encode as its own code would; lexiscope's own have the same
layout.

What SAELens does around the two matrix products is folded into the weights: a bias subtracted from the input,
decoder norms in the selection, a gate, a training-time scale. What cannot be folded is refused, because it
would be read wrongly in silence.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lexiscope.adaptive_selection import Blocks, NormMatch, Sparsemax, TwoSided
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.formats.stored import (
    LEAST_NORM,
    Format,
    StoredDictionary,
    block_of,
    check_widths,
    drop_unit_scaling,
    gated_dictionary,
    metadata_of,
    named,
    read_json,
    read_tensors,
    whole_k,
)
from lexiscope.selection import AbsTopK, GroupTopK, Pursuit, Selection, Threshold, TopK

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
TRAINED_AS_THRESHOLD = ("batchtopk", "matryoshka_batchtopk")
"""SAELens saves these as `jumprelu` when training ends; its training checkpoints keep the name, and one
threshold for all features.
"""
GATED = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
THRESHOLDS = ("threshold", "topk_threshold", "log_threshold")
"""Where an architecture keeps its thresholds; one for all features in a training checkpoint of BatchTopK."""
BY_K: dict[str, type[TopK] | type[AbsTopK]] = {"topk": TopK, "abstopk": AbsTopK}
OWN_KINDS = ("bagging", "boosting", "pursuit", "blocks", "normmatch", "sparsemax", "twosided")
"""Selections that no architecture of SAELens has."""
REFUSED = {
    "matching_pursuit": "its code is found by iteration",
    "temporal": "its code depends on the tokens before",
}
TRANSCODERS = {
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
"""SAELens's transcoders, and how each selects."""
OWN = re.compile(
    rf"lexiscope_(abstopk|topk|standard|jumprelu|{'|'.join(OWN_KINDS)})(_dense)?(_lookup)?(_transcoder)?"
)
"""Dictionaries that no architecture of SAELens describes: `_dense` has a dense path, `_lookup` a token
look-up, `_transcoder` writes another hook point."""
CENTRED_MODELS = re.compile(
    r"(^|/)(gpt2|distilgpt2|pythia|gpt-neo|gpt-j|opt-|tiny-stories|stanford-gpt2|gelu-|solu-|attn-only)",
    re.IGNORECASE,
)
"""Models with LayerNorm, which TransformerLens loaded with a centred residual stream unless told not to."""


UNPROCESSED = (3, 19, 2)
"""The version of SAELens (September 2024) from which language models are loaded as they are."""


def at(path: Path) -> list[Path]:
    """The dictionary's folder that `path` is, or that holds the file `path`."""
    folder = path.parent if path.name in (CONFIG, WEIGHTS) else path
    return [folder] if (folder / WEIGHTS).is_file() else []


def read(folder: Path) -> StoredDictionary:
    """A SAELens folder of any version, and lexiscope's own, which has the same layout. Raises
    CheckpointError.
    """
    config = read_json(folder / CONFIG)
    settings = _current_spelling(folder / CONFIG, config)
    architecture = str(settings["architecture"])
    if architecture in REFUSED:
        raise CheckpointError(
            f"{folder}: a SAELens '{architecture}' is not read here, because {REFUSED[architecture]}."
        )
    if settings.get("reshape_activations") not in (None, "none"):
        raise CheckpointError(
            f"{folder}: reshape_activations is {settings['reshape_activations']!r}: it reads attention "
            "heads, not the residual stream."
        )
    tensors = read_tensors(folder / WEIGHTS)
    drop_unit_scaling(tensors, folder)
    transcoder = architecture in TRANSCODERS or architecture.endswith("_transcoder")
    if transcoder:
        settings["apply_b_dec_to_input"] = False
    dictionary = _saelens_dictionary(folder, architecture, settings, tensors)
    check_widths(
        folder,
        dictionary,
        settings.get("d_in"),
        settings.get("d_sae"),
        settings.get("d_out") if transcoder else None,
    )
    metadata = settings["metadata"]
    dictionary, notes = _as_trained(folder, dictionary, settings)
    if transcoder and dictionary.normalise != "none":
        raise CheckpointError(f"{folder}: a transcoder that normalises its input is not read here.")
    hook = str(metadata.get("hook_name") or "")
    if metadata.get("hook_head_index") is not None:
        hook = f"{hook} head {metadata['hook_head_index']}"
    return StoredDictionary(
        dictionary,
        "saelens",
        architecture,
        hook,
        str(metadata.get("model_name") or ""),
        config,
        str(metadata.get("hook_name_out") or "another hook point") if transcoder else "",
        notes=notes,
    )


class SaelensFiles(NamedTuple):
    """A dictionary as SAELens 6 stores it."""

    config: dict[str, Any]
    """cfg.json without metadata"""
    tensors: dict[str, Tensor]

    @property
    def own(self) -> bool:
        """Is its architecture one that SAELens lacks?"""
        return OWN.fullmatch(self.config["architecture"]) is not None


def layout(dictionary: Dictionary, *, transcoder: bool) -> SaelensFiles:
    """The inverse of `read`. A combination that SAELens lacks gets an architecture of its own
    (`lexiscope_…`), so that SAELens refuses it instead of reconstructing wrongly.

    Raises CheckpointError for a selection that has no spelling here.
    """
    kind, config = _spelling(dictionary.selection)
    beside = "_dense" if dictionary.dense_in is not None else ""
    beside += "_lookup" if dictionary.lookup is not None else ""
    architecture = kind
    if transcoder and kind not in BY_K and not beside:
        architecture = "transcoder" if kind == "standard" else "jumprelu_transcoder"
    elif beside or transcoder or kind in OWN_KINDS:
        architecture = f"lexiscope_{kind}{beside}{'_transcoder' if transcoder else ''}"
    normalise = dictionary.normalise
    config |= {
        "architecture": architecture,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "constant_norm_rescale" if normalise == "constant_norm" else normalise,
        "reshape_activations": "none",
    }
    if transcoder:
        config["d_out"] = dictionary.d_out
    if "k" in config:
        config["rescale_acts_by_decoder_norm"] = False
    tensors = dictionary.tensors()
    if kind == "standard":
        del tensors["threshold"]
    stored = {name: tensor.contiguous().float() for name, tensor in tensors.items() if name != "lookup"}
    if dictionary.lookup is not None:
        stored["lookup"] = dictionary.lookup.contiguous()
    return SaelensFiles(config, stored)


SPELLED: dict[type[Selection], tuple[str, dict[str, str]]] = {
    TopK: ("topk", {"k": "k"}),
    AbsTopK: ("abstopk", {"k": "k"}),
    Pursuit: ("pursuit", {"k": "k"}),
    NormMatch: ("normmatch", {"k": "k"}),
    Blocks: ("blocks", {"k": "k", "block_size": "size"}),
    Sparsemax: ("sparsemax", {"scale": "scale"}),
    TwoSided: ("twosided", {}),
}
"""A selection's kind, and its settings: {key in cfg.json: field}."""


def _spelling(selection: Selection) -> tuple[str, dict[str, Any]]:
    """(kind, settings) of a selection. Raises CheckpointError for one that has no spelling here."""
    match selection:
        case GroupTopK():
            kind = "boosting" if selection.boosted else "bagging"
            return kind, {"k": selection.k, "groups": selection.groups}
        case Threshold():
            return "jumprelu" if bool((selection.threshold != 0).any()) else "standard", {}
    if type(selection) not in SPELLED:
        raise CheckpointError(f"A selection by {type(selection).__name__} has no place in a checkpoint yet.")
    kind, fields = SPELLED[type(selection)]
    return kind, {key: getattr(selection, field) for key, field in fields.items()}


def _current_spelling(path: Path, config: dict[str, Any]) -> dict[str, Any]:
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
    arguments = block_of(path, found, "activation_fn_kwargs")
    if found["activation_fn"] == "topk" and arguments.get("k") is not None:
        found |= {"architecture": "topk", "k": arguments["k"]}
    if isinstance(found.get("normalize_activations"), bool):
        found["normalize_activations"] = (
            "expected_average_only_in" if found["normalize_activations"] else "none"
        )
    beside = (
        "hook_name",
        "hook_head_index",
        "model_name",
        "neuronpedia_id",
        "context_size",
        "prepend_bos",
        "model_from_pretrained_kwargs",
    )
    found["metadata"] = {key: found[key] for key in beside if key in found} | metadata_of(found)
    return found


def _saelens_dictionary(
    folder: Path, architecture: str, settings: dict[str, Any], tensors: dict[str, Tensor]
) -> Dictionary:
    what = f"a SAELens '{architecture}'"
    if settings["activation_fn"] not in ("relu", "topk"):
        raise CheckpointError(
            f"{folder}: activation_fn is '{settings['activation_fn']}'; relu and topk are read here."
        )
    if architecture == "gated":
        w = named(tensors, GATED, where=folder, what=what)
        return gated_dictionary(
            w["W_enc"],
            w["W_dec"],
            w["b_dec"],
            gate=w["b_gate"],
            magnitude=w["b_mag"],
            log_gain=w["r_mag"],
        )
    own = OWN.fullmatch(architecture)
    kind = own[1] if own else TRANSCODERS.get(architecture, architecture)
    beside: tuple[str, ...] = ()
    if own:
        beside = (("dense_in", "dense_out") if own[2] else ()) + (("lookup",) if own[3] else ())
    elif architecture in TRANSCODERS and "skip" in architecture:
        beside = ("W_skip",)
    threshold = ""
    if kind == "twosided":
        beside = (*beside, "threshold")
    elif kind in ("jumprelu", *TRAINED_AS_THRESHOLD):
        threshold = next((name for name in THRESHOLDS if name in tensors), "threshold")
        beside = (*beside, threshold)
    elif kind not in ("standard", *BY_K) and not (own and kind in OWN_KINDS):
        known = ", ".join(("standard", *BY_K, "jumprelu", "gated", *TRAINED_AS_THRESHOLD, *TRANSCODERS))
        raise CheckpointError(
            f"{folder}: architecture '{architecture}' is not one that can be read here ({known})."
        )
    w = named(tensors, ("W_enc", "b_enc", "W_dec", "b_dec", *beside), where=folder, what=what)
    selection: Selection
    if kind in BY_K:
        selection = BY_K[kind](whole_k(folder, settings, w["b_enc"]))
    elif kind in OWN_KINDS:
        selection = _own_selection(folder, kind, settings, w)
    elif threshold:
        level = w[threshold].exp() if threshold == "log_threshold" else w[threshold]
        selection = Threshold(level.expand(len(w["b_enc"])).clone() if level.ndim == 0 else level)
    else:
        selection = Threshold(torch.zeros_like(w["b_enc"]))
    dense_in, dense_out = w.get("dense_in"), w.get("dense_out")
    if "W_skip" in w:
        dense_in, dense_out = w["W_skip"].T, torch.eye(len(w["W_skip"]))
    return Dictionary(
        w["W_enc"],
        w["b_enc"],
        w["W_dec"],
        w["b_dec"],
        selection,
        dense_in,
        dense_out,
        lookup=None if "lookup" not in w else w["lookup"].bfloat16(),
    )


def _own_selection(folder: Path, kind: str, settings: dict[str, Any], w: dict[str, Tensor]) -> Selection:
    if kind == "twosided":
        return TwoSided(w["threshold"])
    if kind == "sparsemax":
        scale = settings.get("scale")
        if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
            raise CheckpointError(f"{folder}: scale is {scale!r}; it must be a finite number above 0.")
        return Sparsemax(float(scale))
    k = whole_k(folder, settings, w["b_enc"])
    if kind == "pursuit":
        return Pursuit(k)
    if kind == "normmatch":
        return NormMatch(k)
    field = "block_size" if kind == "blocks" else "groups"
    parts, width = settings.get(field), len(w["b_enc"])
    if not isinstance(parts, int) or parts < 1 or width % parts or k % parts:
        raise CheckpointError(
            f"{folder}: {field} is {parts!r}; it must be a whole number that divides k, {k}, and the width, "
            f"{width:,}."
        )
    return Blocks(k, parts) if kind == "blocks" else GroupTopK(k, parts, boosted=kind == "boosting")


def _as_trained(
    folder: Path, found: Dictionary, settings: dict[str, Any]
) -> tuple[Dictionary, tuple[str, ...]]:
    """The dictionary with what SAELens does to its input, selection and scale folded in, and a note on each
    convention that its files do not spell out.
    """
    notes: list[str] = []
    if settings["apply_b_dec_to_input"]:
        found = replace(found, b_enc=found.b_enc - found.b_dec @ found.W_enc)
    if settings.get("rescale_acts_by_decoder_norm"):
        norms = found.W_dec.norm(dim=-1).clamp_min(LEAST_NORM)
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
            scale = _unfolded_scale(folder)
            found = found.fold(torch.zeros_like(found.b_dec), scale)
            notes.append(
                f"activations were scaled by {scale:.4g} in training: the scale is folded into the weights"
            )
        case other:
            raise CheckpointError(
                f"{folder}: normalize_activations is {other!r} and not folded into the weights, as SAELens "
                "does when training ends."
            )
    if _reads_centred_stream(settings) and found.normalise != "layer_norm":
        if found.normalise != "none" or found.dense_in is not None:
            raise CheckpointError(
                f"{folder}: center_writing_weights together with {found.normalise} is not read here."
            )
        found = found.centred()
        notes.append(
            "it was trained on a residual stream without its mean over the width (TransformerLens's "
            "center_writing_weights, SAELens's default before September 2024): that is folded into the "
            "weights"
        )
    return found, tuple(notes)


def _unfolded_scale(folder: Path) -> float:
    """SAELens folds the scale in when training ends; a checkpoint from before that keeps it in a file of its
    own.
    """
    beside = folder / "activation_scaler.json"
    scale = read_json(beside).get("scaling_factor") if beside.is_file() else None
    if not isinstance(scale, int | float) or scale <= 0:
        raise CheckpointError(
            f"{folder}: normalize_activations is 'expected_average_only_in', so its inputs were scaled by a "
            "number that is not in the folder. Write it into activation_scaler.json beside the weights: "
            '{"scaling_factor": …} (pretrained_saes.yaml calls it norm_scaling_factor; 1.0 if it is folded '
            "in already)."
        )
    return float(scale)


def _reads_centred_stream(settings: dict[str, Any]) -> bool:
    """Was the residual stream's mean over the width taken off before it was read?

    TransformerLens does so by default to models with LayerNorm, and SAELens trained on that until
    UNPROCESSED; since then its settings record `model_from_pretrained_kwargs`.
    """
    metadata = settings["metadata"]
    recorded = metadata.get("model_from_pretrained_kwargs")
    if isinstance(recorded, dict) and "center_writing_weights" in recorded:
        return bool(recorded["center_writing_weights"])
    version = _version(settings.get("sae_lens_training_version") or settings.get("sae_lens_version"))
    if version is None and metadata.get("sae_lens_version") is None:
        old = recorded is None and ("hook_point_layer" in settings or "hook_layer" in settings)
    else:
        old = version is not None and version < UNPROCESSED
    return old and CENTRED_MODELS.search(str(metadata.get("model_name"))) is not None


def _version(recorded: Any) -> tuple[int, ...] | None:
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", str(recorded))
    return tuple(map(int, numbers.groups())) if numbers else None


FORMAT = Format("Lexiscope, SAELens", f"{CONFIG} and {WEIGHTS}", at, read)
