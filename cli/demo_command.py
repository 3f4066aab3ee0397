"""What the demos build: a model's dictionaries and their index; steps that are already done are skipped."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from lexiscope.settings import DATA, Settings
from store import NoIndex, Store, WrongVersion

if TYPE_CHECKING:
    from lexiscope.language_model import LanguageModel

MODEL_ID = "demo"
MODEL = DATA / "demo" / "model"
TEXT = str(DATA / "demo" / "corpus.txt.xz")


class Amounts(NamedTuple):
    """Tokens to harvest, to train each dictionary on, to evaluate on and to index; contexts to ablate each
    live feature in.
    """

    harvested: int
    seen: int
    held_out: int
    indexed: int
    ablated: int
    lens_prompts: int


def build_demo(settings: Settings, console: Console) -> None:
    """The bundled model: `vasae` at every layer, `plain` at three."""

    def load() -> "LanguageModel":
        from lexiscope.language_model import load_language_model

        return load_language_model(str(MODEL), model_id=MODEL_ID)

    wanted = [("vasae", layer) for layer in range(6)] + [("plain", layer) for layer in (0, 2, 5)]
    build(
        load,
        MODEL_ID,
        wanted,
        [TEXT],
        Amounts(150_000, 200_000, 5_000, 100_000, 2, 8),
        settings=settings,
        console=console,
    )


def build(
    load: "Callable[[], LanguageModel]",
    model_id: str,
    wanted: Sequence[tuple[str, int]],
    texts: Sequence[str],
    amounts: Amounts,
    *,
    settings: Settings,
    console: Console,
) -> None:
    """Train each wanted (recipe, layer) that has no checkpoint, and index them all unless the index holds
    them.

    Slow imports (torch, the model) happen only when there is something to build, so that a second start takes
    seconds.
    """
    runs = {(name, layer): settings.runs / model_id / f"{layer}-{name}" for name, layer in wanted}
    missing = [key for key, path in runs.items() if not (path / "cfg.json").is_file()]
    if not missing and _indexed(settings, model_id, [path.name for path in runs.values()]):
        return
    import indexer
    import trainer
    from lexiscope.checkpoint import load_checkpoint

    model = load()
    if missing:
        missing_runs = [(trainer.recipe(name), [layer]) for name, layer in missing]
        plan = trainer.Plan(
            sources=texts,
            runs=missing_runs,
            out=settings.runs,
            tokens=amounts.harvested,
            seen=amounts.seen,
            eval_tokens=amounts.held_out,
            resume=True,
        )
        trainer.train(model, plan, console=console)
    checkpoints = [load_checkpoint(path) for path in runs.values()]
    ask = indexer.IndexRequest(
        tokens=amounts.indexed, ablate=amounts.ablated, lens_prompts=amounts.lens_prompts, resume=True
    )
    indexer.index([(model, checkpoints)], texts, settings=settings, console=console, request=ask)


def _indexed(settings: Settings, model: str, sources: Sequence[str]) -> bool:
    store = Store(settings)
    try:
        present = {(layer.model, layer.source) for summary in store.home().models for layer in summary.layers}
        return all((model, source) in present for source in sources)
    except (NoIndex, WrongVersion):
        return False
    finally:
        store.close()
