"""What a process and its children take: memory and CPU time, read from /proc."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

SAMPLE_SECONDS = 0.25


class Use(NamedTuple):
    """What a process and its children take and have taken."""

    megabytes: float
    """resident"""
    cpu_seconds: float


def use(pid: int, *, without: str | None = None) -> Use:
    """Of a process and all below it; processes with `without` in their command line are left out."""
    place = Path(f"/proc/{pid}")
    try:
        if without and without.encode() in (place / "cmdline").read_bytes():
            return Use(0.0, 0.0)
        lines = (place / "status").read_text().splitlines()
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        tasks = [task.read_text().split() for task in (place / "task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return Use(0.0, 0.0)
    own = next((float(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0.0)
    ticks = fields[11], fields[12]  # utime and stime: fields 14 and 15 of proc(5)
    children = [use(int(child), without=without) for task in tasks for child in task]
    return Use(
        own / 1000 + sum(child.megabytes for child in children),
        sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + sum(child.cpu_seconds for child in children),
    )


@contextmanager
def peak_of_children() -> Iterator[list[float]]:
    """The largest sum of memory, in MB, that the processes below this one take meanwhile: one value, kept up
    to date by a thread that looks four times a second.
    """
    peak, ended = [0.0], Event()

    def look() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            tasks = Path("/proc/self/task").glob("*/children")
            pids = {int(pid) for task in tasks for pid in task.read_text().split()}
            peak[0] = max(peak[0], sum(use(pid).megabytes for pid in pids))

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
