"""`python -m experiments.rivals RUN... --text FILE...`: our lists of what features read and write beside
those of others, on the same features and passages. Adds its rows to results/rivals.json, in place of
older ones of the same dictionary, and writes the table of docs/results.md (`--page`: the table alone).

Scores of a list T of n tokens (Lee et al. 2026, arXiv 2606.07617, §5): I@n, the share of the feature's
strongest tokens, one a passage, that are in T up to case and outer space; O@n = |S ∩ T| / n, with S the n
tokens whose rank percentile rises most when the direction is added at the last position of neutral prefixes,
averaged over KL 0.25 and 0.5 nats. Lists are made on the half of the passages that names are chosen on, and
scored on the other half; prefixes are of passages that no list has seen.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.figures import keep_row, kept_rows
from experiments.page import DOCS, RESULTS, dictionary_name, fill, table
from indexer.causal.steering import KL, Ground, neutral_prefixes
from indexer.lenses import lens_prompts
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import CHOOSING, FlatText, halves_of
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import passages
from lexiscope.tokens import folded

KEPT, PAGE = RESULTS / "rivals.json", DOCS / "results.md"
N = 25
CONTEXTS = 20
"""Least passages in which a feature fires, in either half."""
LEVELS = (KL / 2, KL)
READ, WRITTEN = "reads, ours", "writes, ours (Jacobian lens)"
OURS = (READ, WRITTEN)
CEILING = "steering, other prefixes"
"""what O@n is of, but on the prefixes that TokenChange uses: as far as a list can be right on both"""
SCORES = ("I@25", "I@1", "O@25", "O@1")
"""each a mean over features and its standard error"""
LISTS = (
    READ,
    "highest lift",
    "strongest activation",
    "nearest anchors",
    "Query Lens, key",
    "logit lens, key",
    WRITTEN,
    "Query Lens, value",
    "logit lens, value",
    "TokenChange",
    CEILING,
)


class Firings(NamedTuple):
    """One row a firing."""

    feature: np.ndarray
    """its number; in a sample, its place there"""
    passage: np.ndarray
    token: np.ndarray
    value: np.ndarray

    def of(self, sample: np.ndarray) -> "Firings":
        """Those of the features `sample`, which ascend."""
        place = np.searchsorted(sample, self.feature).clip(max=len(sample) - 1)
        mine = sample[place] == self.feature
        return Firings(place[mine], self.passage[mine], self.token[mine], self.value[mine])


class Cell(NamedTuple):
    """What a cell is measured on."""

    model: LanguageModel
    layer: int
    dictionary: Dictionary
    choosing: list[np.ndarray]
    judging: list[np.ndarray]
    prefixes: list[np.ndarray]


@torch.no_grad()
def firings(ground: Cell, texts: list[np.ndarray]) -> Firings:
    columns: list[tuple[np.ndarray, ...]] = []
    for number, passage in enumerate(texts):
        tokens = torch.from_numpy(passage.astype(np.int64))[None]
        x = ground.model.read(tokens, [ground.layer])[ground.layer][0, 1:]
        code = ground.dictionary.encode(x, tokens[0, 1:])
        values, features = code.values.numpy(), code.indices.numpy()
        rows, at = np.nonzero(values > 0)
        columns.append((features[rows, at], np.full(len(rows), number), passage[1:][rows], values[rows, at]))
    return Firings(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def drawn(halves: Sequence[Firings], d_sae: int, n: int, seed: int) -> np.ndarray:
    """Up to n features that fire in at least CONTEXTS passages of either half, drawn by seed; ascending."""
    able = np.ones(d_sae, bool)
    for found in halves:
        pairs = np.unique(found.feature.astype(np.int64) << 24 | found.passage)
        able &= np.bincount(pairs >> 24, minlength=d_sae) >= CONTEXTS
    order = np.random.default_rng(seed).permutation(np.flatnonzero(able))
    return np.sort(order[:n])


def strongest(found: Firings) -> dict[int, np.ndarray]:
    """Feature → the token of its strongest firing in each passage."""
    order = np.lexsort((-found.value, found.passage, found.feature))
    pair = found.feature[order].astype(np.int64) << 24 | found.passage[order]
    first = order[np.unique(pair, return_index=True)[1]]
    return {f: found.token[first[found.feature[first] == f]] for f in np.unique(found.feature).tolist()}


def padded(tokens: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(tokens))[:N]


def read_lists(
    found: Firings, occurrences: np.ndarray, spelled: Sequence[str], n: int
) -> dict[str, list[list[int]]]:
    """Lists from the firings of the choosing half: spellings by their share of the firings, those that the
    feature fires on no more often than they occur left out (ours); tokens by lift; tokens by activation.
    """
    rate = occurrences / max(occurrences.sum(), 1)
    spelling = np.unique(np.array(spelled), return_inverse=True)[1]
    spelling_rate = np.bincount(spelling, rate)
    lists: dict[str, list[list[int]]] = {READ: [], "highest lift": [], "strongest activation": []}
    for feature in range(n):
        own = found.feature == feature
        tokens, values = found.token[own], found.value[own]
        each, first, counts = np.unique(spelling[tokens], return_index=True, return_counts=True)
        more = counts > spelling_rate[each] * len(tokens)
        order = np.argsort(-counts[more], kind="stable")
        lists[READ].append(padded(tokens[first[more][order]].tolist()))
        lists["highest lift"].append(padded(_by_score(tokens, rate)))
        lists["strongest activation"].append(padded(tokens[np.argsort(-values, kind="stable")].tolist()))
    return lists


def _by_score(units: np.ndarray, rate: np.ndarray) -> list[int]:
    """Distinct units by share · log(share / rate), the largest first."""
    each, counts = np.unique(units, return_counts=True)
    share = counts / max(len(units), 1)
    score = share * np.log(share / np.maximum(rate[each], 1e-12))
    return [int(each[at]) for at in np.argsort(-score, kind="stable")]


@torch.no_grad()
def direction_lists(
    ground: Cell, run: Checkpoint, sample: Tensor, lens: Tensor, prompts: Sequence[Tensor], mean_norm: float
) -> dict[str, list[list[int]]]:
    model, own = ground.model, ground.dictionary.directions[sample]
    carried, encoder = own @ lens.T, ground.dictionary.W_enc.T[sample]
    embedding = model.embedding - model.embedding.mean(0)
    unit = F.normalize(embedding, dim=1)
    pulled = model.pulled_back(prompts, ground.layer, F.normalize(encoder, dim=1).clone())
    found = {
        "Query Lens, value": model.unembed_residual(carried),
        "logit lens, value": model.read_out(own),
        "Query Lens, key": pulled @ unit.T,
        "logit lens, key": encoder @ model.embedding.T,
    }
    if run.fit is not None:
        found["nearest anchors"] = own @ F.normalize(run.fit.anchors, dim=1).T
    others = neutral_prefixes(ground.choosing, n=len(ground.prefixes))
    steered = Ground(model, ground.layer, others, mean_norm=mean_norm, fast=True)
    found["TokenChange"] = changes(steered, own, (KL,), logits=True)
    found[CEILING] = changes(steered, own, LEVELS)
    lists = {name: scores.topk(N, dim=1).indices.tolist() for name, scores in found.items()}
    return {WRITTEN: model.written(carried, N).indices.tolist(), **lists}


def changes(ground: Ground, directions: Tensor, levels: Sequence[float], *, logits: bool = False) -> Tensor:
    """[m, vocab] the rise of each token's rank percentile (or of its log probability) on average over
    prefixes and levels of KL.
    """
    vocab = ground.model.vocab_size
    total = torch.zeros(len(directions), vocab)
    nothing = torch.zeros(len(directions), 1, dtype=torch.long)
    for level in levels:
        strength = ground.at_equal_kl(directions, nothing, kl=level).strength
        for rows in torch.arange(len(directions)).split(64):
            steered = ground.log_probabilities(directions[rows], strength[rows])
            for default, after in zip(ground.defaults, steered, strict=True):
                if logits:
                    total[rows] += after - default
                else:
                    total[rows] += (ranks(default[None]) - ranks(after)) / vocab
    return total / (len(levels) * len(ground.prefixes))


def ranks(values: Tensor) -> Tensor:
    """[n, vocab] place of each token, 0 = most likely."""
    order = values.argsort(dim=1, descending=True)
    places = torch.arange(values.shape[1], dtype=torch.float32, device=values.device)
    return torch.empty_like(values).scatter_(1, order, places.expand_as(values))


def measure(
    ground: Cell, run: Checkpoint, *, n: int, lens: Tensor, key_prompts: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One row a list."""
    model, halves = ground.model, [firings(ground, texts) for texts in (ground.choosing, ground.judging)]
    sample = drawn(halves, ground.dictionary.d_sae, n, seed)
    if not len(sample):
        sys.exit(f"{run.path}: no feature fires in {CONTEXTS} passages of either half; give more --tokens.")
    n = len(sample)
    chosen, judged = (found.of(sample) for found in halves)
    occurrences = np.bincount(np.concatenate([p[1:] for p in ground.choosing]), minlength=model.vocab_size)
    x = torch.cat(
        [
            model.read(torch.from_numpy(p.astype(np.int64))[None], [ground.layer])[ground.layer][0, 1:]
            for p in ground.choosing[:16]
        ]
    )
    mean_norm = x.norm(dim=-1).mean().item()
    rows = torch.from_numpy(sample)
    spelled = [folded(raw) or raw.decode("latin-1") for raw in model.vocabulary.raw]
    lists = read_lists(chosen, occurrences, spelled, n)
    lists |= direction_lists(ground, run, rows, lens, lens_prompts(ground.choosing, key_prompts), mean_norm)
    held_out = Ground(model, ground.layer, ground.prefixes, mean_norm=mean_norm, fast=True)
    oracle = changes(held_out, ground.dictionary.directions[rows], LEVELS).topk(N, dim=1).indices.tolist()
    best = strongest(judged)
    for name in (name for name in LISTS if name in lists):
        tokens = lists[name]
        per_feature = np.array(
            [[*inputs(tokens[f], best[f], spelled), *outputs(tokens[f], oracle[f])] for f in range(n)]
        )
        yield {
            "names": name,
            "features": n,
            **{
                score: [round(float(column.mean()), 4), round(float(column.std() / n**0.5), 4)]
                for score, column in zip(SCORES, per_feature.T, strict=True)
            },
        }


