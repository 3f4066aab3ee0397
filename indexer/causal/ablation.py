"""Ablation of single firings: how far the logits of all tokens fall when a feature is taken away at one
position.

The residual stream x of that position becomes x' = x − what the feature writes there. A token's effect is how
far its logit falls. A passage is read once for all dictionaries; each firing then costs one position in the
layers after its dictionary's (`LanguageModel.changed`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.counts.firings import TextFirings
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import AblationCounts, mix
from lexiscope.language_model import LanguageModel, ReadPassages
from lexiscope.runs import rank_in_run, run_lengths, run_starts

TOP_FALLS = 5
"""A token is counted where its logit is among so many that fall most."""
PASS_TOKENS = 2048
"""Tokens of passages read at once, and firings ablated at once."""
MAX_LOGITS = 16_000_000
"""Logits computed at once."""

Passages = Sequence[np.ndarray] | Mapping[int, np.ndarray]
"""token ids of each passage by its number"""


class AblationRequest(NamedTuple):
    """The firings of one dictionary to ablate, each by itself."""

    layer: int
    dictionary: Dictionary
    """its decoder alone is needed"""
    tokens: Tensor
    """[d_sae, q] whose ranks are wanted in the contexts of each feature"""
    chosen: TextFirings
    ranked: int | None = None
    """the ranks of so many of the tokens are exact, those of the others only below TOP_FALLS; all are exact
    unless given
    """


def spread_over_activations(sample: TextFirings, tested: Tensor, each: int) -> TextFirings:
    """Up to `each` firings of every tested feature: sorted by activation and cut into `each` equal parts, one
    of each part. tested [d_sae] bool.

    Of a part, the firing whose passage has the lowest hash is taken, and one of a passage that the feature
    has no other in where there is one: all features prefer the same passages, so that few have to be read.
    """
    rows = np.flatnonzero(tested.numpy()[sample.feature])
    keys = (sample.position[rows], sample.passage[rows], sample.value[rows], sample.feature[rows])
    rows = rows[np.lexsort(keys)]
    feature, passage = sample.feature[rows].astype(np.int64), sample.passage[rows]
    sizes = run_lengths(run_starts(feature), len(rows))
    part = rank_in_run(feature) * np.repeat(np.minimum(sizes, each), sizes) // np.repeat(sizes, sizes)
    place, hashes = feature << 32 | passage, mix(passage)
    picked = np.zeros(0, np.int64)
    for number in range(each):
        now = np.flatnonzero(part == number)
        again = np.isin(place[now], place[picked])
        now = now[np.lexsort((hashes[now], again, feature[now]))]
        picked = np.concatenate([picked, now[run_starts(feature[now])]])
    return TextFirings(*(column[rows[np.sort(picked)]] for column in sample))


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


class _Group(NamedTuple):
    """Passages that are read at once."""

    numbers: np.ndarray
    """sorted"""
    read: ReadPassages


@torch.inference_mode()
def ablate(
    model: LanguageModel, passages: Passages, requests: Sequence[AblationRequest], *, fast: bool = True
) -> list[AblationRanks]:
    """Of each request. `fast` runs the model in bf16 where that is faster."""
    ranks = [_empty(model, request) for request in requests]
    for group in _read(model, passages, requests, fast):
        for request, found in zip(requests, ranks, strict=True):
            at = np.searchsorted(group.numbers, request.chosen.passage)
            rows = np.flatnonzero(
                group.numbers[at.clip(max=len(group.numbers) - 1)] == request.chosen.passage
            )
            rows = rows[np.lexsort((request.chosen.position[rows], at[rows]))]
            slot = rank_in_run(at[rows])
            a_pass = max(1, PASS_TOKENS // len(group.numbers))
            for first in range(0, int(slot.max(initial=-1)) + 1, a_pass):
                now = (slot >= first) & (slot < first + a_pass)
                _ablate(model, group.read, request, found, rows[now], at[rows[now]], slot[now] - first, fast)
    return ranks


def _empty(model: LanguageModel, request: AblationRequest) -> AblationRanks:
    feature = torch.from_numpy(request.chosen.feature.astype(np.int64))
    ranks = torch.zeros(len(feature), request.tokens.shape[1], dtype=torch.int32)
    return AblationRanks(feature, ranks, torch.zeros(model.vocab_size, dtype=torch.long))


def _read(
    model: LanguageModel, passages: Passages, requests: Sequence[AblationRequest], fast: bool
) -> Iterator[_Group]:
    """All passages with firings to ablate, up to their last one; those with like numbers of firings together,
    and of these those of like length.
    """
    number = np.concatenate([request.chosen.passage for request in requests]).astype(np.int64)
    position = np.concatenate([request.chosen.position for request in requests]).astype(np.int64)
    order = np.lexsort((position, number))
    starts = run_starts(number[order])
    firings = run_lengths(starts, len(order))
    lengths = 1 + position[order][starts + firings - 1]
    layers, first = sorted({request.layer for request in requests}), 0
    magnitude = -np.log2(firings).astype(np.int64)
    by_firings = np.lexsort((-lengths, magnitude))
    ends = np.searchsorted(magnitude[by_firings], magnitude[by_firings], side="right")
    while first < len(starts):
        longest = int(lengths[by_firings[first]])
        together = by_firings[first : min(first + max(1, PASS_TOKENS // longest), ends[first])]
        numbers = np.sort(number[order][starts[together]])
        tokens = torch.full((len(numbers), longest), model.bos)
        for row, each in enumerate(numbers.tolist()):
            ids = np.asarray(passages[each])[:longest].astype(np.int64)
            tokens[row, : len(ids)] = torch.from_numpy(ids)
        yield _Group(numbers, model.read_passages(tokens.to(model.device), layers, fast=fast))
        first += len(together)


def _ablate(
    model: LanguageModel,
    read: ReadPassages,
    request: AblationRequest,
    found: AblationRanks,
    rows: np.ndarray,
    passage: np.ndarray,
    slot: np.ndarray,
    fast: bool,
) -> None:
    """The firings `rows` of the request, which are in passages [m] of those read, one a slot [m]."""
    chosen, stream, n = request.chosen, read.streams[request.layer], int(slot.max()) + 1
    where = torch.from_numpy(passage), torch.from_numpy(slot)
    positions = torch.zeros(len(stream), n, dtype=torch.long, device=stream.device)
    positions[where] = torch.from_numpy(chosen.position[rows].astype(np.int64)).to(stream.device)
    x = stream[where[0], positions[where]]
    feature = found.feature[rows]
    written = request.dictionary.writes(x, feature, torch.from_numpy(chosen.value[rows]))
    residuals = stream.new_zeros(*positions.shape, stream.shape[-1])
    residuals[where] = x - written
    after = model.changed(read, request.layer, positions, residuals, fast=fast)[where]
    before = read.last[where[0], positions[where]]
    tokens = request.tokens[feature].to(stream.device)
    for part in torch.arange(len(rows)).split(positions_a_pass(model)):
        own, falls = (
            tokens[part],
            model.logit_changes(after[part], before[part], fast=fast, exact=tokens[part]),
        )
        values, most = falls.gather(1, own), falls.topk(TOP_FALLS, dim=-1)
        ranked = own.shape[1] if request.ranked is None else request.ranked
        ranks = [ranks_of(values[:, :ranked], falls), ranks_of(values[:, ranked:], most.values)]
        found.ranks[rows[part]] = torch.cat(ranks, 1).int().cpu()
        found.falling.add_(torch.bincount(most.indices.cpu().reshape(-1), minlength=model.vocab_size))


def ranks_of(values: Tensor, among: Tensor) -> Tensor:
    """[n, q] how many of each row among [n, vocab] are greater than each of values [n, q]."""
    greater, ranks = (
        torch.empty_like(among),
        torch.zeros(values.shape, dtype=torch.long, device=values.device),
    )
    for column in range(values.shape[1]):  # counted as floats, which is six times as fast as a sum of bools
        ranks[:, column] = torch.gt(among, values[:, column, None], out=greater).sum(-1).long()
    return ranks


def positions_a_pass(model: LanguageModel) -> int:
    return max(32, min(512, MAX_LOGITS // model.vocab_size))
