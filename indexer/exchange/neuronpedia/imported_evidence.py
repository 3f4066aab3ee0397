"""Evidence for the names of an imported dictionary, counted over the imported contexts alone."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.exchange.neuronpedia.choose_contexts import ImportedTexts
from indexer.exchange.neuronpedia.imported_dictionary import ImportedDictionary
from lexiscope.evidence import (
    Evidence,
    EvidenceCounts,
    FlatFirings,
    FlatText,
    HighestLift,
    NameTables,
    highest_lift,
    lift_names,
    matched_controls,
)
from lexiscope.vocabulary_tables import family_table

TEXTS_AT_ONCE = 4096
"""Texts laid out flat at a time, which bounds memory."""


class ImportedFirings(NamedTuple):
    """Each firing once, however many contexts show it, in the order of the texts."""

    row: np.ndarray
    at: np.ndarray
    """its position in `ImportedTexts.tokens`"""
    value: np.ndarray


class ImportedCounts(NamedTuple):
    firings: ImportedFirings
    occurrences: np.ndarray
    """[vocab] in the distinct texts"""
    peaks: Tensor
    """[rows] the token of highest lift among those that every other top context of the feature peaks on, −1
    where it never fires
    """


class ImportedEvidence(NamedTuple):
    evidence: Evidence
    lift: HighestLift
    logit_share: np.ndarray
    """[rows] share of the firings that the top logit token follows"""


def count_imported(imported: ImportedDictionary, *, name_by_peaks: bool) -> ImportedCounts:
    """With `name_by_peaks`, the contexts that choose a name are left out of the firings that it is tested on:
    otherwise almost any name would be supported.
    """
    contexts, texts, bos = imported.contexts, imported.texts, imported.model.bos
    row, at = imported.rows_of(contexts.feature), texts.starts[contexts.text] + contexts.place
    pairs = zip(contexts.kind, contexts.rank, strict=True)
    naming = np.array([kind == "top" and rank % 2 == 0 for kind, rank in pairs], bool)
    left_out = naming if name_by_peaks else np.zeros_like(naming)
    firings = _firings(imported, without=(row[left_out], at[left_out]))
    occurrences = np.bincount(texts.tokens[texts.tokens >= 0], minlength=imported.model.vocab_size)
    n_opened = int((texts.tokens[texts.starts[:-1]] == bos).sum())
    occurrences[bos] -= n_opened  # position 0 is never encoded
    peaks = lift_names(
        torch.from_numpy(row[naming]),
        torch.from_numpy(texts.tokens[at[naming]]),
        torch.from_numpy(occurrences),
        len(imported.index),
    )
    return ImportedCounts(firings, occurrences, peaks)


def name_evidence(
    imported: ImportedDictionary, counted: ImportedCounts, names: np.ndarray
) -> ImportedEvidence:
    """Evidence for names [rows], by the definitions and the rule of an index made here."""
    model, firings, n = imported.model, counted.firings, len(names)
    occurrences = torch.from_numpy(counted.occurrences)
    tables = NameTables(family_table(model), matched_controls(occurrences))
    counts = EvidenceCounts(torch.from_numpy(names.astype(np.int64)), tables)
    counts.occurrences = occurrences
    followed = np.zeros(n, np.int64)
    for part, text in _flat_parts(firings, imported.texts):
        counts.add_firings(part, text)
        follows = text.following[part.at] == imported.top_logits[part.feature]
        followed += np.bincount(part.feature[follows], minlength=n)
    tokens = imported.texts.tokens[firings.at]
    pairs, times = np.unique(firings.row * model.vocab_size + tokens, return_counts=True)
    lift = highest_lift(
        torch.from_numpy(pairs // model.vocab_size),
        torch.from_numpy(pairs % model.vocab_size),
        torch.from_numpy(times),
        counts.firings,
        occurrences,
    )
    evidence = counts.result(torch.from_numpy(imported.live))
    return ImportedEvidence(evidence, lift, followed / counts.firings.clamp_min(1).numpy())


def _firings(imported: ImportedDictionary, *, without: tuple[np.ndarray, np.ndarray]) -> ImportedFirings:
    """`without`: (rows, positions) of firings to leave out."""
    columns, contexts, texts = imported.dashboards.contexts, imported.contexts, imported.texts
    positions, values = np.array(columns.positions, np.int64), np.array(columns.values, np.float32)
    parts = [np.arange(part.start, part.stop) for part in contexts.entries]
    entries, lengths = np.concatenate([np.zeros(0, np.int64), *parts]), [len(part) for part in parts]
    row = np.repeat(imported.rows_of(contexts.feature), lengths)
    at = np.repeat(texts.starts[contexts.text], lengths) + positions[entries]
    n_rows = len(imported.index)
    keys, first = np.unique(at * n_rows + row, return_index=True)
    first = first[~np.isin(keys, without[1] * n_rows + without[0])]
    first = first[texts.tokens[at[first]] >= 0]  # nothing can be counted on an unknown token
    return ImportedFirings(row[first], at[first], values[entries][first])


def _flat_parts(firings: ImportedFirings, texts: ImportedTexts) -> Iterator[tuple[FlatFirings, FlatText]]:
    """The firings on some texts at a time. Every position of a text counts as encoded."""
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        end = min(begin + TEXTS_AT_ONCE, len(texts))
        text = FlatText([texts[number] for number in range(begin, end)], first=0)
        start = texts.starts[begin]
        part = slice(*np.searchsorted(firings.at, [start, texts.starts[end]]))
        yield FlatFirings(firings.row[part], firings.at[part] - start, firings.value[part]), text
