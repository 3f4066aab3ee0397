"""Ablation of single firings: how far the logits of all tokens fall when a feature is taken away at one
position.

The residual stream x of that position becomes x' = x − what the feature writes there. A token's effect is how
far its logit falls.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.counts.firings import TextFirings
from indexer.counts.runs import run_lengths, run_starts
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import AblationCounts
from lexiscope.language_model import LanguageModel

TOP_FALLS = 5
"""A token is counted where its logit is among so many that fall most."""
MAX_LOGITS = 16_000_000
"""Logits computed at once, which bounds the positions changed in one pass."""
CACHE_BYTES = 1 << 30
"""Of residual streams kept for the other dictionaries of one job."""

Passages = Sequence[np.ndarray] | Mapping[int, np.ndarray]
"""token ids of each passage by its number"""


class StreamCache:
    """The residual streams of passages at each dictionary's layer. With several dictionaries, a passage is
    read once for all of them, up to CACHE_BYTES.
    """

    def __init__(self, model: LanguageModel, layers: Sequence[int], passages: Passages) -> None:
        """`layers` holds the layer of each dictionary."""
        self.model, self.passages = model, passages
        self._layers = sorted(set(layers))
        self._kept: dict[int, dict[int, Tensor]] = {}
        self._room = CACHE_BYTES if len(layers) > 1 else 0

    @torch.inference_mode()
    def __call__(self, passage: int, layer: int, n: int) -> Tensor:
        """[1, n, d_model] after `layer`, of the passage's first n tokens."""
        if passage not in self._kept:
            ids = np.asarray(self.passages[passage]).astype(np.int64)
            tokens = torch.from_numpy(ids)[None].to(self.model.device)
            if self._room <= 0:
                return self.model.read(tokens[:, :n], [layer])[layer]
            self._kept[passage] = self.model.read(tokens, self._layers)
            self._room -= sum(stream.nbytes for stream in self._kept[passage].values())
        return self._kept[passage][layer][:, :n]


def spread_over_activations(sample: TextFirings, tested: Tensor, each: int) -> TextFirings:
    """Up to `each` firings of every tested feature: sorted by activation and cut into `each` equal parts, the
    middle one of each part. tested [d_sae] bool.
    """
    rows = np.flatnonzero(tested.numpy()[sample.feature])
    keys = (sample.position[rows], sample.passage[rows], sample.value[rows], sample.feature[rows])
    rows = rows[np.lexsort(keys)]
    starts = run_starts(sample.feature[rows])
    sizes = run_lengths(starts, len(rows))
    taken = np.minimum(sizes, each)
    nth = np.arange(taken.sum()) - np.repeat(taken.cumsum() - taken, taken)
    middle = ((nth + 0.5) * np.repeat(sizes / taken, taken)).astype(np.int64)
    picked = rows[np.repeat(starts, taken) + middle]
    return TextFirings(*(column[picked] for column in sample))


