"""What `lexiscope demo` builds: the bundled model's dictionaries and their index, each step skipped where it is already done."""

from pathlib import Path

from rich.console import Console

import indexer
import trainer
from lexiscope.checkpoint import CONFIG, load_checkpoint
from lexiscope.language_model import load_language_model
from lexiscope.settings import DATA, Settings
from store import NoIndex, NotFound, Store, WrongVersion

MODEL = DATA / "demo" / "model"
TEXT = str(DATA / "demo" / "corpus.txt.xz")
MODEL_ID = "demo"
PLAIN_LAYERS = (0, 2, 5)
TOKENS, SEEN, EVAL_TOKENS, INDEX_TOKENS = 250_000, 250_000, 8_000, 300_000


def build(settings: Settings, console: Console) -> None:
    """Raises LexiscopeError with what is missing; checkpoints that stand are never trained again."""
    runs = settings.runs / MODEL_ID
    model = load_language_model(str(MODEL), model_id=MODEL_ID)
    wanted = [("vasae", layer) for layer in range(model.n_layers)] + [("plain", layer) for layer in PLAIN_LAYERS]
    missing = [(name, layer) for name, layer in wanted if not (runs / f"{layer}-{name}" / CONFIG).is_file()]
    if missing:
        asked = [(trainer.recipe(name), [layer]) for name, layer in missing]
        plan = trainer.Plan(sources=[TEXT], runs=asked, out=settings.runs, tokens=TOKENS, seen=SEEN, eval_tokens=EVAL_TOKENS)
        trainer.train(model, plan, console=console)
    if missing or not _indexed(settings, [f"{layer}-{name}" for name, layer in wanted]):
        checkpoints = [load_checkpoint(Path(runs, f"{layer}-{name}")) for name, layer in wanted]
        indexer.index([(model, checkpoints)], [TEXT], settings=settings, console=console, tokens=INDEX_TOKENS)


def _indexed(settings: Settings, sources: list[str]) -> bool:
    store = Store(settings)
    try:
        there = {(layer.model, layer.source) for model in store.home().models for layer in model.layers}
        return all((MODEL_ID, source) in there for source in sources)
    except (NoIndex, NotFound, WrongVersion):
        return False
    finally:
        store.close()
