"""The input and output scores of Arad, Mueller and Belinkov 2025 ("SAEs Are Good for Steering – If You Select
the Right Features", arXiv 2505.20063; github.com/technion-cs-nlp/saes-are-good-for-steering,
src/input_score.py and src/output_score.py).

The feature's name stands where they take its top 20 logit-lens tokens. Each score is given for the name and,
as its value at chance, for frequency-matched control tokens.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from indexer.causal.ablation import Passages, ranks_of
from indexer.causal.steering import Ground
from indexer.counts.firings import TextFirings
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.runs import rank_in_run

PROMPT = "In my opinion,"
STRENGTH = 1.0
"""What the output score adds to the prompt's last position, in mean residual norms of the layer."""
TOP_CONTEXTS = 20
AT_ONCE = 512
"""Directions added in one pass."""


class NameScores(NamedTuple):
    """Per feature [d_sae], NaN where it was not tested."""

    name: Tensor
    chance: Tensor
    """mean over the name's controls"""


def input_scores(
    top: TextFirings, passages: Passages, names: Tensor, controls: Tensor, tested: Tensor
) -> NameScores:
    """The share of a feature's top contexts whose strongest token is its name.

    `top` holds one firing a passage and feature, the strongest. names [d_sae], controls [vocab, draws],
    tested [d_sae] bool.
    """
    order = np.lexsort((-np.abs(top.value), top.feature))
    best = order[rank_in_run(top.feature[order]) < TOP_CONTEXTS]
    feature = torch.from_numpy(top.feature[best].astype(np.int64))
    pairs = zip(top.passage[best].tolist(), top.position[best].tolist(), strict=True)
    strongest = torch.tensor([int(passages[passage][position]) for passage, position in pairs]).long()
    name = names[feature]
    hits = torch.stack([name == strongest, (controls[name] == strongest[:, None]).double().mean(1)]).double()
    n = torch.bincount(feature, minlength=len(names))
    sums = torch.zeros(2, len(names), dtype=torch.float64).index_add_(1, feature, hits)
    score, chance = (sums / n.clamp_min(1)).float().where(tested & (n > 0), float("nan"))
    return NameScores(score, chance)


@torch.inference_mode()
def output_scores(
    model: LanguageModel,
    layer: int,
    dictionary: Dictionary,
    names: Tensor,
    controls: Tensor,
    tested: Tensor,
    *,
    length: float,
    fast: bool = False,
) -> NameScores:
    """How much the score (1 − rank / |V|) · p of the name rises when `length` along the feature's direction
    is added at the last position of PROMPT. Arad et al. add ten times the strongest activation there.

    names [d_sae], controls [vocab, draws], tested [d_sae] bool.
    """
    prompt = np.array([model.bos, *model.tokenise(PROMPT)])
    ground = Ground(model, layer, [prompt], mean_norm=length, fast=fast)
    scores, before = torch.full((2, len(names)), float("nan")), ground.defaults[0]
    below = torch.searchsorted(before.sort().values, before, right=True)
    unchanged = before.exp() * (below / len(before))
    for part in tested.nonzero().squeeze(1).split(AT_ONCE):
        directions = F.normalize(dictionary.W_dec[part], dim=-1).to(model.device)
        [after] = ground.log_probabilities(directions, torch.ones(len(part), device=model.device))
        tokens = torch.cat([names[part, None], controls[names[part]]], 1).to(model.device)
        own = after.gather(1, tokens)
        rise = own.exp() * (1 - ranks_of(own, after) / after.shape[1]) - unchanged[tokens]
        scores[0, part], scores[1, part] = rise[:, 0].cpu(), rise[:, 1:].mean(1).cpu()
    return NameScores(scores[0], scores[1])
