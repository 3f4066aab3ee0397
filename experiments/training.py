"""What the experiments that train many dictionaries on one text have in common: arguments, and the plan."""

import argparse
from pathlib import Path
from typing import Any

import trainer


def training_parser(
    description: str | None, *, tokens: int, seen: int, eval_tokens: int, ce_tokens: int
) -> argparse.ArgumentParser:
    """A parser of OUT, MODEL and the sizes, which have these defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="where dictionaries and activations go")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--model-id")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--held-out", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=tokens)
    parser.add_argument("--seen", type=int, default=seen)
    parser.add_argument("--eval-tokens", type=int, default=eval_tokens)
    parser.add_argument("--ce-tokens", type=int, default=ce_tokens)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line. Ends the program where there is no text to train on, unless only
    `--tables` are wanted.
    """
    given = parser.parse_args()
    if not vars(given).get("tables") and (given.out is None or given.model is None or not given.text):
        parser.error("give OUT, MODEL and --text")
    return given


def plan_of(
    given: argparse.Namespace,
    runs: list[tuple[trainer.Config, list[int]]],
    *,
    width: int,
    seen: int | None = None,
    **more: Any,
) -> trainer.Plan:
    """Train these runs on the activations kept in OUT/cache; what is done there is not trained again. `seen`
    stands for that of the command line.
    """
    return trainer.Plan(
        sources=given.text,
        runs=runs,
        out=given.out,
        tokens=given.tokens,
        seen=given.seen if seen is None else seen,
        eval_tokens=given.eval_tokens,
        ce_tokens=given.ce_tokens,
        width=width,
        held_out=given.held_out,
        cache=given.out / "cache",
        resume=True,
        **more,
    )
