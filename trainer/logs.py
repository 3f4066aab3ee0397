"""Where log lines go: train.jsonl always; TensorBoard or Weights & Biases with --log, where installed."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from lexiscope.errors import LexiscopeError
from lexiscope.files import replace_file
from trainer.step import LogLine

LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""--log NAME: the package it needs"""
SHOWN = ("loss", "live", "tokens_per_second", "validation_loss")


class LogError(LexiscopeError):
    """A logger that does not exist or is not installed."""


def check_logger(name: str | None) -> None:
    """Raises LogError for a logger that does not exist or is not installed."""
    if name is None:
        return
    if name not in LOGGERS:
        raise LogError(
            f"There is no logger '{name}'; there are {', '.join(LOGGERS)}, and train.jsonl is always written."
        )
    if find_spec(LOGGERS[name]) is None:
        raise LogError(
            f"--log {name} needs the package '{LOGGERS[name]}', which is not installed: pip install "
            f"{LOGGERS[name]}."
        )


class Log:
    """The log of one dictionary in training; `close` it."""

    def __init__(
        self, file: Path, *, after: int, logger: str | None, name: str, config: dict[str, Any]
    ) -> None:
        """Lines of steps beyond `after`, where a resumed run goes on, are dropped. TensorBoard's files go to
        OUT/tensorboard.
        """
        kept = [line for line in _whole_lines(file) if json.loads(line)["step"] <= after]
        with replace_file(file) as partial:
            partial.write_text("".join(kept), encoding="utf-8")
        self._file: IO[str] = file.open("a", encoding="utf-8")
        self._tensorboard = self._wandb = None
        if logger == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(file.parents[2] / "tensorboard" / name), purge_step=after + 1
            )
        if logger == "wandb":
            import wandb

            self._wandb = wandb.init(
                project="lexiscope", name=name, id=name.replace("/", "-"), resume="allow", config=config
            )

    def write(self, line: LogLine) -> None:
        self._file.write(json.dumps(line._asdict()) + "\n")
        self._file.flush()
        shown = {name: value for name in SHOWN if (value := getattr(line, name)) is not None} | line.terms
        if self._tensorboard:
            for name, value in shown.items():
                self._tensorboard.add_scalar(name, value, line.step)
        if self._wandb:
            self._wandb.log(shown, step=line.step)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def _whole_lines(file: Path) -> list[str]:
    """The lines of a log; without the last where a killed run left half of it."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [line for line in lines if line.endswith("\n")]
