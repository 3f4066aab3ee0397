"""Activations kept on disk, for later runs and seeds: `--cache DIR`.

    DIR/<model-id>-<key>/manifest.json   what they are of: model, its weights, text, length, tokens, the held-out rule
                         tokens.npy      [n] int32 the token each row stands on
                         <layer>.bf16    [n, d_model], one file a layer

Files appear under their names only when whole, and the manifest before any layer: a killed run leaves nothing
that would be used. Layers that are missing are added by one more pass of the model.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from trainer.disk import whole
from trainer.harvest import (
    BYTES,
    Harvest,
    HarvestError,
    count,
    map_activations,
    neighbours,
    write_activations,
)

MANIFEST, TOKENS = "manifest.json", "tokens.npy"


class Origin(NamedTuple):
    """What cached activations are of: equal origins, equal activations."""

    model: str
    weights: str
    """the language model's fingerprint"""
    text: str
    """the text's fingerprint"""
    length: int
    """positions of a passage, BOS included"""
    tokens: int
    """tokens asked for: the text may hold fewer"""
    held_out: str
    """which passages were left out for evaluation"""

    @property
    def key(self) -> str:
        """A short id of everything but the model: another model of the same id meets the same folder, and is
        refused.
        """
        return sha256(json.dumps(self[2:]).encode()).hexdigest()[:8]


def cached(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    *,
    layers: Sequence[int],
    origin: Origin,
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> Harvest:
    """The activations of the passages from the cache under `folder`; what is missing is harvested into it
    first.

    `folder` may also be one cache itself (it holds a manifest). Raises HarvestError where that is of another
    model, text or length, or damaged; and as `trainer.harvest.harvest`.
    """
    where = place(folder, origin)
    try:
        where.mkdir(parents=True, exist_ok=True)
        with _locked(where):
            _claim(where, origin)
            return _filled(model, passages, layers, where, advance)
    except OSError as error:
        raise HarvestError(f"The cache at {where} cannot be used: {error.strerror or error}.") from error


def place(folder: Path, origin: Origin) -> Path:
    """Where the activations of `origin` lie, or will."""
    return folder if (folder / MANIFEST).is_file() else folder / f"{origin.model}-{origin.key}"


def refuse_foreign(where: Path, origin: Origin) -> None:
    """Raises HarvestError where a cache stands at `where` that is not of `origin`."""
    file = where / MANIFEST
    if not file.is_file():
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HarvestError(f"{file} is damaged: {error}. Remove {where}, or give another --cache.") from error
    wrong = [
        f"{name} {found.get(name)!r}, not {value!r}"
        for name, value in origin._asdict().items()
        if found.get(name) != value
    ]
    if wrong:
        raise HarvestError(
            f"The cache at {where} holds other activations ({'; '.join(wrong)}). It is kept as it is: give another folder with --cache, "
            "or remove it first."
        )


def _claim(where: Path, origin: Origin) -> None:
    refuse_foreign(where, origin)
    if not (where / MANIFEST).exists():
        with whole(where / MANIFEST) as partial:
            partial.write_text(json.dumps(origin._asdict(), indent=1) + "\n", encoding="utf-8")


def _filled(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    layers: Sequence[int],
    where: Path,
    advance: Callable[[int], None],
) -> Harvest:
    n = count(passages)
    files = {layer: where / f"{layer}.bf16" for layer in layers}
    missing = {layer: file for layer, file in files.items() if not file.exists()}
    if missing:
        partial = {layer: file.with_suffix(".partial") for layer, file in missing.items()}
        try:
            tokens = write_activations(model, passages, partial, advance=advance)
            _keep_tokens(where, tokens)
            for layer, file in missing.items():
                os.replace(partial[layer], file)
        finally:
            for file in partial.values():
                file.unlink(missing_ok=True)
    tokens = torch.from_numpy(np.load(where / TOKENS)).long()
    for file in files.values():
        if len(tokens) != n or file.stat().st_size != n * model.d_model * BYTES:
            raise HarvestError(
                f"{file} is not of the {n:,} tokens of this text: it is damaged. Remove {where}, or give another --cache."
            )
    return Harvest(
        {layer: map_activations(file, n) for layer, file in files.items()}, tokens, *neighbours(passages)
    )


def _keep_tokens(where: Path, tokens: Tensor) -> None:
    file = where / TOKENS
    if not file.exists():
        with whole(file) as partial, partial.open("wb") as sink:
            np.save(sink, tokens.int().numpy())
    elif not np.array_equal(np.load(file), tokens.numpy()):
        raise HarvestError(
            f"{file} holds other tokens than this text gives: the tokenizer has changed. Give another --cache."
        )


@contextmanager
def _locked(where: Path) -> Iterator[None]:
    """One process at a time fills a cache; the lock dies with its process."""
    with (where / "LOCK").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
