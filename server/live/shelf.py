"""What the worker keeps in memory: language models by path, dictionaries by checkpoint path; the least recently used leaves first.

Used by one thread, the one that generates. A model or checkpoint that changed on disk is loaded afresh.
"""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from lexiscope.checkpoint import WEIGHTS, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.errors import LexiscopeError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.tokens import Vocabulary
from server.live.interventions import Loaded

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "dense_in", "dense_out", "threshold")


class Shelved(NamedTuple):
    """A language model with its vocabulary, ready to show tokens."""

    model: LanguageModel
    vocabulary: Vocabulary


class NotLoadable(LexiscopeError):
    """A model or checkpoint that the index points at and that cannot be loaded (any more)."""


class Shelf:
    def __init__(self, *, max_models: int = 2, dictionary_bytes: int = 2 << 30) -> None:
        self._max_models = max_models
        self._dictionary_bytes = dictionary_bytes
        self._models: OrderedDict[tuple[str, str, int], Shelved] = OrderedDict()
        self._dictionaries: OrderedDict[tuple[str, int, torch.device], Loaded] = OrderedDict()

    @property
    def models(self) -> list[str]:
        return [path for path, _, _ in list(self._models)]

    def model(self, path: str, model_id: str) -> Shelved:
        """Raises NotLoadable."""
        key = (path, model_id, _stamp(Path(path) / "config.json"))
        if key not in self._models:
            while len(self._models) >= self._max_models:
                self._models.popitem(last=False)
            try:
                model = load_language_model(path, model_id=model_id)
            except LexiscopeError as error:
                raise NotLoadable(str(error)) from error
            self._models[key] = Shelved(model, Vocabulary(model.tokenizer, model.vocab_size))
        self._models.move_to_end(key)
        return self._models[key]

    def dictionary(self, path: str, device: torch.device) -> Loaded:
        """Raises NotLoadable. One dictionary always fits, whatever the limit."""
        key = (path, _stamp(Path(path) / WEIGHTS), device)
        if key not in self._dictionaries:
            try:
                checkpoint = load_checkpoint(Path(path), anchors=False)
            except LexiscopeError as error:
                raise NotLoadable(str(error)) from error
            norm = checkpoint.details.get("mean_norm")
            self._make_room(_size(checkpoint.dictionary))
            self._dictionaries[key] = Loaded(_on(checkpoint.dictionary, device), None if norm is None else float(norm))
        self._dictionaries.move_to_end(key)
        return self._dictionaries[key]

    def _make_room(self, wanted: int) -> None:
        used = sum(_size(loaded.dictionary) for loaded in self._dictionaries.values())
        while self._dictionaries and used + wanted > self._dictionary_bytes:
            used -= _size(self._dictionaries.popitem(last=False)[1].dictionary)


def _stamp(path: Path) -> int:
    """When the file last changed; 0 for one that is not there (a hub's name, or gone: loading says so)."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _size(dictionary: Dictionary) -> int:
    return sum(tensor.nbytes for tensor in (getattr(dictionary, name) for name in TENSORS) if tensor is not None)


def _on(dictionary: Dictionary, device: torch.device) -> Dictionary:
    tensors = {name: getattr(dictionary, name) for name in TENSORS}
    return replace(dictionary, **{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})
