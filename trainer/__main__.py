"""The command line of training: `lexiscope train …`, `python -m trainer …` and `torchrun --nproc-per-node N
-m trainer …`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lexiscope.errors import LexiscopeError
from lexiscope.measures import RUN, as_text, placed
from lexiscope.settings import Settings
from lexiscope.terminal import terminal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SHORTHANDS = ("k", "anchors", "cosine", "dense_rank", "learning_rate")
"""Options that are short for --set FIELD=VALUE."""


def parse_layers(text: str, n_layers: int) -> list[int]:
    """'all', or numbers and ranges: '0,3,5-7'. Raises LexiscopeError for anything else."""
    if text == "all":
        return list(range(n_layers))
    layers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(low) > int(high or low):
            raise LexiscopeError(
                f"--layers '{text}' is neither 'all' nor numbers and ascending ranges such as 0,3,5-7."
            )
        layers.update(range(int(low), int(high or low) + 1))
    return sorted(layers)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="a Hugging Face folder, a .gguf file, or a name on the hub")],
    text: Annotated[
        list[str],
        typer.Option(
            help="a file (.txt .jsonl .json .parquet .csv .tsv, also .gz .xz .bz2 .zst) or a Hugging Face"
            " data set; may be given several times"
        ),
    ],
    layers: Annotated[str, typer.Option(help="'all', or numbers and ranges: 0,3,5-7")] = "all",
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="vasae (default; for a transcoder, matched), plain, cone, paper-soft, … (a wrong name lists "
            "all); may be repeated"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[RECIPE.]FIELD=VALUE",
            help="a setting of the recipes (a wrong field lists all); may be repeated",
        ),
    ] = None,
    k: Annotated[int | None, typer.Option(help="active features a token; short for --set k=… (32)")] = None,
    anchors: Annotated[
        str | None,
        typer.Option(help="the anchor set (a wrong name lists all); short for --set anchors=… (current)"),
    ] = None,
    cosine: Annotated[
        float | None,
        typer.Option(help="least cosine of a row to its anchor; short for --set cosine=… (cone: 0.802)"),
    ] = None,
    dense_rank: Annotated[
        int | None, typer.Option(help="rank of the dense path; short for --set dense_rank=… (vasae: 16)")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's; short for --set learning_rate=… (0.002, in most recipes)")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="features a dictionary; the vocabulary's size unless given")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="distinct training tokens, at most")] = 1_000_000,
    seen: Annotated[
        int | None,
        typer.Option(min=1, help="tokens each dictionary is trained on; twice --tokens unless given"),
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="text to evaluate on; every tenth passage unless given")
    ] = None,
    eval_tokens: Annotated[int, typer.Option(min=1, help="held-out tokens")] = 50_000,
    ce_tokens: Annotated[
        int | None, typer.Option(min=1, help="of those, tokens for patched cross-entropies; all unless given")
    ] = None,
    length: Annotated[int, typer.Option(min=16, help="tokens of a passage, BOS included")] = 256,
    seed: Annotated[int, typer.Option(help="of weights, batches and restarts")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="keep activations in this folder, and reuse those in it")
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option(min=1, help="tokens of activations held at once, without --cache; 500,000 unless given"),
    ] = None,
    transcoder: Annotated[
        bool,
        typer.Option(
            "--transcoder",
            help="read the MLP's input (after its norm) and reconstruct its output, not the residual stream",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue an interrupted run of the same plan")
    ] = False,
    snapshot_every: Annotated[float, typer.Option(min=0, help="seconds between snapshots")] = 120.0,
    log: Annotated[str | None, typer.Option(help="tensorboard or wandb, beside train.jsonl")] = None,
    layers_over_ranks: Annotated[
        bool, typer.Option("--layers-over-ranks", help="under torchrun: split dictionaries, not batches")
    ] = False,
    set_name: Annotated[
        str | None,
        typer.Option("--set-name", help="names the dictionaries <layer>-<set>; the recipe unless given"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="checkpoints go to OUT/<model>/<layer>-<set>")] = None,
    model_id: Annotated[
        str | None, typer.Option(help="the model's id in URLs; by default the name of its folder")
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(
            help="the field of each row that is read, dots for nested ones; `text`, else `messages`"
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="read documents through the model's chat template, and special tokens spelled out as tokens",
        ),
    ] = False,
) -> None:
    """Train one dictionary a layer and recipe, in one pass of the model, and evaluate it on held-out text."""
    import trainer
    from lexiscope.language_model import load_language_model
    from lexiscope.text import Text, passages
    from trainer.distributed import ranks

    given = {name: value for name, value in locals().items() if name in SHORTHANDS and value is not None}
    short = [f"{name}={value}" for name, value in given.items()]
    configs = trainer.configured(
        recipe or ["matched" if transcoder else "vasae"], [*short, *(settings or [])]
    )
    by_epochs = [config.name for config in configs if config.epochs]
    if by_epochs and seen is not None:
        raise trainer.RecipeError(
            f"{', '.join(by_epochs)} trains by epochs until the validation loss stops falling; leave --seen "
            "out."
        )
    with ranks(split_layers=layers_over_ranks) as these:
        loaded = load_language_model(model, model_id=model_id)
        plan = trainer.Plan(
            sources=Text(tuple(text), field, chat),
            runs=[(config, parse_layers(layers, loaded.n_layers)) for config in configs],
            out=out or Settings().runs,
            tokens=tokens,
            seen=seen or 2 * tokens,
            eval_tokens=eval_tokens,
            ce_tokens=ce_tokens,
            width=width,
            length=length,
            seed=seed,
            set_name=set_name,
            held_out=Text(tuple(held_out or ()), field, chat),
            cache=cache,
            buffer=buffer,
            resume=resume,
            snapshot_every=snapshot_every,
            log=log,
            transcoder=transcoder,
        )
        console = terminal(quiet=not these.writes)
        paths = trainer.train(loaded, plan, console=console, ranks=these)
        for part in filter(None, (plan.sources, plan.held_out)):
            console.print(passages(loaded, part, length=length).report.sentence(), soft_wrap=True)
        if paths:
            console.print(f"written to {paths[0].parent}", soft_wrap=True)
            _figures(paths, console)


def _figures(paths: list[Path], console: Console) -> None:
    """The held-out measures of some runs, a line each."""
    for path in paths:
        measured = json.loads((path / "metrics.json").read_text())
        shown = (f"{m.label} {as_text(m, measured.get(m.name))}" for m in placed(RUN, "table"))
        console.print(f"{path.name}: {'; '.join(shown)}", soft_wrap=True)


def main(arguments: list[str], *, prog: str) -> None:
    """Train by command-line arguments. Raises LexiscopeError for what a person can mend, SystemExit for a
    command line that is wrong.
    """
    app(arguments, prog_name=prog)


if __name__ == "__main__":
    try:
        main(sys.argv[1:], prog="python -m trainer")
    except LexiscopeError as error:
        print(f"trainer: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # other ranks wait in a collective: leave at once, and torchrun ends them
