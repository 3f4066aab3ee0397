"""`python -m experiments.false_positives RUN... --text FILE...`: how often the verdict is wrong, on names
that know nothing of behaviour.

A plain dictionary is named by the nearest of Gaussian, rotated or permuted anchors, and by its own names
permuted among its live features: any verdict but `unsupported` is then a false positive. A dictionary trained
on such anchors is measured as it is. All ways of naming a dictionary share one pass over the text; the
ablation pass runs on a random sample of live features. Adds its rows to results/false-positives.json, in
place of older rows of the same names, and writes the table of docs/evidence.md (`--page`: the table alone).
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.figures import keep_row, kept_rows
from experiments.page import DOCS, RESULTS, fill, table
from indexer.causal.ablation import AblationRequest, ablate, spread_over_activations
from indexer.causal.effects import CONTEXTS
from indexer.causal.scores import STRENGTH, input_scores, output_scores
from indexer.counts.firings import TextFirings, text_firings
from lexiscope.anchor_sets import ANCHOR_SETS, CONTROLS, Material
from lexiscope.anchors import TokenSums, nearest_tokens
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.evidence import (
    FDR,
    Evidence,
    EvidenceCounts,
    FlatText,
    NameTables,
    ablation_p,
    benjamini_hochberg,
    matched_controls,
)
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.metrics import FiringSums
from lexiscope.sparse_code import SparseCode
from lexiscope.text import batches, passages
from lexiscope.vocabulary_tables import family_table

KEPT, PAGE = RESULTS / "false-positives.json", DOCS / "evidence.md"


class Observed(NamedTuple):
    """What one pass over the text keeps of one dictionary."""

    codes: list[tuple[SparseCode, FlatText]]
    fired: TextFirings
    live: Tensor
    material: Material
    mean_norm: float


class Naming(NamedTuple):
    words: str
    names: Tensor


@torch.inference_mode()
def observe(model: LanguageModel, run: Checkpoint, texts: list[np.ndarray]) -> Observed:
    layer = int(run.details["layer"])
    assert run.fit is not None
    sums, firing = TokenSums(model.vocab_size, model.d_model), FiringSums(run.dictionary.d_sae)
    codes, found = [], []
    square = torch.zeros(model.d_model, model.d_model)
    norm = 0.0
    for batch in batches(texts, tokens=4096):
        mask = batch.mask
        x = model.read(batch.tokens, [layer])[layer][mask]
        code = run.dictionary.encode(x, batch.tokens[mask])
        row, position = mask.nonzero(as_tuple=True)
        codes.append((SparseCode(code.values, code.indices), FlatText(batch.rows)))
        found.append(text_firings(code, torch.tensor(batch.passages)[row], position))
        firing.add(code)
        centred = x - run.fit.mean
        sums.add(batch.tokens[mask], centred)
        square += centred.T @ centred
        norm += x.norm(dim=-1).sum().item()
    fired = TextFirings(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    sums.counts.clamp_min_(
        1e-6
    )  # else tokens that do not occur would keep their own anchors when those are permuted
    material = Material(model.embedding, sums, square / firing.n)
    return Observed(codes, fired, firing.live, material, norm / firing.n)


def namings(run: Checkpoint, seen: Observed) -> Iterator[Naming]:
    """The dictionary's own names, and those of the controls that are meant for it."""
    assert run.fit is not None
    directions = run.dictionary.directions
    own = nearest_tokens(directions, run.fit.anchors, 1).tokens[:, 0]
    if run.details["set"] in CONTROLS:
        yield Naming(f"trained on {run.details['set']} anchors", own)
        return
    yield Naming("own names", own)
    for control in CONTROLS:
        yield Naming(
            f"nearest {control} anchor",
            nearest_tokens(directions, ANCHOR_SETS[control](seen.material), 1).tokens[:, 0],
        )
    alive = seen.live.nonzero().squeeze(1)
    dealt = own.clone()
    dealt[alive] = own[alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))]]
    yield Naming("own names, permuted among live features", dealt)


def best_of_each_passage(fired: TextFirings) -> TextFirings:
    order = np.lexsort((-fired.value, fired.passage, fired.feature))
    pair = fired.feature[order].astype(np.int64) * (int(fired.passage.max()) + 1) + fired.passage[order]
    return TextFirings(*(column[order[np.unique(pair, return_index=True)[1]]] for column in fired))


def shares(evidence: Evidence, tested: Tensor) -> dict[str, float]:
    """Share of the tested features by the tests that their names pass."""
    reads, predicts = (q[tested] <= FDR for q in (evidence.q_reads, evidence.q_predicts))
    parts = {"reads": reads & ~predicts, "predicts": predicts & ~reads, "both": reads & predicts}
    found = {name: holds.double().mean().item() for name, holds in parts.items()}
    return found | {"any": sum(found.values()), "supported": evidence.supported[tested].float().mean().item()}


