"""`make perf`: one page of ratios, a few minutes long: what Lexiscope's main paths cost beside the work that
they cannot do without, with the last committed figures of this kind of CPU beside them.

Times are CPU times of one thread, and both sides of a ratio are taken in turns, so that it holds on a busy
machine too; ratios that grew by more than a tenth are marked. `--write` commits new figures for this machine.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastapi.testclient import TestClient
from rich.console import Console

import indexer
import trainer
from bench.index_speed import Turns
from bench.peers.activations import synthetic
from bench.peers.lexiscope_trainer import Trainer
from bench.report import Report, machine, write_option
from bench.steer_speed import DEMO, PROMPT, does, ratio, setting, write
from experiments.page import RESULTS
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.precision import fast_dtype
from lexiscope.settings import Settings
from lexiscope.text import batches, passages
from server import create_app
from server.live.interventions import make_plan
from server.live.model_cache import ModelCache
from trainer.activations.harvest import harvest

TEXT = str(DEMO.parent / "corpus.txt.xz")
LAYER, TOKENS, PAIRS = 4, 40_000, 7
GREW = 1.1
"""A ratio this many times the committed one is marked."""
Figures = dict[str, float]


def seconds(work: Callable[[], object]) -> float:
    """CPU time."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def in_turns(base: Callable[[], object], whole: Callable[[], object], pairs: int = PAIRS) -> float:
    return ratio(pairs, lambda: seconds(base), lambda: seconds(whole))[2]


def training(recipe: str, d: int, width: int, *, batch: int = 2048) -> float:
    """A step ÷ the encoder's matrix product, of which a step needs at least one."""
    sample = synthetic(4 * batch, d, width)
    fit = Trainer(sample.x, tokens=sample.tokens, d_sae=width, k=32, batch=batch, steps=1000, recipe=recipe)
    dtype = fast_dtype(torch.device("cpu"))
    x, weights = sample.x[:batch].to(dtype), torch.randn(d, width).to(dtype)
    order: Iterator[int] = iter(range(10**6))
    rows = torch.arange(len(sample.x)).split(batch)
    return in_turns(lambda: x @ weights, lambda: fit.step(rows[next(order) % len(rows)]))


def recipes(base: str, whole: str, d: int, width: int, *, batch: int = 2048) -> float:
    """A step of one recipe ÷ a step of another."""
    sample = synthetic(4 * batch, d, width)
    rows = torch.arange(len(sample.x)).split(batch)

    def stepping(recipe: str) -> Callable[[], None]:
        fit = Trainer(
            sample.x,
            tokens=sample.tokens,
            d_sae=width,
            k=32,
            batch=batch,
            steps=1000,
            recipe=recipe,
            embedding=sample.embedding,
        )
        order: Iterator[int] = iter(range(10**6))
        return lambda: fit.step(rows[next(order) % len(rows)])

    return in_turns(stepping(base), stepping(whole))


def harvesting(model: LanguageModel, text: list[np.ndarray]) -> float:
    """Reading activations to a file ÷ the model's blocks up to that layer."""

    def forward() -> None:
        with torch.inference_mode():
            for batch in batches(text, tokens=4096):
                model.read(batch.tokens, [LAYER], fast=True)

    def whole() -> None:
        with harvest(model, text, layers=[LAYER]):
            pass

    return in_turns(forward, whole, 3)


def steering(folder: Path) -> float:
    """Two rows, one of them steered ÷ two plain rows."""
    where = setting("demo", str(DEMO), folder)
    model = load_language_model(where.path, model_id=where.name)
    prompt = model.tokenise(PROMPT)
    plan = make_plan([does(where, "add")], ModelCache().dictionary, model, prompt=len(prompt))
    pair = ratio(3, lambda: write(model, prompt, [None, None]), lambda: write(model, prompt, [None, plan]))
    return pair[2]


def reading(settings: Settings) -> tuple[float, float]:
    """CPU milliseconds of a feature's page, median of 200, and how many times those of its record as JSON."""
    app = create_app(settings.model_copy(update={"answers_memory": 0}))
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as client:
        pages = [client.get("/random").headers["location"] for _ in range(50)]
        html = [1000 * seconds(partial(client.get, page)) for page in pages * 4]
        record = [1000 * seconds(partial(client.get, f"{page}.json")) for page in pages * 4]
    return statistics.median(html), statistics.median(html) / statistics.median(record)


def measure(folder: Path, console: Console) -> Figures:
    torch.set_num_threads(1)
    found: Figures = {}

    def keep(name: str, figure: float) -> None:
        found[name] = figure
        console.print(f"{name}: {figure:.2f}", highlight=False)

    keep("training step, plain, d 256, F 8,192 ÷ encoder product", training("plain", 256, 8192))
    keep("training step, plain, d 576, F 16,384 ÷ encoder product", training("plain", 576, 16_384))
    keep("training step, cone, d 256, F 8,192 ÷ encoder product", training("cone", 256, 8192))
    look_up, cones = recipes("matched", "vasae", 256, 8192), recipes("matched", "cone", 256, 8192)
    keep("training step with a token look-up ÷ without", look_up)
    keep("training step with cones ÷ without", cones)
    model = load_language_model(str(DEMO), model_id="demo")
    keep("harvest ÷ forward pass", harvesting(model, list(passages(model, [TEXT], tokens=20_000))))
    settings = Settings(index=folder / "index", runs=folder / "runs", lenses=folder / "lenses")
    plan = trainer.Plan(
        [TEXT], [(trainer.recipe("vasae"), [LAYER])], settings.runs, 40_000, 60_000, 2_000, ce_tokens=2_000
    )
    quiet = Console(quiet=True)
    (run,) = trainer.train(model, plan, console=quiet)
    turns = Turns(model, [run], [TEXT], tokens=TOKENS, length=256)
    keep("index, reading the text ÷ forward pass and encoding", turns.run().ratio)
    request = indexer.IndexRequest(tokens=TOKENS, ablate=0)
    plain = seconds(lambda: index(model, run, settings, request))
    keep("index, everything but ablation ÷ forward pass and encoding", plain / turns.alone.cpu)
    ablated = seconds(lambda: index(model, run, settings, request._replace(ablate=2)))
    keep("ablation, two contexts a feature ÷ reading the text", (ablated - plain) / turns.indexing.cpu)
    page, twin = reading(settings)
    keep("feature page, CPU ms", page)
    keep("feature page ÷ its JSON", twin)
    keep("steered row ÷ plain row", steering(folder))
    return found


def index(model: LanguageModel, run: Path, settings: Settings, request: indexer.IndexRequest) -> None:
    indexer.index(
        [(model, [load_checkpoint(run)])],
        [TEXT],
        settings=settings,
        console=Console(quiet=True),
        request=request,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    write_option(parser)
    given = parser.parse_args()
    kept_at = RESULTS / "perf.json"
    kept: dict[str, Figures] = json.loads(kept_at.read_text()) if kept_at.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="perf-") as place:
        found = measure(Path(place), Console(stderr=True))
    before = kept.get(machine(), {})
    report = Report("perf")
    table = report.table("", ["", "now", "committed", ""])
    for name, figure in found.items():
        old = before.get(name)
        grew = "grew" if old and figure > GREW * old else ""
        table.rows.append([name, f"{figure:.2f}", "–" if old is None else f"{old:.2f}", grew])
    print("\n".join(report.lines()))
    if given.write:
        kept[machine()] = {name: round(figure, 3) for name, figure in found.items()}
        kept_at.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
