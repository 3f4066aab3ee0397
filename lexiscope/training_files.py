"""What a checkpoint's files say of its training: the command that makes it again, the lines of its log."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexiscope.foreign_json import parse_json

LOG = "train.jsonl"


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """The lines of a checkpoint's log, each a dict with `step` and `tokens`; without lines that are damaged.
    Empty where there is no log.
    """
    try:
        lines = (checkpoint / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for text in lines if (line := _parsed(text)) is not None]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = parse_json(text)
    except ValueError:
        return None
    known = isinstance(line, dict) and all(isinstance(line.get(key), int) for key in ("step", "tokens"))
    return line if known else None


def command(training: Mapping[str, Any], model_path: str) -> str:
    """The command line that trains the same dictionary again, from the metadata of its checkpoint; empty
    where Lexiscope did not train it. Texts are given by the names of their files.

    The same weights follow bit for bit on one machine with one version of torch.
    """
    plan, config = training.get("plan"), training.get("config")
    if not isinstance(plan, dict) or not isinstance(config, dict):
        return ""
    parts = ["lexiscope", "train", model_path]
    for text in training.get("text", []):
        parts += ["--text", str(text)]
    if training.get("field"):
        parts += ["--field", str(training["field"])]
    if training.get("chat"):
        parts.append("--chat")
    parts += ["--layers", str(training["layer"]), "--recipe", str(config["name"])]
    options = {
        "width": plan.get("width"),
        "tokens": plan.get("tokens"),
        "seen": None if config.get("epochs") else plan.get("seen"),
        "buffer": plan.get("filling"),
        "length": plan.get("length"),
        "seed": plan.get("seed"),
        "set-name": training.get("set"),
        "model-id": training.get("model_id"),
    }
    for name, value in options.items():
        if value is not None:
            parts += [f"--{name}", str(value)]
    if plan.get("held_out") == "other text":
        parts += ["--held-out", "FILE"]
    if plan.get("transcoder"):
        parts.append("--transcoder")
    for name, value in config.items():
        if name != "name":
            parts += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(parts)
