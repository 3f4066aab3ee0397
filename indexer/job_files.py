"""An unfinished job on disk, in a folder beside the index, so that a job that was killed can be resumed.

    work-<fingerprint>/
        all.npz                     the state of a job that is not sharded
        shard-2-of-8.npz            of a finished shard; shard-2-of-8.partial.npz while it is unfinished
        fit-0.npz                   anchors of layer 0, fitted for dictionaries that carry none
        LOCK-<name>                 held by the process that writes <name>.npz
        LOCK-fits                   held by the process that fits anchors

The fingerprint covers dictionaries, model, text and settings; the work of any other job is in another folder.
Files are replaced as a whole.
"""

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from indexer.counts.state import PassState, StateShape, merge
from indexer.errors import IndexingError
from indexer.text_pass.blocks import Shard
from lexiscope import files
from lexiscope.checkpoint import AnchorFit

PARTIAL = ".partial"
ALL = "all"
KEPT = "The index that is served is unchanged."


def fingerprint(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:12]


class JobFolder:
    def __init__(self, root: Path, key: str, shape: StateShape, shard: Shard | None) -> None:
        self.path, self.shape, self.shard = root / f"work-{key}", shape, shard

    @property
    def name(self) -> str:
        return ALL if self.shard is None else f"shard-{self.shard.number}-of-{self.shard.of}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Raises IndexingError where another process works on the same job or shard."""
        with ExitStack() as held:
            with _disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(files.lock(self.path / f"LOCK-{self.name}"))
                except files.Locked as error:
                    raise IndexingError(
                        f"Another process ({error.owner or 'unknown'}) is running this job already "
                        f"({self.path}). {KEPT}"
                    ) from None
            yield

    @contextmanager
    def fit_lock(self) -> Iterator[None]:
        """Held while anchors are fitted, so that of several shards only the first fits them;
        the others wait.
        """
        with files.lock(self.path / "LOCK-fits", wait=True):
            yield

    def unfinished(self) -> bool:
        return bool(self._saved())

    def others(self) -> list[Path]:
        """Folders of other jobs' unfinished work that no process is at."""
        folders = sorted(self.path.parent.glob("work-*"))
        return [folder for folder in folders if folder != self.path and not _in_use(folder)]

    def _saved(self) -> list[Path]:
        """The states that this job can resume from: a shard's own, or all there are."""
        if self.shard is not None:
            return [path for path in (self._file(PARTIAL), self._file()) if path.is_file()]
        return sorted([*self.path.glob(f"{ALL}.npz"), *self.path.glob("shard-*.npz")])

    def _file(self, ending: str = "") -> Path:
        return self.path / f"{self.name}{ending}.npz"

    def load(self) -> PassState:
        """All saved states, merged. Of files that hold the same blocks, the one with the most is taken.
        Raises IndexingError where a file is damaged.
        """
        states = [PassState.from_arrays(self.shape, _read(path)) for path in self._saved()]
        whole = PassState(self.shape)
        for state in sorted(states, key=lambda state: -len(state.blocks)):
            if not np.isin(state.blocks, whole.blocks).any():
                whole = merge(whole, state)
        return whole

    def save(self, state: PassState, *, finished: bool = False) -> None:
        """Raises IndexingError where the disk is full; what was saved before is then still there."""
        partial = self.shard is not None and not finished
        self._write(self._file(PARTIAL if partial else ""), state.arrays())
        if finished and self.shard is not None:
            self._file(PARTIAL).unlink(missing_ok=True)

    def missing_shards(self) -> list[int]:
        """Numbers of the shards that are not finished."""
        if self.shard is None:
            return []
        of = self.shard.of
        numbers = range(1, of + 1)
        return [n for n in numbers if not (self.path / f"shard-{n}-of-{of}.npz").is_file()]

    def save_fit(self, layer: int, fit: AnchorFit) -> None:
        tensors = {"anchors": fit.anchors, "counts": fit.counts, "mean": fit.mean, "assigned": fit.assigned}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()} | {"kind": np.array(fit.kind)}
        self._write(self.path / f"fit-{layer}.npz", arrays)

    def load_fit(self, layer: int) -> AnchorFit | None:
        path = self.path / f"fit-{layer}.npz"
        if not path.is_file():
            return None
        arrays = _read(path)
        anchors, counts, mean, assigned = (
            torch.from_numpy(arrays[name]) for name in ("anchors", "counts", "mean", "assigned")
        )
        return AnchorFit(anchors, counts, mean, assigned, kind=str(arrays["kind"]))

    def _write(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        with _disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with files.replace_file(path) as partial, open(partial, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    try:
        with ExitStack() as held:
            for path in folder.glob("LOCK-*"):
                held.enter_context(files.lock(path))
    except (files.Locked, OSError):
        return True
    return False


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise IndexingError(
            f"{path} is damaged ({error}); remove it to read that part of the text again. {KEPT}"
        ) from error


def check_space(root: Path, needed: int) -> None:
    """Raises IndexingError where the disk of `root` has not `needed` bytes free."""
    lack = files.lack_of_space(root, needed)
    if lack:
        raise IndexingError(
            f"This index and the unfinished work beside it may need more than the disk has: {lack}. Free "
            f"some space, or set LEXISCOPE_INDEX to a folder on another disk. {KEPT}"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IndexingError(
            f"Work could not be saved in {folder}: {error.strerror or error}. What was saved before is still "
            f"there: fix that, then resume with --resume. {KEPT}"
        ) from error
