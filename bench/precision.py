"""What bf16 changes where the machine multiplies it faster (`lexiscope.precision`): activations, evaluation
and index of some dictionaries, each made in float32 and in bf16.

    python -m bench.precision RUN... --text FILE
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

import indexer
from bench.report import Report, times, write_option
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.largest import Columns
from lexiscope.settings import Settings
from lexiscope.text import batches, passages
from trainer.evaluation import Candidate, Measured, measure

T = TypeVar("T")
PRECISIONS = ("float32", "bfloat16")


class Timed(NamedTuple):
    value: Any
    cpu: float
    """seconds"""


@contextmanager
def precision(asked: str) -> Iterator[None]:
    before = os.environ.get("LEXISCOPE_PRECISION", "auto")
    os.environ["LEXISCOPE_PRECISION"] = asked
    try:
        yield
    finally:
        os.environ["LEXISCOPE_PRECISION"] = before


def in_both(work: Callable[[], Any]) -> list[Timed]:
    """What `work` gives in either precision, with the CPU time it takes."""
    found = []
    for asked in PRECISIONS:
        with precision(asked):
            begun = time.process_time()
            found.append(Timed(work(), time.process_time() - begun))
    return found


def activations(model: LanguageModel, layers: Sequence[int], texts: list[np.ndarray]) -> dict[int, Any]:
    """{layer: [n, d_model]} without position 0."""
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for batch in batches(texts, tokens=4096):
        for layer, x in model.read(batch.tokens, layers, fast=True).items():
            found[layer].append(x[batch.mask].float())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def index(model: LanguageModel, runs: Sequence[Path], text: Sequence[str], *, tokens: int) -> dict[str, Any]:
    """{dictionary/feature: (name, relation, words, verdict, judged share, its interval)} of live features."""
    with tempfile.TemporaryDirectory(prefix="precision-") as place:
        settings = Settings(index=Path(place))
        indexer.index(
            [(model, map(load_checkpoint, runs))],
            text,
            settings=settings,
            console=Console(quiet=True),
            request=indexer.IndexRequest(tokens=tokens, ablate=0),
        )
        (file,) = Path(place).glob("*.duckdb")
        with duckdb.connect(str(file), read_only=True) as database:
            rows = database.execute(
                'SELECT dictionary_id, "index", name_token, relation, word_tokens, verdict, relation_share,'
                " relation_low, relation_high FROM feature"
            ).fetchall()
    return {f"{row[0]}/{row[1]}": row[2:] for row in rows if row[5] != "dead"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="dictionaries of one model")
    parser.add_argument("--model", help="folder of the model, unless the dictionaries say")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument(
        "--tokens", type=int, default=40_000, help="to index; a quarter of them to evaluate on"
    )
    write_option(parser)
    given = parser.parse_args()
    checkpoints = [load_checkpoint(run) for run in given.runs]
    model = load_language_model(given.model or checkpoints[0].config["metadata"]["model_name"])
    texts = list(passages(model, given.text, tokens=given.tokens // 4))
    report = Report("precision")
    title = f"{model.id}, {', '.join(run.name for run in given.runs)}, {torch.get_num_threads()} threads"
    table = report.table(title, ["", "float32", "bf16", "they agree", "CPU s", "CPU s in bf16", ""])

    def row(what: str, pair: Sequence[Timed], *figures: str) -> None:
        exact, rounded = pair
        seconds = f"{exact.cpu:.1f}", f"{rounded.cpu:.1f}", times(rounded.cpu, exact.cpu)
        table.rows.append([what, *figures, *seconds])

    layers = sorted({checkpoint.layer for checkpoint in checkpoints})
    pair = in_both(lambda: activations(model, layers, texts))
    cosines = [
        F.cosine_similarity(exact - exact.mean(0), pair[1].value[layer] - exact.mean(0), dim=-1)
        for layer, exact in pair[0].value.items()
    ]
    least = min(float(cosine.mean()) for cosine in cosines)
    row("activations, mean cosine about their mean, least layer", pair, "", "", f"{least:.5f}")

    def evaluate() -> list[Measured]:
        candidates = [Candidate(c.layer, c.dictionary, c.fit, 0) for c in checkpoints if c.fit is not None]
        return measure(model, candidates, texts, rivals=False)

    pair = in_both(evaluate)
    for run, exact, rounded in zip(given.runs, pair[0].value, pair[1].value, strict=True):
        low, high = exact.metrics["delta_ce_ci"]
        within = "yes" if low <= rounded.metrics["delta_ce"] <= high else "no"
        figures = [f"{found.metrics['delta_ce']:.4f}" for found in (exact, rounded)]
        row(f"{run.name}: ΔCE ({low:.4f}–{high:.4f})", pair, *figures, f"within the interval: {within}")
        figures = [f"{found.metrics['fve']:.4f}" for found in (exact, rounded)]
        table.rows.append([f"{run.name}: FVE", *figures, "", "", "", ""])

    rows = torch.cat([checkpoint.dictionary.directions for checkpoint in checkpoints])
    fit = checkpoints[0].fit
    assert fit is not None
    columns = F.normalize(fit.anchors, dim=-1)
    pair = in_both(lambda: Columns(columns).largest(rows, 6))
    same = (pair[0].value.indices == pair[1].value.indices).float()
    row("six nearest anchors of each row", pair, "", "", f"{float(same.mean()):.2%} of the tokens")

    pair = in_both(lambda: index(model, given.runs, given.text, tokens=given.tokens))
    exact, rounded = (found.value for found in pair)
    both = exact.keys() & rounded.keys()

    def agree(*columns: int) -> str:
        return f"{sum(all(exact[f][c] == rounded[f][c] for c in columns) for f in both) / len(both):.1%}"

    row("index: live features", pair, f"{len(exact):,}", f"{len(rounded):,}", f"{len(both):,} in both")
    table.rows += [
        [f"of these: {what}", "", "", agree(*columns), "", "", ""]
        for what, columns in (("name", (0,)), ("relation and words", (1, 2)), ("verdict", (3,)))
    ]
    differing = [
        f for f in both if exact[f][1:3] != rounded[f][1:3] and None not in (exact[f][4], rounded[f][4])
    ]
    if differing:
        shares = [sum(found[f][4] for f in differing) / len(differing) for found in (exact, rounded)]
        inside = sum(exact[f][5] <= rounded[f][4] <= exact[f][6] for f in differing) / len(differing)
        table.rows.append(
            [
                f"of the {len(differing):,} whose words differ: share of the judged firings",
                *(f"{share:.3f}" for share in shares),
                f"within float32's interval: {inside:.0%}",
                *["", "", ""],
            ]
        )
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
