"""Load a language model from a Hugging Face folder, a `.gguf` file or the hub."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from lexiscope.errors import ModelError
from lexiscope.language_model.aliases import hub_name
from lexiscope.language_model.identity import identity_of
from lexiscope.language_model.model import LanguageModel
from lexiscope.records import RESERVED_MODEL_IDS

PROBE = 8
"""Tokens on which transformer-lens and transformers are compared."""
SAME = 0.95
"""Cosine of the logits of the two, from which on they differ by rounding alone."""


MAX_REASON = 300
"""Characters of a library's error that are shown."""


def model_slug(name: str) -> str:
    """A model id made from a folder, a GGUF file or a hub's `owner/name`: lower-case letters, digits, '-',
    '_' and '.'. Raises ModelError: the id is empty or reserved.
    """
    stem = Path(name).name.removesuffix(".gguf") or Path(name).resolve().name
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.")
    if not slug or slug in RESERVED_MODEL_IDS:
        raise ModelError(
            f"'{slug or name}' cannot be a model id (reserved or empty); give one with --model-id."
        )
    return slug


def load_language_model(
    name: str, *, model_id: str | None = None, device: str | None = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a model with weights in `dtype`. A hub's name, or TransformerLens's name for one, is fetched by
    transformers.

    Raises ModelError: a folder without configuration, tokenizer or weights, an unreadable file, an unknown
    architecture.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils
    from transformers.utils import logging as transformers_logging

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = (
        0  # an error, where transformers would ask to run a folder's code
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    slug = model_slug(model_id or name)
    given, name = name, hub_name(name)
    path = Path(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_files(name)
    try:
        if path.suffix == ".gguf":
            location = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        else:
            location = {"pretrained_model_name_or_path": name}
        tokenizer = AutoTokenizer.from_pretrained(**location, trust_remote_code=False)
        weights = AutoModelForCausalLM.from_pretrained(
            **location, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        weights = weights.eval().to(device)
        identity = identity_of(weights, tokenizer)  # before transformer-lens takes the modules apart
        expected = _probe_logits(weights)
        classes = [*(weights.config.architectures or []), type(weights).__name__]  # GGUF records none
        bridge = TransformerBridge.boot_transformers(
            name,
            hf_model=weights,
            tokenizer=_completable(tokenizer),
            device=device,
            dtype=dtype,
            hf_config_overrides={"architectures": classes},
        )
    except Exception as error:  # transformers and transformer-lens raise anything from OSError to KeyError
        shown = name if name == given else f"{given} ({name} on the hub)"
        local = "" if path.exists() else " If it lies in a folder, give that as the model."
        raise ModelError(f"{shown} cannot be loaded as a language model: {_reason(error)}{local}") from error
    bridge.eval().requires_grad_(False)
    _return_tuples(bridge)
    _check_logits(name, expected, _probe_logits(bridge))
    _check_cache(name, expected, bridge)
    return LanguageModel(bridge, tokenizer, str(path.resolve()) if path.exists() else name, slug, identity)


def _check_files(name: str) -> None:
    """Raises ModelError where `name` is a local path that holds no model."""
    path = Path(name)
    is_local = path.exists() or name.startswith((".", "/", "~")) or path.suffix == ".gguf"
    if is_local and not path.exists():
        raise ModelError(f"There is no model at {name}.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{name} is no Hugging Face model folder: it has no config.json.")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise ModelError(f"{name} has no weights: no *.safetensors file lies beside its config.json.")


@torch.inference_mode()
def _probe_logits(model: Any) -> torch.Tensor:
    """[positions, vocab] logits of a few tokens, centred."""
    weights = next(model.parameters())
    output = model(torch.arange(1, 1 + PROBE, device=weights.device)[None])
    logits: torch.Tensor = getattr(output, "logits", output)[0].float()
    return logits - logits.mean(-1, keepdim=True)


def _check_logits(name: str, expected: torch.Tensor, ours: torch.Tensor) -> None:
    """Raises ModelError where transformer-lens computes another model than transformers."""
    same = expected.shape == ours.shape
    cosine = torch.nn.functional.cosine_similarity(expected, ours, dim=-1).min().item() if same else 0.0
    if not cosine >= SAME:  # also where it is not a number
        raise ModelError(
            f"{name} is not supported: transformer-lens does not compute the logits that transformers"
            f" computes (their cosine is {cosine:.2f})."
        )


@torch.inference_mode()
def _check_cache(name: str, expected: torch.Tensor, bridge: Any) -> None:
    """Raises ModelError where a text that goes on from the model's cache is another text to it: RWKV, for
    example, keeps its state elsewhere.
    """
    half = PROBE // 2
    tokens = torch.arange(1, 1 + PROBE, device=next(bridge.parameters()).device)[None]
    try:
        cache = bridge(tokens[:, :half], return_type="logits_and_cache")[1]
        logits = bridge(tokens[:, half:], return_type="logits_and_cache", past_key_values=cache)[0][0].float()
    except Exception as error:  # whatever the architecture's own code raises
        raise ModelError(
            f"{name} is not supported: it cannot go on from its cache ({_reason(error)})."
        ) from error
    same = torch.nn.functional.cosine_similarity(
        logits - logits.mean(-1, keepdim=True), expected[half:], dim=-1
    ).min()
    if not same >= SAME:
        raise ModelError(
            f"{name} is not supported: going on from its cache gives other logits than the whole text (their"
            f" cosine is {same:.2f}), so that it cannot be steered."
        )


def _completable(tokenizer: Any) -> Any:
    """transformer-lens adds a BOS or EOS token to a tokenizer that has none: it is given a copy."""
    return deepcopy(tokenizer) if None in (tokenizer.bos_token, tokenizer.eos_token) else tokenizer


def _return_tuples(bridge: Any) -> None:
    """GPT-1's blocks return a list, whose first entry transformer-lens does not hook; a tuple's it does."""
    for block in getattr(bridge, "blocks", ()):
        block.original_component.register_forward_hook(
            lambda module, inputs, output: tuple(output) if isinstance(output, list) else None
        )


def _reason(error: Exception) -> str:
    """The first line of an error, without the list of everything that transformer-lens supports."""
    line = next(iter(str(error).splitlines()), "")
    unknown = re.search(r"Config architectures: (\[.*?\]), Model type: (\w+)", line)
    if unknown:
        return f"transformer-lens does not support its architecture ({unknown[1]}, model type {unknown[2]})."
    return f"{type(error).__name__}: {line[:MAX_REASON]}{' …' if len(line) > MAX_REASON else ''}"
