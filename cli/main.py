"""The commands of `lexiscope`: their arguments and help texts. An error is one line on stderr and exit code
1.
"""

import atexit
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.dictionary_paths import All, dictionary_paths
from cli.exchange_commands import export_commands, import_commands
from cli.keys_commands import keys_commands
from lexiscope.errors import LexiscopeError
from lexiscope.settings import Settings
from lexiscope.terminal import terminal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train sparse autoencoders, name their features by a language model's vocabulary, and serve a "
    "dashboard.",
)
app.add_typer(export_commands, name="export")
app.add_typer(import_commands, name="import")
app.add_typer(keys_commands, name="keys")
console = terminal()

Text = Annotated[
    list[str],
    typer.Option(
        "--text",
        help="a file (.txt .jsonl .json .parquet .csv .tsv, also .gz .xz .bz2 .zst) or a Hugging Face data"
        " set; may be given several times",
    ),
]
Field = Annotated[
    str | None,
    typer.Option(help="the field of each row that is read, dots for nested ones; `text`, else `messages`"),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat",
        help="read documents through the model's chat template, and special tokens spelled out as tokens",
    ),
]
ModelId = Annotated[str | None, typer.Option(help="the model's id in URLs, instead of its folder's name")]
Layer = Annotated[
    int | None,
    typer.Option(min=0, help="the layer that the dictionaries read, where their files do not record it"),
]
SetName = Annotated[
    str | None,
    typer.Option(help="the name of the dictionaries' set, instead of their folder's name"),
]
Length = Annotated[int, typer.Option(min=16, help="tokens in a passage, BOS included")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, the process's unless given. Returns its exit code: 1, with one line on stderr, for an
    error that the user can fix.
    """
    try:
        app(arguments)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except LexiscopeError as error:
        kept = getattr(error, "kept", "")
        print(f"lexiscope: {error}{' ' + kept if kept else ''}", file=sys.stderr)
        return 1
    except OSError as error:  # of a place that a person named: full, read-only, not theirs
        place = f"{error.filename}: " if error.filename else ""
        print(f"lexiscope: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def run() -> None:
    """The console script: `main`, and then the end of the process."""
    code = main()
    if "duckdb" in sys.modules:  # its bindings print pages of "nanobind: leaked" at exit: skip their teardown
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@app.command()
def demo(
    port: Annotated[int | None, typer.Option(help="port to bind; 0 takes a free one")] = None,
    build_only: Annotated[bool, typer.Option(help="train and index, do not serve")] = False,
) -> None:
    """Train, index and serve the bundled model: pages are there as soon as the first dictionary is. Steps
    that are already done are skipped.
    """
    from cli.demo_command import build_demo
    from cli.serving_build import serve_while_building

    settings = Settings()
    if build_only:
        build_demo(settings, console)
    else:
        changed = {} if port is None else {"port": port}
        serve_while_building(build_demo, settings.model_copy(update=changed), console)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train(context: typer.Context) -> None:
    """Train one dictionary per layer and recipe, in one pass of the model, and evaluate each on held-out
    text.
    """
    from trainer.__main__ import main

    main(context.args, prog="lexiscope train")


@app.command()
def methods() -> None:
    """List every recipe of `lexiscope train`, with what sets it apart and its settings."""
    from cli.methods_command import show

    show(console)


@app.command(name="eval")
def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(help="checkpoint folders; those of one model share its passes")
    ],
    text: Text,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="held-out tokens; as recorded on the training text, else 100,000"),
    ] = None,
    ce_tokens: Annotated[
        int | None, typer.Option(min=1, help="how many of those to patch the model on; all unless given")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=16, help="tokens in a passage; as recorded unless given")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="the language model, instead of the one that the checkpoints record")
    ] = None,
    model_id: ModelId = None,
    layer: Layer = None,
    every: All = False,
    field: Field = None,
    chat: Chat = False,
    out: Annotated[Path | None, typer.Option(help="write all figures to this JSON file")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="replace metrics.json and evidence.safetensors of the runs")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="accept figures that contradict the recorded ones")
    ] = False,
) -> None:
    """Evaluate checkpoints on a text; of the text they were trained on, only the held-out passages are used.

    Figures that contradict the checkpoint (another model, an FVE far from the recorded one) are shown with a
    warning and not written, and the exit code is 1, unless --force is given.
    """
    from cli.evaluate_command import EvaluationRequest, evaluate_runs, names_of, table
    from cli.evaluate_command import write as write_figures
    from lexiscope import text as texts

    request = EvaluationRequest(
        texts.Text(tuple(text), field, chat), tokens, ce_tokens, length, model, model_id, layer
    )
    found = evaluate_runs(dictionary_paths(runs, every), request, console=console)
    console.print(table(found))
    for name, each in zip(names_of(found), found, strict=True):
        for warning in each.warnings:
            print(f"lexiscope: WARNING: {name}: {warning}.", file=sys.stderr)
    if any(each.warnings for each in found) and not force:
        raise LexiscopeError(
            "These figures contradict the checkpoints; nothing was written. --force accepts them."
        )
    write_figures(found, out=out, into_runs=write)


@app.command()
def anchors(
    model: Annotated[str, typer.Argument(help="a Hugging Face folder, a .gguf file, or a name on the hub")],
    text: Text,
    layers: Annotated[str, typer.Option(help="'all', or numbers and ranges: 0,3,5-7")] = "all",
    tokens: Annotated[int, typer.Option(min=1000, help="tokens of text to fit anchors on")] = 100_000,
    k: Annotated[int, typer.Option(min=1, help="active features per token of the plain dictionary")] = 32,
    width: Annotated[
        int | None, typer.Option(min=1, help="its features; the vocabulary's size unless given")
    ] = None,
    field: Field = None,
    chat: Chat = False,
) -> None:
    """Compare anchor sets on each layer by how well they name a briefly trained plain dictionary: the
    comparison that `--anchors auto` makes.
    """
    from cli.anchors_command import show, survey_layers
    from lexiscope import text as texts
    from lexiscope.language_model import load_language_model
    from trainer.__main__ import parse_layers

    loaded, sources = load_language_model(model), texts.Text(tuple(text), field, chat)
    surveys = survey_layers(
        loaded, sources, parse_layers(layers, loaded.n_layers), tokens=tokens, k=k, width=width
    )
    console.print(texts.passages(loaded, sources).report.sentence(), soft_wrap=True)
    show(surveys, console)


@app.command()
def index(
    runs: Annotated[
        list[Path],
        typer.Argument(help="dictionary folders or files of any library that is read (docs/name-any-sae.md)"),
    ],
    text: Text,
    tokens: Annotated[int | None, typer.Option(min=1, help="tokens of text to read, at most")] = None,
    length: Length = 256,
    model: Annotated[
        str | None, typer.Option(help="the language model, instead of the one that the checkpoints record")
    ] = None,
    model_id: ModelId = None,
    layer: Layer = None,
    set_name: SetName = None,
    every: All = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray reads on the cluster that RAY_ADDRESS names (lexiscope[ray])"),
    ] = "local",
    shards: Annotated[
        str | None, typer.Option(metavar="I/N", help="read the I-th of N parts, save its counts and stop")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="continue from what is saved of this job: an interrupted run, or its shards"
        ),
    ] = False,
    ablate: Annotated[
        int,
        typer.Option(
            min=0, help="contexts in which each live feature is ablated (a second pass); 0 skips it"
        ),
    ] = 5,
    steer: Annotated[
        int,
        typer.Option(
            min=0,
            help="live features of a dictionary, and content words, that are steered in that pass to test "
            "what features write",
        ),
    ] = 200,
    lens_prompts: Annotated[
        int,
        typer.Option(
            min=0,
            help="passages that the Jacobian lens is fitted on, each for an eighth of its rows; it says what "
            "features write (slow in large models; kept for the next time); 0 skips it",
        ),
    ] = 0,
    field: Field = None,
    chat: Chat = False,
) -> None:
    """Index what every feature of the dictionaries does over a text, and publish it; the rest of the index is
    kept.
    """
    import indexer
    from lexiscope import text as texts
    from lexiscope.checkpoint import load_checkpoint
    from lexiscope.language_model import load_language_model

    shard = indexer.parse_shard(shards) if shards else None
    groups: dict[tuple[str, str], list[Path]] = {}
    for run in dictionary_paths(runs, every):
        checkpoint = load_checkpoint(run, anchors=False, layer=layer)
        path = model or checkpoint.model
        if not path:
            raise LexiscopeError(
                f"{run} does not record which language model it was trained on; give it with --model."
            )
        groups.setdefault((path, model_id or str(checkpoint.details.get("model_id", ""))), []).append(run)
    load = partial(load_checkpoint, layer=layer, set_name=set_name)
    loaded = [
        (load_language_model(path, model_id=name or None), map(load, found))
        for (path, name), found in groups.items()
    ]
    ask = indexer.IndexRequest(
        tokens=tokens,
        length=length,
        engine=engine,
        shard=shard,
        resume=resume,
        ablate=ablate,
        steer=steer,
        lens_prompts=lens_prompts,
    )
    sources = texts.Text(tuple(text), field, chat)
    build = indexer.index(loaded, sources, settings=Settings(), console=console, request=ask)
    if build is not None:
        console.print(f"published {build}")


@app.command()
def name(
    dictionaries: Annotated[
        list[Path],
        typer.Argument(help="dictionaries of one model: folders or files of any library that is read"),
    ],
    text: Annotated[
        list[str],
        typer.Option(
            help="a file or a data set to fit anchors and test names on, best of the kind that the model was "
            "trained on: 40,000 tokens are enough for frequent features, a million for most; may be repeated"
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="the language model, where the dictionaries do not record it or record another"),
    ] = None,
    layer: Layer = None,
    set_name: SetName = None,
    every: All = False,
    anchors: Annotated[
        str | None,
        typer.Option(help="fit this anchor set for all; else a dictionary's own anchors, or `current`"),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1000, help="tokens of text to read, at most")] = 100_000,
    length: Length = 256,
    model_id: ModelId = None,
    ablate: Annotated[
        int,
        typer.Option(min=0, help="contexts in which each live feature is ablated (a second, slower pass)"),
    ] = 0,
    field: Field = None,
    chat: Chat = False,
) -> None:
    """Name the features of any dictionary by the words that they fire on, after, before or near, with the
    evidence for each name, and index them.
    """
    from cli.name_command import NamingRequest, name_dictionaries
    from lexiscope import text as texts

    request = NamingRequest(model, model_id, layer, set_name, anchors, tokens, length, ablate)
    name_dictionaries(
        dictionary_paths(dictionaries, every),
        texts.Text(tuple(text), field, chat),
        request,
        settings=Settings(),
        console=console,
    )


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def study(context: typer.Context) -> None:
    """Ask one question of a model and its dictionaries, and keep the answer as a record: `lexiscope study
    NAME --help`.
    """
    from cli.study_command import run_study

    run_study(context.args, console)


@app.command()
def studies() -> None:
    """List the studies that there are."""
    from cli.study_command import list_studies

    list_studies(console)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to bind")] = None,
    port: Annotated[int | None, typer.Option(help="port to bind; 0 takes a free one")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="processes that serve; they share one model worker"),
    ] = None,
) -> None:
    """Serve the index, and a live model to steer, until interrupted."""
    from cli.serving_build import served_at
    from server.serve import serve as run_server

    given = {"host": host, "port": port, "web_processes": workers}
    changed = {key: value for key, value in given.items() if value is not None}
    run_server(Settings().model_copy(update=changed), listening=partial(served_at, console))


@app.command()
def doctor() -> None:
    """Look at what a server needs (index or database, models, disk, GPU, worker) and say what to do. Ends
    with 1 where something is wrong.
    """
    from cli.doctor import examine

    wrong = 0
    for finding in examine(Settings()):
        wrong += not finding.ok
        console.print(
            f"{'ok   ' if finding.ok else 'WRONG'} {finding.what}: {finding.found}", highlight=False
        )
        if finding.advice:
            console.print(f"      {finding.advice}", highlight=False)
    raise typer.Exit(code=min(wrong, 1))


@app.command()
def worker(
    port: Annotated[int, typer.Option(help="port to bind")] = 8001,
    host: Annotated[str, typer.Option(help="address to bind")] = "127.0.0.1",
) -> None:
    """Run a model worker by itself, for servers that set LEXISCOPE_WORKER_URL; otherwise `serve` starts its
    own.
    """
    from server.live.__main__ import main

    main(["--host", host, "--port", str(port)])
