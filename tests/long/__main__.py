"""Kills at random moments (the trainer, the indexer, the server, the model worker), and faults of disk,
database, clock and descriptors, and requests that are none.

    python -m tests.long [--rounds 50] [--faults 20] [--requests 2000] [--seed 0] [--only NAME]

`--rounds` is for each of the four kills, `--faults` for each of the faults. A round of kills forks a process
that has everything imported, lets it work, kills it with SIGKILL after a random time, and looks at what it
left; after the last, the work is finished and compared with what an undisturbed process makes.
"""

import argparse
import logging
import os
import random
import tempfile
import time
from pathlib import Path

import tests.environment  # noqa: F401  (before Lexiscope, which reads it)

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a process with threads of its own cannot be forked


def main() -> None:
    from tests.long.faults import FAULTS, Skipped
    from tests.long.kills import KILLS
    from tests.long.raw_requests import raw_requests

    acts = {**KILLS, **FAULTS, "requests": raw_requests}
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=acts)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    logging.getLogger("lexiscope").setLevel(logging.CRITICAL)
    print(f"{'fault':12} {'times':>6}  found")
    for name in given.only or acts:
        wanted = given.rounds if name in KILLS else given.faults if name in FAULTS else given.requests
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                times, found = acts[name](Path(folder), wanted, draw)
            except Skipped as why:
                times, found = 0, f"skipped: {why}"
        print(f"{name:12} {times:6,}  {found} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
