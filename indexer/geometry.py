"""What the weights alone say of each feature: names, phrases, logit effects, neighbours."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lexiscope.anchors import (
    NearestTokens,
    Phrases,
    bucket,
    nearest_tokens,
    own_cosine,
    phrases,
    random_directions,
)
from lexiscope.checkpoint import AnchorFit
from lexiscope.language_model import LanguageModel
from lexiscope.largest import Columns

NEXT_NAMES, LOGITS, NEIGHBOURS = 5, 10, 10


class Geometry(NamedTuple):
    names: NearestTokens
    """[d_sae, 1 + NEXT_NAMES]"""
    phrases: Phrases
    """of live features; a dead one has its name alone"""
    cosine_embedding: Tensor
    """[d_sae] to the name's row of centred W_E; 0 where W_E has another width"""
    cosine_assigned: Tensor
    """[d_sae] NaN where no anchor was assigned"""

    def columns(self) -> dict[str, Any]:
        """Columns of the table `feature` by name."""
        tokens, cosines = self.names.tokens, self.names.cosines
        return {
            "cosine": cosines[:, 0],
            "cosine_assigned": self.cosine_assigned,
            "cosine_embedding": self.cosine_embedding,
            "margin": cosines[:, 0] - cosines[:, 1],
            "bucket": [bucket(cosine) for cosine in cosines[:, 0].tolist()],
            "next_tokens": tokens[:, 1:],
            "next_cosines": cosines[:, 1:],
            "phrase_tokens": [[token for token in row if token >= 0] for row in self.phrases.tokens.tolist()],
            "phrase_cosine": self.phrases.cosines,
        }


class LogitEffect(NamedTuple):
    positive: NearestTokens
    """[n, LOGITS] tokens and, as `cosines`, their logits; highest first"""
    negative: NearestTokens
    """the same, lowest first"""
    rank: Tensor
    """[n] rank of the name, 0 = top"""

    def columns(self) -> dict[str, Tensor]:
        """Columns of the table `feature` by name."""
        return {
            "pos_tokens": self.positive.tokens,
            "pos_values": self.positive.cosines,
            "neg_tokens": self.negative.tokens,
            "neg_values": self.negative.cosines,
            "name_rank": self.rank,
        }


def name_features(directions: Tensor, fit: AnchorFit) -> NearestTokens:
    """[n, 1 + NEXT_NAMES] the tokens of the anchors nearest to unit directions [n, d_in]."""
    return nearest_tokens(directions, fit.anchors, 1 + NEXT_NAMES)


def geometry(
    directions: Tensor, fit: AnchorFit, names: NearestTokens, *, embedding: Tensor, live: Tensor
) -> Geometry:
    """directions [d_sae, d_in] unit. Phrases are searched for `live` [d_sae] features only: each costs two
    more passes over the vocabulary.
    """
    first = names.tokens[:, 0]
    tokens = torch.cat([first[:, None], torch.full((len(first), 2), -1)], 1)
    cosines = names.cosines[:, 0].clone()
    searched = phrases(directions[live], fit.anchors, first[live])
    tokens[live], cosines[live] = searched.tokens, searched.cosines
    centred = (embedding - embedding.mean(0)).cpu()
    to_assigned = own_cosine(directions, fit.anchors, fit.assigned.clamp_min(0))
    return Geometry(
        names=names,
        phrases=Phrases(tokens, cosines),
        cosine_embedding=own_cosine(directions, centred, first)
        if centred.shape[1] == directions.shape[1]
        else torch.zeros(len(first)),
        cosine_assigned=to_assigned.masked_fill(fit.assigned < 0, float("nan")),
    )


def random_cosine(covariance: Tensor, fit: AnchorFit, *, n: int = 512) -> float:
    """Mean nearest-anchor cosine of random directions with the layer's covariance."""
    return nearest_tokens(random_directions(covariance, n), fit.anchors, 1).cosines.mean().item()


@torch.inference_mode()
def logit_effect(model: LanguageModel, directions: Tensor, names: Tensor) -> LogitEffect:
    """What directions [n, d_in] of unit norm add to the logits; names [n] token ids."""
    found = model.logit_columns().extremes(directions.to(model.device), LOGITS, names.to(model.device))
    highest, lowest = (
        NearestTokens(end.indices.cpu(), end.values.cpu()) for end in (found.highest, found.lowest)
    )
    return LogitEffect(highest, lowest, found.rank)


@torch.inference_mode()
def write_list(model: LanguageModel, directions: Tensor, lens: Tensor) -> NearestTokens:
    """[n, LOGITS] the tokens that directions [n, d_in] read out as, carried to the last layer by its Jacobian
    lens [d_in, d_in] (`LanguageModel.written`).
    """
    found = model.written(directions @ lens.T, LOGITS)
    return NearestTokens(found.indices.cpu(), found.values.cpu())


def neighbours(
    directions: Tensor, others: Tensor, *, among: Tensor, limit: int = NEIGHBOURS, itself: bool = False
) -> NearestTokens:
    """For unit directions [n, d], the features of highest cosine among the rows `among` of `others` [m, d].
    Feature indices are returned as `tokens`.

    With `itself`, directions are the rows `among` of the same dictionary, and no feature is its own
    neighbour.
    """
    if not len(directions):
        return NearestTokens(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0))
    pool = Columns(others[among])
    found = pool.largest(directions, max(0, min(limit + itself, len(pool))))
    if not itself:
        return NearestTokens(among[found.indices], found.values)
    own = found.indices == torch.arange(len(directions))[:, None]
    own[:, -1] |= ~own.any(-1)  # a feature that several rows equal may not be among its own nearest
    shape = len(directions), own.shape[1] - 1
    return NearestTokens(among[found.indices[~own]].view(shape), found.values[~own].view(shape))