class AblationRanks(NamedTuple):
    """What ablating m firings did to the logits of some tokens of each one's feature."""

    feature: Tensor
    """[m]"""
    ranks: Tensor
    """[m, q] rank of each of the feature's tokens among all by how far their logits fall, 0 = falls most;
    of some tokens TOP_FALLS at most
    """
    falling: Tensor
    """[vocab] how often each token was among the TOP_FALLS that fall most"""

    def counts(self, tokens: Tensor, columns: slice, controls: slice) -> AblationCounts:
        """In how many contexts any of a feature's tokens [d_sae, w], which are in `columns` of the ranks, is
        among those that fall most; `controls` are the columns of their controls, w for each draw.
        """
        d_sae, w = tokens.shape
        among = self.ranks < TOP_FALLS
        drawn = among[:, controls].view(len(among), -1, w).any(-1)
        each = torch.cat([among[:, columns], among[:, columns].any(-1, keepdim=True), drawn], 1).long()
        hits = torch.zeros(d_sae, each.shape[1], dtype=torch.long).index_add_(0, self.feature, each)
        contexts = torch.bincount(self.feature, minlength=d_sae)
        others = (len(self.feature) - contexts).clamp_min(1)
        rate = ((self.falling[tokens] - hits[:, :w]).sum(1) / others).clamp_max(1)
        return AblationCounts(contexts, hits[:, w], hits[:, w + 1 :], rate)

    def top1_shares(self, d_sae: int) -> Tensor:
        """[d_sae, q] share of each feature's contexts where the token falls most of all; NaN without
        contexts.
        """
        most = torch.zeros(d_sae, self.ranks.shape[1]).index_add_(0, self.feature, (self.ranks == 0).float())
        return most / torch.bincount(self.feature, minlength=d_sae)[:, None]

    def medians(self, d_sae: int, column: int) -> Tensor:
        """[d_sae] the median rank of each feature, NaN without contexts."""
        medians = torch.full((d_sae,), float("nan"))
        feature, ranks = self.feature.numpy(), self.ranks[:, column].numpy()
        order = np.lexsort((ranks, feature))
        starts = run_starts(feature[order])
        sizes = run_lengths(starts, len(order))
        middle = (ranks[order][starts + (sizes - 1) // 2] + ranks[order][starts + sizes // 2]) / 2
        medians[torch.from_numpy(feature[order][starts])] = torch.from_numpy(middle).float()
        return medians


class _PassageFirings(NamedTuple):
    """The chosen firings of one passage."""

    number: int
    rows: np.ndarray
    """of the chosen firings"""
    tokens: Tensor
    """[1, n] up to the last of them"""
    positions: Tensor


def _by_passage(chosen: TextFirings, passages: Passages) -> Iterator[_PassageFirings]:
    order = np.lexsort((chosen.position, chosen.passage))
    for rows in np.split(order, run_starts(chosen.passage[order])[1:]) if len(order) else ():
        positions = chosen.position[rows].astype(np.int64)
        number = int(chosen.passage[rows[0]])
        tokens = np.asarray(passages[number])[: positions[-1] + 1].astype(np.int64)
        yield _PassageFirings(number, rows, torch.from_numpy(tokens)[None], torch.from_numpy(positions))


@torch.inference_mode()
def ablate(
    streams: StreamCache,
    layer: int,
    dictionary: Dictionary,
    tokens: Tensor,
    chosen: TextFirings,
    *,
    ranked: int | None = None,
) -> AblationRanks:
    """Ablate each of the chosen firings by itself. tokens [d_sae, q] are those whose ranks are wanted in the
    contexts of each feature: of the first `ranked` (all unless given) exactly, of the others below TOP_FALLS.
    """
    model = streams.model
    feature = torch.from_numpy(chosen.feature.astype(np.int64))
    value = torch.from_numpy(np.ascontiguousarray(chosen.value))
    ranks = torch.zeros(len(feature), tokens.shape[1], dtype=torch.int32)
    falling = torch.zeros(model.vocab_size, dtype=torch.long)
    for passage in _by_passage(chosen, streams.passages):
        ids = passage.tokens.to(model.device)
        stream = streams(passage.number, layer, ids.shape[1])
        rows = torch.from_numpy(passage.rows)
        x = stream[0, passage.positions]
        changed = x - dictionary.writes(x, feature[rows], value[rows])
        places, inverse = passage.positions.unique(return_inverse=True)
        at = torch.cat([places, passage.positions])  # every position unchanged, then every firing ablated
        residuals = torch.cat([stream[0, places], changed])
        default = stream.new_empty(0, model.vocab_size)
        for part in torch.arange(len(at)).split(positions_a_pass(model)):
            logits = model.logits_at(ids, layer, stream, at[part], residuals[part])
            n_default = max(0, len(places) - int(part[0]))
            default, logits = torch.cat([default, logits[:n_default]]), logits[n_default:]
            ablated = part[n_default:] - len(places)
            fall = default[inverse[ablated]].sub_(logits)
            own = fall.gather(1, tokens[feature[rows[ablated]]].to(fall.device))
            most = fall.topk(TOP_FALLS, dim=-1)
            exactly, others = own[:, :ranked], own[:, tokens.shape[1] if ranked is None else ranked :]
            found = [ranks_of(exactly, fall), *([ranks_of(others, most.values)] if others.numel() else [])]
            ranks[rows[ablated]] = torch.cat(found, 1).int().cpu()
            falling += torch.bincount(most.indices.cpu().reshape(-1), minlength=model.vocab_size)
    return AblationRanks(feature, ranks, falling)


def ranks_of(values: Tensor, among: Tensor) -> Tensor:
    """[n, q] how many of each row among [n, vocab] are greater than each of values [n, q]."""
    return torch.stack([(among > column[:, None]).sum(-1) for column in values.unbind(1)], 1)


def positions_a_pass(model: LanguageModel) -> int:
    return max(32, min(512, MAX_LOGITS // model.vocab_size))
