"""The command line of training: `lexiscope train …`, `python -m trainer …` and `torchrun --nproc-per-node N
-m trainer …`.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lexiscope.anchor_sets import ANCHOR_SETS
from lexiscope.errors import LexiscopeError
from lexiscope.measures import RUN, as_text, placed
from lexiscope.settings import Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ANCHORS_HELP = (
    "what rows are held to and named by: "
    + ", ".join(ANCHOR_SETS)
    + ", or auto (a bake-off); current unless given"
)
RECIPE_HELP = (
    "vasae (default), plain or matched, or by themselves paper-plain, paper-soft, paper-hard; may be repeated"
)


def parse_layers(text: str, n_layers: int) -> list[int]:
    """'all', or numbers and ranges: '0,3,5-7'. Raises LexiscopeError for anything else."""
    if text == "all":
        return list(range(n_layers))
    layers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise LexiscopeError(
                f"--layers '{text}' is neither 'all' nor numbers and ranges such as 0,3,5-7."
            )
        layers.update(range(int(low), int(high or low) + 1))
    return sorted(layers)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="a Hugging Face folder, a .gguf file, or a name on the hub")],
    text: Annotated[
        list[str],
        typer.Option(help="a file (.txt .jsonl, also .xz .gz) or a Hugging Face data set; may be repeated"),
    ],
    layers: Annotated[str, typer.Option(help="'all', or numbers and ranges: 0,3,5-7")] = "all",
    recipe: Annotated[list[str] | None, typer.Option(help=RECIPE_HELP)] = None,
    anchor_weight: Annotated[
        float | None, typer.Option("--lambda", help="paper-soft: weight of the anchor term; 1e-4")
    ] = None,
    anchor_mode: Annotated[
        str | None, typer.Option(help="paper-soft: nearest (default), logsumexp or softmax")
    ] = None,
    anchor_every: Annotated[
        int | None, typer.Option(help="paper-soft: steps between anchor terms; 1")
    ] = None,
    k: Annotated[int | None, typer.Option(help="active features a token; the recipe's unless given")] = None,
    anchors: Annotated[str | None, typer.Option(help=ANCHORS_HELP)] = None,
    cosine: Annotated[
        float | None, typer.Option(help="anchored rows keep at least this cosine to their anchor; 0.802")
    ] = None,
    dense_rank: Annotated[
        int | None, typer.Option(min=0, help="rank of the dense path; the recipe's unless given")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's; the recipe's unless given")] = None,
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
    seed: int = 0,
    cache: Annotated[
        Path | None, typer.Option(help="keep activations in this folder, and use those that are there")
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option(min=1, help="tokens of activations at hand at once, without --cache; 500,000"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with what an interrupted run of the same plan left")
    ] = False,
    snapshot_every: Annotated[float, typer.Option(min=0, help="seconds between snapshots")] = 120.0,
    log: Annotated[str | None, typer.Option(help="tensorboard or wandb, beside train.jsonl")] = None,
    layers_over_ranks: Annotated[
        bool, typer.Option("--layers-over-ranks", help="under torchrun: split dictionaries, not batches")
    ] = False,
    set_name: Annotated[
        str | None,
        typer.Option("--set", help="names the dictionaries <layer>-<set>; the recipe unless given"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="checkpoints go to OUT/<model>/<layer>-<set>")] = None,
    model_id: Annotated[
        str | None, typer.Option(help="the model's id in URLs, where its folder's name will not do")
    ] = None,
) -> None:
    """Train one dictionary a layer and recipe, in one pass of the model, and evaluate it on held-out text."""
    import trainer
    from lexiscope.language_model import load_language_model
    from trainer.distributed import ranks
    from trainer.paper import PaperRecipe
    from trainer.paper_run import train_paper_recipes

    anchoring = {"anchor_weight": anchor_weight, "anchor_mode": anchor_mode, "anchor_every": anchor_every}
    options = {
        "k": k,
        "anchors": anchors,
        "cosine": cosine,
        "dense_rank": dense_rank,
        "learning_rate": learning_rate,
    }
    recipes = _recipes(recipe or ["vasae"], options, anchoring)
    paper = any(isinstance(r, PaperRecipe) for r in recipes)
    if paper and seen is not None:
        raise trainer.RecipeError(
            "The paper's recipes train by epochs until the validation loss stops falling; leave --seen out."
        )
    with ranks(split_layers=layers_over_ranks) as these:
        loaded = load_language_model(model, model_id=model_id)
        plan = trainer.Plan(
            sources=text,
            runs=[(r, parse_layers(layers, loaded.n_layers)) for r in recipes],
            out=out or Settings().runs,
            tokens=tokens,
            seen=seen or 2 * tokens,
            eval_tokens=eval_tokens,
            ce_tokens=ce_tokens,
            width=width,
            length=length,
            seed=seed,
            set_name=set_name,
            held_out=held_out or (),
            cache=cache,
            buffer=buffer,
            resume=resume,
            snapshot_every=snapshot_every,
            log=log,
        )
        console = Console(quiet=not these.writes)
        if paper:
            paths = train_paper_recipes(loaded, plan, console=console, ranks=these)
        else:
            paths = trainer.train(loaded, plan, console=console, ranks=these)
        if paths:
            console.print(f"written to {paths[0].parent}", soft_wrap=True)
            _figures(paths, console)


def _recipes(names: Sequence[str], options: dict[str, Any], anchoring: dict[str, Any]) -> list[Any]:
    """The named recipes with the options that were given; those about the paper's anchor term are for
    paper-soft alone.
    """
    import trainer
    from trainer.paper import paper_recipe

    given = {option: value for option, value in anchoring.items() if value is not None}
    if given and "paper-soft" not in names:
        raise trainer.RecipeError(
            "--lambda, --anchor-mode and --anchor-every say something to the recipe paper-soft alone."
        )
    changed = {option: value for option, value in options.items() if value is not None}
    found: list[Any] = []
    for name in names:
        if name.startswith("paper-"):
            if changed.keys() - {"k"}:
                raise trainer.RecipeError(f"Of {', '.join(changed)} the paper's recipes know k alone.")
            found.append(paper_recipe(name, k=options["k"], **(given if name == "paper-soft" else {})))
        else:
            found.append(replace(trainer.recipe(name), **changed))
    return found


def _figures(paths: list[Path], console: Console) -> None:
    """The held-out measures of some runs, a line each."""
    for path in paths:
        measured = json.loads((path / "metrics.json").read_text())
        shown = (f"{m.label} {as_text(m, measured.get(m.name))}" for m in placed(RUN, "table"))
        console.print(f"{path.name}: {'; '.join(shown)}", soft_wrap=True)


def main(arguments: list[str], *, prog: str) -> None:
    """Train as the arguments say. Raises LexiscopeError for what a person can mend, SystemExit for a command
    line that is wrong.
    """
    app(arguments, prog_name=prog)


if __name__ == "__main__":
    try:
        main(sys.argv[1:], prog="python -m trainer")
    except LexiscopeError as error:
        print(f"trainer: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # other ranks wait in a collective: leave at once, and torchrun ends them
