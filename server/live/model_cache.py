"""Language models and dictionaries in memory, by path, within a budget. The least recently used are dropped
first.

A model or checkpoint whose file has changed is loaded again. Dictionary weights stored in float32 are
memory-mapped. Methods may be called from any thread. Objects that a job holds stay usable after they are
dropped.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import LexiscopeError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.tokens import Vocabulary
from server.live.interventions import LoadedDictionary

Key = tuple[str, ...]


class CachedModel(NamedTuple):
    """A language model with its vocabulary."""

    model: LanguageModel
    vocabulary: Vocabulary


class NotLoadable(LexiscopeError):
    """A model or checkpoint that the index refers to and that cannot be loaded."""


class _Sized(NamedTuple):
    item: CachedModel | LoadedDictionary
    n_bytes: int


class ModelCache:
    """`memory` is the budget in bytes. What was requested last is kept even if it is larger: an item, or a
    model and the dictionaries that one call of `prepare` asks for.
    """

    def __init__(
        self, *, memory: int = 4 << 30, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._memory = memory
        self._dtype = dtype
        self._items: OrderedDict[Key, _Sized] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def models(self) -> list[str]:
        """Ids of the models in memory."""
        with self._lock:
            return [key[2] for key, sized in self._items.items() if isinstance(sized.item, CachedModel)]

    @property
    def n_bytes(self) -> int:
        """Size of the weights in memory."""
        with self._lock:
            return sum(sized.n_bytes for sized in self._items.values())

    def has(self, model_path: str, model_id: str, checkpoints: list[str]) -> bool:
        """Whether the model and all these dictionaries are in memory."""
        with self._lock:
            keys = [_model_key(model_path, model_id), *map(_dictionary_key, checkpoints)]
            return all(key in self._items for key in keys)

    def prepare(self, model_path: str, model_id: str, checkpoints: list[str]) -> CachedModel:
        """The model, after these dictionaries were loaded too. They stay in memory together, whatever their
        size. Raises NotLoadable.
        """
        key, others = _model_key(model_path, model_id), [_dictionary_key(path) for path in checkpoints]
        cached = self._get(key, partial(self._load_model, model_path, model_id), others)
        for other, path in zip(others, checkpoints, strict=True):
            self._get(other, partial(self._load_dictionary, path), [key, *others])
        assert isinstance(cached, CachedModel)
        return cached

    def model(self, path: str, model_id: str) -> CachedModel:
        """Raises NotLoadable."""
        item = self._get(_model_key(path, model_id), lambda: self._load_model(path, model_id))
        assert isinstance(item, CachedModel)
        return item

    def dictionary(self, path: str) -> LoadedDictionary:
        """Raises NotLoadable."""
        item = self._get(_dictionary_key(path), lambda: self._load_dictionary(path))
        assert isinstance(item, LoadedDictionary)
        return item

    def _get(
        self, key: Key, load: Callable[[], _Sized], together: Collection[Key] = ()
    ) -> CachedModel | LoadedDictionary:
        """An item, loaded if need be; that removes nothing that is used `together` with it."""
        item = self._look_up(key)
        if item is not None:
            return item
        with self._loading:
            item = self._look_up(key)
            if item is not None:
                return item
            _refuse_moved(key[1])
            try:
                loaded = load()
            except LexiscopeError as error:
                raise NotLoadable(str(error)) from error
            with self._lock:
                room = self._memory - loaded.n_bytes
                for old in [other for other in self._items if other not in together]:
                    if sum(sized.n_bytes for sized in self._items.values()) <= room:
                        break
                    del self._items[old]
                self._items[key] = loaded
            return loaded.item

    def _look_up(self, key: Key) -> CachedModel | LoadedDictionary | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key].item

    def _load_model(self, path: str, model_id: str) -> _Sized:
        model = load_language_model(path, model_id=model_id, device=str(self.device), dtype=self._dtype)
        return _Sized(CachedModel(model, Vocabulary(model.tokenizer, model.vocab_size)), model.n_bytes)

    def _load_dictionary(self, path: str) -> _Sized:
        checkpoint = load_checkpoint(Path(path), anchors=False)
        checkpoint.refuse_transcoder()
        mean_norm = checkpoint.details.get("mean_norm")
        identity = checkpoint.dictionary.identity
        dictionary = checkpoint.dictionary.map(lambda tensor: tensor.to(self.device))
        n_bytes = sum(tensor.nbytes for tensor in dictionary.tensors().values())
        mean_norm = None if mean_norm is None else float(mean_norm)
        return _Sized(LoadedDictionary(dictionary, mean_norm, identity), n_bytes)


def _refuse_moved(path: str) -> None:
    """Raises NotLoadable for a path of the index where nothing is any more. A hub's name is no such path."""
    if Path(path).is_absolute() and not Path(path).exists():
        raise NotLoadable(
            f"{path}, which the index refers to, is no longer there. Move it back, or index its dictionaries "
            "again from where it is now."
        )


def _model_key(path: str, model_id: str) -> Key:
    return ("model", path, model_id, _last_change(Path(path)))


def _dictionary_key(path: str) -> Key:
    return ("dictionary", path, _last_change(Path(path)))


def _last_change(path: Path) -> str:
    """The modification time of a file, or the latest in a folder. Empty if there is none: the path is a hub's
    name, or loading will report that it is missing.
    """
    try:
        files = list(path.iterdir()) if path.is_dir() else [path]
        return str(max((file.stat().st_mtime_ns for file in files), default=0))
    except OSError:
        return ""
