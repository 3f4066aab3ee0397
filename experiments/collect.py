"""`python -m experiments.collect RUN...`: copy the figures and the origin of runs into
results/<model>/<layer>-<set>.json.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.figures import rounded
from experiments.page import RESULTS
from lexiscope.files import portable_command


def collect(runs: Sequence[Path], folder: Path = RESULTS) -> list[Path]:
    """Write one file a run; returns the files."""
    written = []
    for run in runs:
        config = json.loads((run / "cfg.json").read_text())
        details = config["metadata"]["lexiscope"]
        command = details.get("command") or _command_of(config)
        kept = {
            "command": portable_command(shlex.split(command)),
            "run": {key: value for key, value in details.items() if key != "command"},
            "metrics": json.loads((run / "metrics.json").read_text()),
        }
        target = folder / details["model_id"] / f"{details['layer']}-{details['set']}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(rounded(kept), ensure_ascii=False) + "\n")
        written.append(target)
    return written


def _command_of(config: dict[str, Any]) -> str:
    """The `lexiscope train` line of a checkpoint that does not record its command."""
    details = config["metadata"]["lexiscope"]
    plan = details.get("plan", {})
    parts = ["lexiscope", "train", str(config["metadata"]["model_name"])]
    parts += [f"--text={name}" for name in details.get("text", [])]
    parts += [f"--recipe={details['recipe']}", f"--set-name={details['set']}"]
    parts += [f"--layers={details['layer']}", f"--k={config['k']}"]
    parts += [f"--{key}={plan[key]}" for key in ("tokens", "seen", "length", "seed") if key in plan]
    return shlex.join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for path in collect(parser.parse_args().runs):
        print(path)


if __name__ == "__main__":
    main()