def inputs(tokens: Sequence[int], strongest: np.ndarray, spelled: Sequence[str]) -> tuple[float, float]:
    """I@25 and I@1 of a list."""
    held = [spelled[token] for token in strongest.tolist()]
    every, first = {spelled[token] for token in tokens}, {spelled[token] for token in tokens[:1]}
    return float(np.mean([s in every for s in held])), float(np.mean([s in first for s in held]))


def outputs(tokens: Sequence[int], oracle: Sequence[int]) -> tuple[float, float]:
    """O@25 and O@1 of a list."""
    return len(set(tokens) & set(oracle)) / N, float(tokens[:1] == list(oracle[:1]))


def write_page(page: Path = PAGE, kept: Path = KEPT) -> None:
    lines = []
    for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]:
        shown = f"**{row['names']}**" if row["names"] in OURS else row["names"]
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in (row[score] for score in SCORES)]
        lines.append([f"{dictionary_name(row['dictionary'])} ({row['features']})", shown, *cells])
    fill(page, {"rivals": table(["dictionary (features)", "list", *SCORES], lines)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--model", help="instead of the one that the runs record")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=128, help="tokens of a passage")
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--lens-prompts", type=int, default=60)
    parser.add_argument("--key-prompts", type=int, default=8, help="prompts behind the key list")
    parser.add_argument("--prefixes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write the table from results/ and stop")
    given = parser.parse_args()
    if given.page:
        return write_page()
    kept = kept_rows(KEPT, "experiments.rivals")
    lenses: dict[tuple[str, int], Tensor] = {}
    for path in given.runs:
        run = load_checkpoint(path)
        model = load_language_model(given.model or run.model, model_id=run.details.get("model_id"))
        texts = list(passages(model, given.text, length=given.length, tokens=given.tokens))
        halves = np.array([halves_of(FlatText([p], filters=False))[0] for p in texts])
        choosing = [p for p, half in zip(texts, halves, strict=True) if half == CHOOSING]
        judging = [p for p, half in zip(texts, halves, strict=True) if half != CHOOSING]
        ground = Cell(
            model, run.layer, run.dictionary, choosing, judging, neutral_prefixes(judging, n=given.prefixes)
        )
        if (model.id, run.layer) not in lenses:
            fitted = model.jacobians(
                lens_prompts(ground.choosing, given.lens_prompts), [run.layer], fast=True
            )
            lenses[model.id, run.layer] = fitted.get(run.layer, torch.eye(model.d_model))
        for row in measure(
            ground,
            run,
            n=given.features,
            lens=lenses[model.id, run.layer],
            key_prompts=given.key_prompts,
            seed=given.seed,
        ):
            keep_row(KEPT, kept, {"dictionary": f"{model.id}/{run.layer}-{run.set_name}", **row})
            print(json.dumps(row))
    write_page()


if __name__ == "__main__":
    main()