def measure(
    model: LanguageModel, run: Checkpoint, texts: list[np.ndarray], kin: Tensor, *, tested: int
) -> Iterator[dict[str, Any]]:
    assert run.fit is not None
    layer = int(run.details["layer"])
    seen = observe(model, run, texts)
    controls = matched_controls(run.fit.counts)
    tables = NameTables(kin, controls)
    width = 1 + controls.shape[1]
    named = list(namings(run, seen))
    alive = seen.live.nonzero().squeeze(1)
    some = torch.zeros_like(seen.live)
    some[alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))[:tested]]] = True
    asked = torch.cat(
        [part for naming in named for part in (naming.names[:, None], controls[naming.names])], 1
    )
    begun = time.monotonic()
    chosen = spread_over_activations(seen.fired, some, CONTEXTS)
    [ablated] = ablate(model, texts, [AblationRequest(layer, run.dictionary, asked, chosen)])
    speed = len(ablated.feature) / (time.monotonic() - begun)
    top, most = best_of_each_passage(seen.fired), ablated.top1_shares(len(some))
    for at, naming in enumerate(named):
        counts = EvidenceCounts(naming.names, tables)
        for code, text in seen.codes:
            counts.add(code, text)
        column, others = at * width, slice(at * width + 1, (at + 1) * width)
        found = ablated.counts(naming.names[:, None], slice(column, column + 1), others)
        p = ablation_p(found, counts.occurrences[naming.names])
        scores = (
            *input_scores(top, texts, naming.names, controls, some),
            *output_scores(
                model, layer, run.dictionary, naming.names, controls, some, length=STRENGTH * seen.mean_norm
            ),
        )
        shares_of = (
            most[:, column],
            most[:, others].mean(1),
            found.hits / found.contexts,
            found.control_hits.float().mean(1) / found.contexts,
        )
        yield {
            "dictionary": f"{model.id}/{layer}-{run.details['set']}",
            "names": naming.words,
            "tokens": sum(len(passage) - 1 for passage in texts),
            "live": int(seen.live.sum()),
            "without": shares(counts.result(seen.live), seen.live),
            "tested": int(some.sum()),
            "without_tested": shares(counts.result(some), some),
            "with": shares(counts.result(some, p), some),
            "ablation": (benjamini_hochberg(p.nan_to_num(1), some)[some] <= FDR).float().mean().item(),
            "rank": ablated.medians(len(some), column)[some].nanmedian().item(),
            **{
                name: value[some].nanmean().item()
                for name, value in zip(MEANS, (*shares_of, *scores), strict=True)
            },
            "positions_a_second": speed,
        }


MEANS = (
    *("ablation_top1", "ablation_top1_null", "ablation_top5", "ablation_top5_null"),
    *("input_score", "input_score_null", "output_score", "output_score_null"),
)


def write_page(page: Path = PAGE, kept: Path = KEPT) -> None:
    """The table of docs/evidence.md; verdicts in per cent of live features, or of those that were ablated."""
    header = ["dictionary", "names", "tokens", "live", "reads", "predicts", "both", "**any**"]
    header += ["ablated", "**any, with ablation**", "top 5 (chance)", "input score (chance)"]
    rows = []
    for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]:
        verdicts = [f"{100 * row['without'][key]:.1f}" for key in ("reads", "predicts", "both", "any")]
        scores = [f"{row[key]:.3f} ({row[f'{key}_null']:.3f})" for key in ("ablation_top5", "input_score")]
        with_ablation = f"**{100 * row['with']['any']:.1f}**"
        counts = [row["dictionary"], row["names"], f"{row['tokens']:,}", f"{row['live']:,}"]
        rows.append(
            [*counts, *verdicts[:3], f"**{verdicts[3]}**", f"{row['tested']:,}", with_ablation, *scores]
        )
    fill(page, {"false positives": table(header, rows)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--text", nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--tested", type=int, default=2000, help="features of each dictionary to ablate")
    parser.add_argument("--page", action="store_true", help="write the table from results/ and stop")
    given = parser.parse_args()
    if given.page:
        return write_page()
    kept = kept_rows(KEPT, "experiments.false_positives")
    loaded: dict[str, tuple[LanguageModel, list[np.ndarray], Tensor]] = {}
    for path in given.runs:
        run = load_checkpoint(path)
        name = str(run.config["metadata"]["model_name"])
        if name not in loaded:
            model = load_language_model(name, model_id=run.details.get("model_id"))
            kin = family_table(model)
            loaded[name] = (model, list(passages(model, given.text, tokens=given.tokens)), kin)
        for row in measure(loaded[name][0], run, *loaded[name][1:], tested=given.tested):
            print(json.dumps(row), flush=True)
            keep_row(KEPT, kept, row)
    return write_page()


if __name__ == "__main__":
    main()
