"""What imported contexts say of each feature: which tokens it fires on, its name, and the evidence for that
name.

Rows here are the imported features in order of their indices. All counts are over the imported contexts
alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.exchange.neuronpedia.choose_contexts import Chosen, Texts
from indexer.exchange.neuronpedia.contents import Dashboards
from lexiscope.evidence import (
    NEAR,
    Evidence,
    EvidenceCounts,
    HighestLift,
    PositionTokens,
    families,
    highest_lift,
    lift_names,
    matched_controls,
)
from lexiscope.language_model import LanguageModel
from lexiscope.sparse_code import SparseCode
from lexiscope.tokens import Vocabulary

CHUNK = 65_536
"""Firings whose surroundings are looked at at once."""


class Firings(NamedTuple):
    """Each firing once, however many contexts show it."""

    row: np.ndarray
    at: np.ndarray
    """its position in `Texts.tokens`"""
    value: np.ndarray


class Behaviour(NamedTuple):
    firings: Firings
    occurrences: np.ndarray
    """[vocab] in the distinct texts"""
    peaks: Tensor
    """[rows] the token of highest lift among those that every other of its top contexts peaks on, −1 where it
    never fires
    """


class Judged(NamedTuple):
    evidence: Evidence
    lift: HighestLift
    logit_share: np.ndarray
    """[rows] share of the firings that its top logit token follows"""


def observe(
    found: Dashboards,
    chosen: Chosen,
    texts: Texts,
    index: np.ndarray,
    model: LanguageModel,
    *,
    name_by_peaks: bool,
) -> Behaviour:
    """index [rows] the imported features, ascending. The contexts that choose a name are left out of the
    firings that judge it: else almost any name would be supported.
    """
    row, at = np.searchsorted(index, chosen.feature), texts.starts[chosen.text] + chosen.place
    naming = np.array(
        [kind == "top" and rank % 2 == 0 for kind, rank in zip(chosen.kind, chosen.rank, strict=True)], bool
    )
    left_out = naming if name_by_peaks else np.zeros_like(naming)
    firings = _firings(found, chosen, texts, index, without=(row[left_out], at[left_out]))
    opens = texts.starts[:-1]
    opens = opens[texts.tokens[opens] == model.bos]
    counted = np.bincount(texts.tokens[texts.tokens >= 0], minlength=model.vocab_size)
    counted[model.bos] -= len(opens)  # position 0, which is never encoded
    columns = (
        torch.from_numpy(column.astype(np.int64))
        for column in (row[naming], texts.tokens[at[naming]], counted)
    )
    return Behaviour(firings, counted, lift_names(*columns, len(index)))


def judge(
    seen: Behaviour, texts: Texts, names: Tensor, live: Tensor, top_logit: np.ndarray, model: LanguageModel
) -> Judged:
    """Evidence for names [rows], by the definitions and the rule of an index of one's own; top_logit [rows],
    −1 for none.
    """
    n = len(names)
    occurrences = torch.from_numpy(seen.occurrences)
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    counts = EvidenceCounts(
        names, families(model.embedding.cpu(), vocabulary.folded()), matched_controls(occurrences)
    )
    followed = np.zeros(n, np.int64)
    for row, value, place in _places(seen.firings, texts):
        counts.add(SparseCode(torch.from_numpy(value)[:, None], torch.from_numpy(row)[:, None]), place)
        followed += np.bincount(row[place.following.numpy() == top_logit[row]], minlength=n)
    counts.occurrences = occurrences  # of the texts, not of the places that fire in them
    tokens = texts.tokens[seen.firings.at]
    pairs, times = np.unique(seen.firings.row * model.vocab_size + tokens, return_counts=True)
    columns = (pairs // model.vocab_size, pairs % model.vocab_size, times, counts.firings.numpy())
    lift = highest_lift(*(torch.from_numpy(column) for column in columns), occurrences)
    return Judged(counts.result(live), lift, followed / counts.firings.clamp_min(1).numpy())


def _firings(
    found: Dashboards,
    chosen: Chosen,
    texts: Texts,
    index: np.ndarray,
    *,
    without: tuple[np.ndarray, np.ndarray],
) -> Firings:
    positions, values = (
        np.array(found.contexts.positions, np.int64),
        np.array(found.contexts.values, np.float32),
    )
    entries = np.concatenate(
        [np.zeros(0, np.int64), *(np.arange(part.start, part.stop) for part in chosen.entries)]
    )
    lengths = [part.stop - part.start for part in chosen.entries]
    row = np.repeat(np.searchsorted(index, chosen.feature), lengths)
    at = np.repeat(texts.starts[chosen.text], lengths) + positions[entries]
    keys, first = np.unique(row * len(texts.tokens) + at, return_index=True)
    first = first[~np.isin(keys, without[0] * len(texts.tokens) + without[1])]
    first = first[texts.tokens[at[first]] >= 0]  # nothing can be said of a token that is not known
    return Firings(row[first], at[first], values[entries][first])


def _places(firings: Firings, texts: Texts) -> Iterator[tuple[np.ndarray, np.ndarray, PositionTokens]]:
    tokens = texts.tokens
    text = np.searchsorted(texts.starts, firings.at, side="right") - 1
    start, end = texts.starts[text], texts.starts[text + 1]
    for begin in range(0, len(firings.at), CHUNK):
        part = slice(begin, begin + CHUNK)
        at = firings.at[part]
        following = np.where(at + 1 < end[part], tokens[np.minimum(at + 1, len(tokens) - 1)], -1)
        before = at[:, None] - np.arange(NEAR, 0, -1)
        near = np.where(before >= start[part, None], tokens[np.maximum(before, 0)], -1)
        place = PositionTokens(
            *(torch.from_numpy(column.astype(np.int64)) for column in (tokens[at], following, near))
        )
        yield firings.row[part], firings.value[part], place
