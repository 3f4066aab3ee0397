"""Kills at random moments: the trainer, the indexer, the server and the model worker.

    python -m tests.long [--rounds 50] [--seed 0]

`--rounds` is for each of the four. A round forks a process that has everything imported, lets it work, kills
it with SIGKILL after a random time, and looks at what it left; after the last, the work is finished and
compared with what an undisturbed process makes.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a process with threads of its own cannot be forked


def main() -> None:
    from tests.long.kills import KILLS

    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    print(f"{'killed':8} {'rounds':>6} {'at work':>7}  found")
    for name, act in KILLS.items():
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            at_work, found = act(Path(folder), given.rounds, draw)
        seconds = time.monotonic() - begun
        print(f"{name:8} {given.rounds:6} {at_work:7}  {found} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
