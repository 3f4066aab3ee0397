"""What the demos build: a model's dictionaries and their index; steps that are already done are skipped."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from lexiscope.progress import ProgressFile
from lexiscope.settings import DATA, Settings
from store import NoIndex, Store, Unreachable, WrongVersion

if TYPE_CHECKING:
    from lexiscope.language_model import LanguageModel

MODEL_ID = "demo"
MODEL = DATA / "demo" / "model"
TEXT = str(DATA / "demo" / "corpus.txt.xz")
DATABASE_SECONDS = 120.0
"""in which a database that starts beside this process answers"""
RETRY_SECONDS = 2.0


class Amounts(NamedTuple):
    """Tokens to harvest, to train each dictionary on, to evaluate on and to index; contexts to ablate each
    live feature in, features to steer, passages that the Jacobian lens is fitted on; tokens of the first
    index (0 leaves it out).
    """

    harvested: int
    seen: int
    held_out: int
    indexed: int
    ablated: int
    steered: int
    lens_prompts: int
    looked_at: int


def build_demo(settings: Settings, console: Console) -> None:
    """The bundled model: `vasae` at every layer, `plain` at three. Layer 4 is served first."""

    def load() -> "LanguageModel":
        from lexiscope.language_model import load_language_model

        return load_language_model(str(MODEL), model_id=MODEL_ID)

    rest = [("vasae", layer) for layer in (0, 1, 2, 3, 5)] + [("plain", layer) for layer in (0, 2, 5)]
    build(
        load,
        MODEL_ID,
        ("vasae", 4),
        rest,
        [TEXT],
        Amounts(150_000, 200_000, 5_000, 100_000, 2, 200, 64, 40_000),
        settings=settings,
        console=console,
    )


def build(
    load: "Callable[[], LanguageModel]",
    model_id: str,
    first: tuple[str, int],
    rest: Sequence[tuple[str, int]],
    texts: Sequence[str],
    amounts: Amounts,
    *,
    settings: Settings,
    console: Console,
) -> None:
    """Train each (recipe, layer) that has no checkpoint, and index them all. So that there are pages at once,
    the `first` is trained before the others, and indexed over fewer tokens without what interventions say;
    the whole index takes its place.

    Slow imports (torch, the model) happen only when there is something to build, so that a second start takes
    seconds.
    """
    _wait_for_database(settings, console)
    if _indexed(settings, model_id, [first, *rest]):
        return
    steps: list[tuple[str, Callable[..., None], list[tuple[str, int]], Amounts]] = []
    left = [first, *rest]
    if rest and amounts.looked_at and not _indexed(settings, model_id, [first]):
        look = amounts._replace(indexed=amounts.looked_at, ablated=0, steered=0, lens_prompts=0)
        steps += [
            (_step("train", [first]), _train, [first], amounts),
            (_step("index", [first]), _index, [first], look),
        ]
        left = list(rest)
    steps += [
        (_step("train", left), _train, left, amounts),
        (_step("index", [first, *rest]), _index, [first, *rest], amounts),
    ]
    with ProgressFile(settings.index, model_id, [label for label, *_ in steps]) as kept:
        model = load()
        for label, do, dictionaries, how_much in steps:
            with kept.step(label):
                do(model, dictionaries, texts, how_much, settings=settings, console=console)


def source(recipe: str, layer: int) -> str:
    return f"{layer}-{recipe}"


def _step(verb: str, dictionaries: Sequence[tuple[str, int]]) -> str:
    if len(dictionaries) == 1:
        return f"{verb} {source(*dictionaries[0])}"
    return f"{verb} {len(dictionaries)} dictionaries"


def _train(
    model: "LanguageModel",
    dictionaries: Sequence[tuple[str, int]],
    texts: Sequence[str],
    amounts: Amounts,
    *,
    settings: Settings,
    console: Console,
) -> None:
    import trainer

    folder = settings.runs / model.id
    missing = [one for one in dictionaries if not (folder / source(*one) / "cfg.json").is_file()]
    if not missing:
        return
    plan = trainer.Plan(
        sources=texts,
        runs=[(trainer.recipe(recipe), [layer]) for recipe, layer in missing],
        out=settings.runs,
        tokens=amounts.harvested,
        seen=amounts.seen,
        eval_tokens=amounts.held_out,
        resume=True,
    )
    trainer.train(model, plan, console=console)


def _index(
    model: "LanguageModel",
    dictionaries: Sequence[tuple[str, int]],
    texts: Sequence[str],
    amounts: Amounts,
    *,
    settings: Settings,
    console: Console,
) -> None:
    import indexer
    from lexiscope.checkpoint import load_checkpoint

    checkpoints = [load_checkpoint(settings.runs / model.id / source(*one)) for one in dictionaries]
    request = indexer.IndexRequest(
        tokens=amounts.indexed,
        ablate=amounts.ablated,
        steer=amounts.steered,
        lens_prompts=amounts.lens_prompts,
        resume=True,
    )
    indexer.index([(model, checkpoints)], texts, settings=settings, console=console, request=request)


def _wait_for_database(settings: Settings, console: Console) -> None:
    """Return when the index's database answers: it may be starting too. Raises Unreachable after
    DATABASE_SECONDS.
    """
    begun, said = time.monotonic(), False
    store = Store(settings)
    try:
        while True:
            try:
                with suppress(NoIndex, WrongVersion):
                    store.build_id()
                return
            except Unreachable as error:
                if time.monotonic() - begun >= DATABASE_SECONDS:
                    raise
                if not said:
                    console.print(f"Waiting for the database: {error}", highlight=False, markup=False)
                said = True
                time.sleep(RETRY_SECONDS)
    finally:
        store.close()


def _indexed(settings: Settings, model: str, dictionaries: Sequence[tuple[str, int]]) -> bool:
    store = Store(settings)
    try:
        present = {(layer.model, layer.source) for summary in store.home().models for layer in summary.layers}
        return all((model, source(*one)) in present for one in dictionaries)
    except (NoIndex, WrongVersion):
        return False
    finally:
        store.close()
