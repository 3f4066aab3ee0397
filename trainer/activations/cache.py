"""Activations kept on disk, for later runs and seeds: `--cache DIR`.

    DIR/<model-id>-<key>/manifest.json   what they are of: model, its weights, text, length, tokens, held-out
    rule
                         tokens.npy      [n] int32 the token each row stands on
                         <layer>.bf16    [n, d_model], one file a layer; <layer>.mlp_in.bf16 and _out for
                         transcoders

Files appear under their names only when whole, and the manifest before any layer: a killed run leaves nothing
that would be used. Layers that are missing are added by one more pass of the model.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lexiscope.files import lock, replace_file
from lexiscope.language_model import LanguageModel, Point
from trainer.activations.harvest import (
    BYTES,
    Harvest,
    HarvestError,
    Positions,
    layout,
    map_activations,
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
    """--tokens; the text may hold fewer"""
    held_out: str
    """which passages were left out for evaluation"""
    positions: Positions = "after-first"
    """which positions of a passage are kept"""
    precision: str = "float32"
    """what the model multiplied in (`lexiscope.precision`)"""

    def manifest(self) -> dict[str, str | int]:
        """What the manifest holds; `positions` and `precision` are written only where they are not the
        default, which older caches lack.
        """
        fields: dict[str, str | int] = self._asdict()
        for name in ("positions", "precision"):
            if fields[name] == self._field_defaults[name]:
                del fields[name]
        return fields

    @property
    def key(self) -> str:
        """A short id of everything but the model and its weights: another model of the same id finds the same
        folder, and is refused.
        """
        return sha256(json.dumps(list(self.manifest().values())[2:]).encode()).hexdigest()[:8]


def cached(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    *,
    layers: Sequence[Point],
    origin: Origin,
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> Harvest:
    """The activations of the passages from the cache under `folder`; what is missing is harvested into it
    first.

    `folder` may also be one cache itself (it holds a manifest). Raises HarvestError where that is of another
    model, text or length, or damaged; and as `trainer.activations.harvest`.
    """
    where = place(folder, origin)
    try:
        where.mkdir(parents=True, exist_ok=True)
        with lock(where / "LOCK", wait=True):
            _claim(where, origin)
            return _filled(model, passages, layers, where, origin.positions, advance)
    except OSError as error:
        raise HarvestError(f"The cache at {where} cannot be used: {error.strerror or error}.") from error


def place(folder: Path, origin: Origin) -> Path:
    """Where the activations of `origin` are, or will be."""
    return folder if (folder / MANIFEST).is_file() else folder / f"{origin.model}-{origin.key}"


def refuse_foreign(where: Path, origin: Origin) -> None:
    """Raises HarvestError where the cache at `where` is not of `origin`."""
    file = where / MANIFEST
    if not file.is_file():
        return
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HarvestError(f"{file} is damaged: {error}. Remove {where}, or give another --cache.") from error
    wanted = origin.manifest()
    wrong = [
        f"{name} {recorded.get(name)!r}, not {wanted.get(name)!r}"
        for name in wanted | recorded
        if recorded.get(name) != wanted.get(name)
    ]
    if wrong:
        raise HarvestError(
            f"The cache at {where} holds other activations ({'; '.join(wrong)}). It is kept as it is: give "
            "another folder with --cache, or remove it first."
        )


def _claim(where: Path, origin: Origin) -> None:
    refuse_foreign(where, origin)
    if not (where / MANIFEST).exists():
        with replace_file(where / MANIFEST) as partial:
            partial.write_text(json.dumps(origin.manifest(), indent=1) + "\n", encoding="utf-8")


def _filled(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    layers: Sequence[Point],
    where: Path,
    positions: Positions,
    advance: Callable[[int], None],
) -> Harvest:
    laid_out = layout(passages, positions)
    n = len(laid_out.tokens)
    files: dict[Point, Path] = {layer: where / f"{layer}.bf16" for layer in layers}
    missing = {layer: file for layer, file in files.items() if not file.exists()}
    _check_tokens(where, laid_out.tokens)
    if missing:
        with ExitStack() as writing:
            partial = {layer: writing.enter_context(replace_file(file)) for layer, file in missing.items()}
            write_activations(model, passages, partial, positions=positions, advance=advance)
            _keep_tokens(where, laid_out.tokens)
    for file in files.values():
        if file.stat().st_size != n * model.d_model * BYTES:
            raise HarvestError(
                f"{file} is not of the {n:,} tokens of this text: it is damaged. Remove {where}, or give "
                "another --cache."
            )
    return Harvest({layer: map_activations(file, n) for layer, file in files.items()}, laid_out)


def _check_tokens(where: Path, tokens: Tensor) -> None:
    file = where / TOKENS
    if file.exists() and not np.array_equal(np.load(file), tokens.numpy()):
        raise HarvestError(
            f"{file} holds other tokens than this text gives: the tokenizer has changed. Give another "
            "--cache."
        )


def _keep_tokens(where: Path, tokens: Tensor) -> None:
    if not (where / TOKENS).exists():
        with replace_file(where / TOKENS) as partial, partial.open("wb") as sink:
            np.save(sink, tokens.int().numpy())
