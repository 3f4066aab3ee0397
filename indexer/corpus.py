"""One streaming pass over a corpus: what every feature of several dictionaries of one model fires on.

State is bounded by features, not by corpus; the corpus itself is kept once, as the token ids of its passages.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.firings import Firings, firings, windows
from indexer.pools import Pool, priority
from indexer.statistics import Statistics, position_edges
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import EvidenceCounts, Place, places
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import FiringSums
from lexiscope.text import Batch, batches

TOP, SAMPLED, NEAR_MISSES = 20, 25, 5
SPARE = 4
"""Top contexts kept beyond TOP, for those that turn out to repeat a text."""
LOSERS = 4
"""Pre-activations a token that just lost the selection and are looked at as near misses."""


class Subject(NamedTuple):
    """A dictionary to index, with its names."""

    layer: int
    dictionary: Dictionary
    names: Tensor
    """[d_sae] token ids"""
    logit_tokens: Tensor
    """[d_sae] the top token of each direction through norm and unembedding"""


class Observed(NamedTuple):
    """Everything one pass learned of one dictionary."""

    statistics: Statistics
    firing: FiringSums
    evidence: EvidenceCounts
    top: Pool
    sample: Pool
    near_misses: Pool
    logit_hits: Tensor
    """[d_sae] firings that the top logit token follows"""


class Corpus(NamedTuple):
    passages: list[np.ndarray]
    """token ids of each passage, BOS included"""
    occurrences: np.ndarray
    """[vocab]"""
    covariances: dict[int, Tensor]
    """{layer: [d, d] covariance of the residual stream, over the first batch}"""
    observed: list[Observed]
    """one a subject, in order"""
    mean_norms: dict[int, float]
    position_totals: np.ndarray


@torch.inference_mode()
def read_corpus(
    model: LanguageModel,
    subjects: Sequence[Subject],
    stream: Iterable[np.ndarray],
    *,
    families: Tensor,
    controls: Tensor,
    length: int = 256,
    advance: Callable[[int], None] = lambda n: None,
) -> Corpus:
    """families [vocab, m] and controls [vocab, draws] as in `lexiscope.evidence`. `advance` is told of positions read."""
    kept: list[np.ndarray] = []

    def keeping() -> Iterable[np.ndarray]:
        for passage in stream:
            kept.append(passage)
            yield passage

    observed = [
        Observed(
            Statistics(s.dictionary.d_sae, model.vocab_size, length),
            FiringSums(s.dictionary.d_sae),
            EvidenceCounts(s.names, families, controls),
            Pool(s.dictionary.d_sae, TOP + SPARE, one_a_passage=True),
            Pool(s.dictionary.d_sae, SAMPLED, one_a_passage=False),
            Pool(s.dictionary.d_sae, NEAR_MISSES, one_a_passage=True),
            torch.zeros(s.dictionary.d_sae, dtype=torch.long),
        )
        for s in subjects
    ]
    layers = sorted({s.layer for s in subjects})
    occurrences = torch.zeros(model.vocab_size, dtype=torch.long)
    covariances: dict[int, Tensor] = {}
    norms = dict.fromkeys(layers, 0.0)
    edges = position_edges(length)
    totals = np.zeros(len(edges) - 1, np.int64)
    for batch in batches(keeping(), tokens=4096):
        residuals = model.read(batch.tokens.to(model.device), layers)
        mask = batch.mask
        occurrences += torch.bincount(batch.tokens[mask], minlength=model.vocab_size)
        position = mask.nonzero()[:, 1].numpy()
        totals += np.bincount(np.searchsorted(edges, position, side="right") - 1, minlength=len(totals))
        for layer in layers:
            norms[layer] += residuals[layer][mask].norm(dim=-1).sum(dtype=torch.float64).item()
            if layer not in covariances:
                covariances[layer] = torch.cov(residuals[layer][mask].float().T)
        where = places(batch.tokens, batch.next_tokens, mask)
        for subject, seen in zip(subjects, observed, strict=True):
            _observe(seen, subject, batch, mask, where, residuals[subject.layer][mask])
        advance(int(mask.sum()))
    n = max(int(totals.sum()), 1)
    return Corpus(kept, occurrences.numpy(), covariances, observed, {layer: norm / n for layer, norm in norms.items()}, totals)


def _observe(seen: Observed, subject: Subject, batch: Batch, mask: Tensor, where: Place, x: Tensor) -> None:
    dictionary = subject.dictionary
    code, lost = dictionary.select(x, lost=LOSERS)
    row, position = mask.nonzero(as_tuple=True)
    passage = torch.tensor(batch.passages)[row]
    found = firings(code, passage, position)
    row_of = np.zeros(max(batch.passages) + 1, np.int64)
    row_of[batch.passages] = np.arange(len(batch.passages))
    seen.statistics.add(found, batch.tokens.numpy()[row_of[found.passage], found.position], len(x))
    seen.firing.add(code)
    seen.evidence.add(code, where)
    _offer(seen.top, found, *found, key=found.value)
    _offer(seen.sample, found, *found, key=priority(found.feature, found.passage, found.position))
    hits = (subject.logit_tokens[code.indices] == where.following[:, None]) & (code.values > 0)
    seen.logit_hits.add_(torch.bincount(code.indices[hits], minlength=dictionary.d_sae))
    at, column = (lost.values > 0).nonzero(as_tuple=True)
    value = lost.values[at, column].numpy()
    _offer(seen.near_misses, found, lost.indices[at, column].numpy(), passage[at].numpy(), position[at].numpy(), value, key=value)


def _offer(
    pool: Pool, found: Firings, feature: np.ndarray, passage: np.ndarray, position: np.ndarray, value: np.ndarray, *, key: np.ndarray
) -> None:
    rows = pool.candidates(feature, passage, key)
    feature, passage, position = feature[rows], passage[rows], position[rows]
    around = windows(found, feature, passage, position)
    pool.add(feature=feature, passage=passage, position=position, key=key[rows], value=value[rows], around=around)
