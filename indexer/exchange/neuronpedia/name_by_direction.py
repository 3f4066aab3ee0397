"""Names by geometry, where the imported features bring their decoder rows: the nearest anchor, and all that
weights alone say.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.exchange.neuronpedia.choose_contexts import Texts
from indexer.fit_anchors import fit_anchors
from indexer.geometry import (
    geometry,
    logit_effect,
    name_features,
    neighbours,
    random_cosine,
)
from indexer.rows.feature_rows import relation_pairs
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.selection import Threshold

FIT_TOKENS = 200_000
"""Tokens of the imported texts that anchors are fitted on, at most: the model has to read them."""
COVARIANCE_TEXTS = 64
"""Texts that the layer's covariance is taken from, for the cosine of random directions."""


class Named(NamedTuple):
    tokens: np.ndarray
    """[rows]"""
    kind: str
    """what the anchors are, in words"""
    random_cosine: float
    columns: dict[str, Any]
    """of `feature`, beside those every import has"""


def name_by_direction(
    model: LanguageModel,
    layer: int,
    directions: Tensor,
    index: np.ndarray,
    live: np.ndarray,
    texts: Texts,
    own: AnchorFit | None,
) -> Named:
    """directions [rows, d_in]; index and live [rows]. Without anchors of its `own`, they are fitted on the
    imported texts, as `lexiscope name` does on a file.
    """
    rows, width = directions.shape
    alive = torch.from_numpy(live)
    nothing = torch.zeros(rows)
    dictionary = Dictionary(directions.T, nothing, directions, torch.zeros(width), Threshold(nothing))
    fit = own or fit_anchors(model, [layer], _passages(texts, model))[layer]
    fit = fit._replace(assigned=torch.full((rows,), -1))
    names = name_features(dictionary, fit)
    shape = geometry(dictionary, fit, names, embedding=model.embedding, live=alive)
    logits = logit_effect(model, dictionary.directions, names.tokens[:, 0])
    who = alive.nonzero().squeeze(1)
    near = relation_pairs(
        neighbours(dictionary.directions[who], dictionary.directions, among=who, itself=True), who, rows
    )
    columns = {
        **shape.columns(),
        "name_rank": logits.rank,
        "neighbour_index": [[int(index[row]) for row in found] for found, _ in near],
        "neighbour_cosine": [cosine for _, cosine in near],
    }
    return Named(
        names.tokens[:, 0].numpy(),
        fit.kind or "its own anchors",
        random_cosine(_covariance(model, layer, texts), fit),
        columns,
    )


def _passages(texts: Texts, model: LanguageModel) -> Iterator[np.ndarray]:
    """The texts as a model reads them, opened by BOS; those that hold an unknown token are left out."""
    left = FIT_TOKENS
    for start, end in zip(texts.starts[:-1], texts.starts[1:], strict=True):
        tokens = texts.tokens[start:end]
        tokens = tokens[1:] if tokens[0] == model.bos else tokens
        if len(tokens) > 1 and (tokens >= 0).all() and left > 0:
            left -= len(tokens)
            yield np.concatenate([[model.bos], tokens[: model.context_length - 1]]).astype(np.int32)


def _covariance(model: LanguageModel, layer: int, texts: Texts) -> Tensor:
    some = [passage for _, passage in zip(range(COVARIANCE_TEXTS), _passages(texts, model), strict=False)]
    states = [
        model.read(torch.from_numpy(passage).long()[None].to(model.device), [layer])[layer][0, 1:]
        for passage in some
    ]
    return torch.cov(torch.cat(states).float().cpu().T)
