"""What the worker keeps in memory: language models and dictionaries by path, within one budget; the least
recently used leaves first.

A model or checkpoint that changed on disk is loaded afresh. Weights of dictionaries stored in float32 are
mapped from their file, not read. Methods may be called from any thread; what a request holds stays usable
after it has left the shelf.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.errors import LexiscopeError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.tokens import Vocabulary
from server.live.interventions import Loaded

Key = tuple[str, ...]


class Shelved(NamedTuple):
    """A language model with its vocabulary, ready to show tokens."""

    model: LanguageModel
    vocabulary: Vocabulary


class NotLoadable(LexiscopeError):
    """A model or checkpoint that the index points at and that cannot be loaded (any more)."""


class Shelf:
    """`memory` bytes are a budget, not a wall: what was asked for last always fits."""

    def __init__(
        self, *, memory: int = 4 << 30, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._memory = memory
        self._dtype = dtype
        self._kept: OrderedDict[Key, tuple[Shelved | Loaded, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def models(self) -> list[str]:
        with self._lock:
            return [key[1] for key, (kept, _) in self._kept.items() if isinstance(kept, Shelved)]

    @property
    def used(self) -> int:
        """Bytes of weights held."""
        with self._lock:
            return sum(size for _, size in self._kept.values())

    def has(self, model_path: str, model_id: str, checkpoint_paths: list[str]) -> bool:
        """Nothing of these would have to be loaded."""
        with self._lock:
            wanted = [_model_key(model_path, model_id), *map(_dictionary_key, checkpoint_paths)]
            return all(key in self._kept for key in wanted)

    def model(self, path: str, model_id: str) -> Shelved:
        """Raises NotLoadable."""
        kept = self._get(_model_key(path, model_id), lambda: self._load_model(path, model_id))
        assert isinstance(kept, Shelved)
        return kept

    def dictionary(self, path: str) -> Loaded:
        """Raises NotLoadable."""
        kept = self._get(_dictionary_key(path), lambda: self._load_dictionary(path))
        assert isinstance(kept, Loaded)
        return kept

    def _get(self, key: Key, load: Callable[[], tuple[Shelved | Loaded, int]]) -> Shelved | Loaded:
        found = self._look(key)
        if found is not None:
            return found
        with self._loading:
            found = self._look(key)
            if found is not None:
                return found
            try:
                loaded, size = load()
            except LexiscopeError as error:
                raise NotLoadable(str(error)) from error
            with self._lock:
                while self._kept and sum(size for _, size in self._kept.values()) + size > self._memory:
                    self._kept.popitem(last=False)
                self._kept[key] = (loaded, size)
            return loaded

    def _look(self, key: Key) -> Shelved | Loaded | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def prepare(self, model_path: str, model_id: str, checkpoint_paths: list[str]) -> Shelved:
        """The model, with these dictionaries loaded beside it. Raises NotLoadable."""
        shelved = self.model(model_path, model_id)
        for path in checkpoint_paths:
            self.dictionary(path)
        return shelved

    def _load_model(self, path: str, model_id: str) -> tuple[Shelved, int]:
        model = load_language_model(path, model_id=model_id, device=str(self.device), dtype=self._dtype)
        return Shelved(model, Vocabulary(model.tokenizer, model.vocab_size)), model.n_bytes

    def _load_dictionary(self, path: str) -> tuple[Loaded, int]:
        checkpoint = load_checkpoint(Path(path), anchors=False)
        checkpoint.refuse_transcoder()
        norm = checkpoint.details.get("mean_norm")
        dictionary = checkpoint.dictionary.map(lambda tensor: tensor.to(self.device))
        return Loaded(dictionary, None if norm is None else float(norm)), _size(dictionary)


def _model_key(path: str, model_id: str) -> Key:
    return ("model", path, model_id, _stamp(Path(path)))


def _dictionary_key(path: str) -> Key:
    return ("dictionary", path, _stamp(Path(path)))


def _stamp(path: Path) -> str:
    """When a file, or any in a folder, last changed; empty for one that is not there (a hub's name, or gone:
    loading says so).
    """
    try:
        files = list(path.iterdir()) if path.is_dir() else [path]
        return str(max((file.stat().st_mtime_ns for file in files), default=0))
    except OSError:
        return ""


def _size(dictionary: Dictionary) -> int:
    return sum(tensor.nbytes for tensor in dictionary.tensors().values())
