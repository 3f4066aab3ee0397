"""`lexiscope export` and `lexiscope import`: indexes as Parquet and in Neuronpedia's formats, dictionaries as
SAELens checkpoints.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lexiscope.errors import LexiscopeError
from lexiscope.settings import Settings
from lexiscope.terminal import terminal

export_commands = typer.Typer(
    no_args_is_help=True, help="Write the index, or a dictionary, in a format that other tools read."
)
import_commands = typer.Typer(
    no_args_is_help=True, help="Add files of other tools, or of another Lexiscope, to the index."
)
console = terminal(soft_wrap=True)

Out = Annotated[Path, typer.Argument(help="a folder that does not exist yet")]
Replace = Annotated[
    bool, typer.Option("--replace", help="replace dictionaries of the same name that the index holds")
]


class Bar(NamedTuple):
    started: Callable[[int], None]
    advance: Callable[[int], None]
    say: Callable[[str], None]
    reached: Callable[[int, int], None]


@contextmanager
def _bar(words: str) -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield Bar(
            started=lambda total: progress.update(task, total=total),
            advance=lambda n: progress.advance(task, n),
            say=lambda now: progress.update(task, description=now, total=None),
            reached=lambda done, of: progress.update(task, completed=done, total=of),
        )


@export_commands.command("parquet")
def parquet_out(
    out: Out,
    model: Annotated[str | None, typer.Option(help="only this model's dictionaries")] = None,
    source: Annotated[str | None, typer.Option(help="only this source, <layer>-<set>")] = None,
) -> None:
    """Write the whole index, or part of it, as one Parquet file per table with a manifest; docs/columns.md
    describes each column.
    """
    from indexer.exchange import export_parquet

    with _bar("rows written") as bar:
        exported = export_parquet(
            out, settings=Settings(), model=model, source=source, started=bar.started, advance=bar.advance
        )
    size = sum(entry.bytes for entry in exported.manifest.files.values())
    console.print(f"wrote {len(exported.manifest.dictionaries)} dictionaries to {out} ({size / 1e6:,.1f} MB)")


@export_commands.command("neuronpedia")
def neuronpedia_out(
    out: Out,
    source: Annotated[str, typer.Option(help="the dictionary, MODEL/SOURCE, for example gpt2-small/6-vasae")],
    creator: Annotated[
        str | None,
        typer.Option(help="the Neuronpedia user the rows belong to; its own exporter's unless given"),
    ] = None,
) -> None:
    """Write one dictionary in the layout that Neuronpedia imports: features, activations, and its names as
    explanations.
    """
    from indexer.exchange import CREATOR, NeuronpediaExportRequest, export_neuronpedia

    model, _, own = source.partition("/")
    if not own:
        raise LexiscopeError(f"--source {source} is no MODEL/SOURCE; write for example gpt2-small/6-vasae.")
    with _bar("features written") as bar:
        request = NeuronpediaExportRequest(out, model, own, creator or CREATOR)
        written = export_neuronpedia(request, settings=Settings(), started=bar.started, advance=bar.advance)
    console.print(
        f"wrote {written.n_features:,} features and {written.n_activations:,} activations to {written.folder}"
    )
    console.print(
        f"import {out / 'config'} first: the explanations refer to the type and the model defined there"
    )


@export_commands.command("saelens")
def saelens_out(run: Annotated[Path, typer.Argument(help="a checkpoint folder")], out: Out) -> None:
    """Write a dictionary as a checkpoint that SAELens loads."""
    from lexiscope.checkpoint import export_saelens, load_checkpoint

    export_saelens(load_checkpoint(run, anchors=False), out)
    console.print(f"wrote {out}")


@export_commands.command("columns")
def columns_out(
    out: Annotated[Path | None, typer.Argument(help="the file to write; printed unless given")] = None,
) -> None:
    """Describe every column of the Parquet files (docs/columns.md)."""
    from store import columns_document

    if out is None:
        typer.echo(columns_document(), nl=False)
    else:
        out.write_text(columns_document(), encoding="utf-8")


@import_commands.command("parquet")
def parquet_in(
    folder: Annotated[Path, typer.Argument(help="a folder that `export parquet` wrote")],
    replace: Replace = False,
    keep_paths: Annotated[
        bool,
        typer.Option(
            "--keep-paths",
            help="keep where models and checkpoints lie, so that they can be steered (your own exports only)",
        ),
    ] = False,
) -> None:
    """Add an exported index to this one, after every file is checked against the manifest. Without
    --keep-paths its dictionaries can be browsed, but not steered: a file from elsewhere does not choose
    what this machine opens.
    """
    from indexer.exchange import import_parquet

    with _bar("rows read") as bar:
        merged = import_parquet(
            folder,
            settings=Settings(),
            replace=replace,
            keep_paths=keep_paths,
            started=bar.started,
            advance=bar.advance,
        )
    if merged.note:
        console.print(merged.note)
    console.print(
        f"published {merged.build} with {', '.join('/'.join(identity) for identity in merged.identities)}"
    )


@import_commands.command("neuronpedia")
def neuronpedia_in(
    folder: Annotated[
        Path, typer.Argument(help="SAEDashboard's batch-N.json files, or one source of a Neuronpedia export")
    ],
    model: Annotated[
        str,
        typer.Option(help="the language model: a Hugging Face folder, a .gguf file, or a name on the hub"),
    ],
    model_id: Annotated[
        str | None,
        typer.Option(help="its id in the index; given, it confirms that the files are of this model"),
    ] = None,
    set_name: Annotated[
        str | None,
        typer.Option(help="the set's name, instead of the one in the files"),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="the layer, instead of the one in the files")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="the dictionary itself: features are then named by the nearest anchor of their rows"
        ),
    ] = None,
    replace: Replace = False,
) -> None:
    """Add SAEDashboard's or Neuronpedia's files to the index as a read-only dictionary: features, contexts,
    logits, and names with evidence.
    """
    from indexer.exchange import NeuronpediaImportRequest, import_neuronpedia
    from lexiscope.checkpoint import load_checkpoint
    from lexiscope.language_model import load_language_model

    request = NeuronpediaImportRequest(
        folder,
        lambda: load_language_model(model, model_id=model_id),
        same_model=model_id is not None,
        set_name=set_name,
        layer=layer,
        checkpoint=load_checkpoint(checkpoint) if checkpoint else None,
        replace=replace,
    )
    with _bar("files read") as bar:
        found = import_neuronpedia(request, settings=Settings(), advance=bar.reached, say=bar.say)
    if found.published.note:
        console.print(found.published.note)
    [(name, source)] = found.published.identities
    console.print(
        f"published {found.published.build} with {name}/{source}: {found.n_features:,} features, "
        f"{found.n_contexts:,} contexts"
    )
    for n, words in (
        (found.n_repeated, "contexts repeat another of their feature and were left out"),
        (found.n_silent, "contexts have no firing of their feature and were left out"),
        (
            found.n_without_page,
            "features were skipped by the tool that wrote the files, or are empty: they have no page",
        ),
    ):
        if n:
            console.print(f"{n:,} {words}")
    if found.unknown:
        some = ", ".join(f"{string!r} ({times:,})" for string, times in list(found.unknown.items())[:5])
        console.print(
            f"{len(found.unknown):,} strings are no token of the model and are shown as unknown: {some}"
        )
