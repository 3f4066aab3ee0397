"""`lexiscope doctor`: what a server would need, looked at one by one, with what to do about each fault."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lexiscope.errors import LexiscopeError
from lexiscope.files import size_text
from lexiscope.settings import LOOPBACK, Settings
from store import Store, StoreError

LITTLE_DISK = 2 << 30
"""bytes free below which a training run or a build may not fit"""


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    advice: str = ""
    """what to do, where it is not ok or could be better"""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which a server needs the thing."""
    for name, folder in (("index", settings.index), ("checkpoints", settings.runs)):
        yield _folder(name, folder)
    yield from _index(settings)
    yield _device(settings)
    yield from _worker(settings)
    yield _reach(settings)


def _folder(name: str, folder: Path) -> Finding:
    absolute = folder.absolute()
    there = next(part for part in (absolute, *absolute.parents) if part.exists())
    what = f"disk of the {name}"
    free = shutil.disk_usage(there).free
    found = f"{size_text(free)} free under {folder}"
    probe = there / ".lexiscope-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        advice = "Serving works; training and indexing need a folder that this user may write."
        return Finding(what, False, f"{there} cannot be written: {error.strerror}", advice)
    if free < LITTLE_DISK:
        return Finding(what, False, found, "Free some, or set LEXISCOPE_INDEX and LEXISCOPE_RUNS elsewhere.")
    return Finding(what, True, found)


def _index(settings: Settings) -> Iterator[Finding]:
    what = "database" if settings.database_url else "index"
    try:
        store = Store(settings)
        home, entries = store.home(), store.dictionaries()
        store.close()
    except StoreError as error:
        advice = "Check LEXISCOPE_DATABASE_URL and that the server is up." if settings.database_url else ""
        yield Finding(what, False, str(error), error.kept or advice)
        return
    features = sum(model.n_features for model in home.models)
    yield Finding(
        what,
        True,
        f"build {home.build}: {len(entries)} dictionaries of {len(home.models)} models, "
        f"{features:,} features",
    )
    for model, path in sorted({(entry.model, entry.model_path) for entry in entries}):
        if not path:
            yield Finding(f"model {model}", True, "imported without its files: browsed, not steered")
            continue
        here = Path(path).exists()
        hub = not Path(path).is_absolute()
        yield Finding(
            f"model {model}",
            here or (hub and settings.worker_hub),
            path if here else f"{path} is not on this machine",
            "" if here else "Its pages are served; to steer, move it there, or index from where it is.",
        )
    kept = [entry for entry in entries if entry.checkpoint_path]
    if len(kept) < len(entries):
        found = f"{len(entries) - len(kept)} without weights: browsed, not steered"
        yield Finding("imported dictionaries", True, found)
    gone = [entry for entry in kept if not Path(entry.checkpoint_path).exists()]
    if gone:
        yield Finding(
            "checkpoints",
            False,
            f"{len(gone)} of {len(kept)} are not where they were indexed, {gone[0].checkpoint_path} first",
            "Move them back, or index again from where they are; without them, they cannot be steered.",
        )
    elif kept:
        yield Finding("checkpoints", True, f"{len(kept)} are where they were indexed")


def _device(settings: Settings) -> Finding:
    import torch

    if torch.cuda.is_available():
        number = int(settings.worker_device.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            return Finding(
                "GPU", False, f"there is no {settings.worker_device}", f"Use cuda:0 to cuda:{last}."
            )
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        return Finding("GPU", True, f"{name}, {size_text(free)} of {size_text(total)} free")
    if settings.worker_device.startswith("cuda"):
        advice = "Install a CUDA build of torch, or leave LEXISCOPE_WORKER_DEVICE empty."
        return Finding("GPU", False, f"torch {torch.__version__} sees none", advice)
    return Finding("GPU", True, f"none; the CPU has {torch.get_num_threads()} threads")


def _worker(settings: Settings) -> Iterator[Finding]:
    if not settings.worker_url:
        return
    import asyncio

    from server.live import WorkerClient

    try:
        health = asyncio.run(WorkerClient(settings.worker_url, token=settings.worker_token).health())
    except LexiscopeError as error:
        advice = "Start it with `lexiscope worker`; both need the same LEXISCOPE_WORKER_TOKEN."
        yield Finding("worker", False, f"{settings.worker_url}: {error}", advice)
        return
    yield Finding(
        "worker", True, f"{settings.worker_url}: {health.running} running, {health.waiting} waiting"
    )


def _reach(settings: Settings) -> Finding:
    if settings.host in ("127.0.0.1", "localhost", "::1"):
        return Finding("address", True, f"{settings.host}:{settings.port}, from this machine alone")
    names = sorted(settings.host_names - {*LOOPBACK, settings.host.lower()})
    if not names:  # right for a container whose port is published to this machine alone
        found = "for loopback names alone: LEXISCOPE_ALLOWED_HOSTS adds those that others use"
        return Finding("address", True, f"{settings.host}:{settings.port}, {found}")
    return Finding("address", True, f"{settings.host}:{settings.port}, as {', '.join(names)}")
