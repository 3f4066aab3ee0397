"""Names by geometry, where the imported features bring their decoder rows: the nearest anchor, and everything
else that weights alone say.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.exchange.neuronpedia.choose_contexts import ImportedTexts
from indexer.exchange.neuronpedia.imported_dictionary import ImportedDictionary
from indexer.fit_anchors import fit_anchors
from indexer.geometry import geometry, logit_effect, name_features, neighbours, random_cosine
from indexer.rows.relations import relation_pairs
from lexiscope.checkpoint import AnchorFit
from lexiscope.language_model import LanguageModel

FIT_TOKENS = 200_000
"""Tokens of the imported texts that anchors are fitted on, at most: the model has to read them."""
COVARIANCE_TEXTS = 64
"""Texts that the layer's covariance is taken from, for the cosine of random directions."""


class DirectionNames(NamedTuple):
    tokens: np.ndarray
    """[rows]"""
    kind: str
    """what the anchors are, in words"""
    random_cosine: float
    columns: dict[str, Any]
    """of the table `feature`, beside those that every import has"""


def name_by_direction(
    imported: ImportedDictionary, directions: Tensor, own: AnchorFit | None
) -> DirectionNames:
    """directions [rows, d_in] of unit norm. Without anchors of its `own`, they are fitted on the imported
    texts, as `lexiscope name` does on a file.
    """
    model, layer, n = imported.model, imported.layer, len(directions)
    live = torch.from_numpy(imported.live)
    fit = own or fit_anchors(model, [layer], _passages(imported.texts, model))[layer]
    fit = fit._replace(assigned=torch.full((n,), -1))
    names = name_features(directions, fit)
    shape = geometry(directions, fit, names, embedding=model.embedding, live=live)
    logits = logit_effect(model, directions, names.tokens[:, 0])
    alive = live.nonzero().squeeze(1)
    near = relation_pairs(neighbours(directions[alive], directions, among=alive, itself=True), alive, n)
    columns = {
        **shape.columns(),
        "name_rank": logits.rank,
        "neighbour_index": [[int(imported.index[row]) for row in rows] for rows, _ in near],
        "neighbour_cosine": [cosines for _, cosines in near],
    }
    chance = random_cosine(_covariance(model, layer, imported.texts), fit)
    return DirectionNames(names.tokens[:, 0].numpy(), fit.kind or "its own anchors", chance, columns)


def _passages(texts: ImportedTexts, model: LanguageModel) -> Iterator[np.ndarray]:
    """The texts as a model reads them, opened by BOS; those that hold an unknown token are left out."""
    left = FIT_TOKENS
    for number in range(len(texts)):
        tokens = texts[number]
        tokens = tokens[1:] if tokens[0] == model.bos else tokens
        if len(tokens) > 1 and (tokens >= 0).all() and left > 0:
            left -= len(tokens)
            yield np.concatenate([[model.bos], tokens[: model.context_length - 1]]).astype(np.int32)


def _covariance(model: LanguageModel, layer: int, texts: ImportedTexts) -> Tensor:
    some = [passage for _, passage in zip(range(COVARIANCE_TEXTS), _passages(texts, model), strict=False)]
    states = [
        model.read(torch.from_numpy(passage).long()[None].to(model.device), [layer])[layer][0, 1:]
        for passage in some
    ]
    return torch.cov(torch.cat(states).float().cpu().T)
