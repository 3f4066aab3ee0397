"""Adding directions to the residual stream at the last position of neutral prefixes, each at the strength
where the next-token distribution moves by the same KL divergence.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lexiscope.language_model import LanguageModel

KL = 0.5
"""nats, KL(steered ‖ default), averaged over prefixes"""
PREFIXES, PREFIX_LENGTH = 8, 16
"""Beginnings of passages, BOS included."""
WEAKEST, STRONGEST = 1 / 64, 16.0
"""Limits of a strength, in mean residual norms."""
STEPS = 4
"""Strengths tried, the last one kept."""
AT_ONCE = 128
"""Directions of one pass: attention grows with their square."""


class Steered(NamedTuple):
    """What adding each of m directions did."""

    strength: Tensor
    """[m] in mean residual norms"""
    kl: Tensor
    """[m] reached, nats"""
    rise: Tensor
    """[prefixes, m, q] of the probability of each of the q tokens watched"""


class Ground:
    """Where directions are added: prefixes, after the block `layer`."""

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        prefixes: Iterable[np.ndarray],
        *,
        mean_norm: float,
        fast: bool = False,
    ) -> None:
        """`prefixes` are token ids of PREFIX_LENGTH, or shorter; mean_norm of the residual stream there.
        `fast` runs the model in bf16 where that is faster.
        """
        self.model, self.layer, self.mean_norm, self.fast = model, layer, mean_norm, fast
        self.prefixes = [torch.from_numpy(np.asarray(ids).astype(np.int64)) for ids in prefixes]
        if self.prefixes:
            self._read_prefixes()

    @torch.inference_mode()
    def _read_prefixes(self) -> None:
        tokens = pad_sequence(self.prefixes, batch_first=True, padding_value=self.model.bos)
        self._read = self.model.read_passages(tokens.to(self.model.device), [self.layer], fast=self.fast)
        rows = torch.arange(len(tokens), device=self.model.device)
        self._ends = torch.tensor([len(ids) - 1 for ids in self.prefixes], device=self.model.device)
        self._streams, self._last = (
            self._read.streams[self.layer][rows, self._ends],
            self._read.last[rows, self._ends],
        )
        self._logits = self.model.unembed_residual(self._last).float()
        self.defaults = self._logits.log_softmax(-1)
        """[prefixes, vocab] log probabilities of the next token"""

    @torch.inference_mode()
    def log_probabilities(self, directions: Tensor, strength: Tensor) -> Iterator[Tensor]:
        """[m, vocab] for each prefix, with unit directions [m, d_model] added at strengths [m] in mean
        residual norms.
        """
        m = len(directions)
        added = self._streams[:, None] + strength[:, None] * self.mean_norm * directions
        last = self.model.changed(
            self._read, self.layer, self._ends[:, None].expand(-1, m), added, fast=self.fast
        )
        for after, before, logits in zip(last, self._last, self._logits, strict=True):
            changes = self.model.logit_changes(before[None], after, fast=self.fast)
            yield changes.add_(logits).log_softmax(-1)

    def at_equal_kl(self, directions: Tensor, watched: Tensor, *, kl: float = KL) -> Steered:
        """Unit directions [m, d_model], each at its own strength of equal KL; watched [m, q] token ids."""
        if not len(directions):
            nothing = torch.zeros(0)
            return Steered(nothing, nothing, torch.zeros(len(self.prefixes), 0, watched.shape[1]))
        parts = [
            self._steer(directions[rows], watched[rows], kl)
            for rows in torch.arange(len(directions)).split(AT_ONCE)
        ]
        strength, reached, rise = zip(*parts, strict=True)
        return Steered(torch.cat(strength), torch.cat(reached), torch.cat(rise, 1))

    def _steer(self, directions: Tensor, watched: Tensor, kl: float) -> Steered:
        search = _Search(len(directions), kl)
        for _ in range(STEPS - 1):
            search.tell(self._effect(directions, search.strength, None).kl)
        return self._effect(directions, search.strength, watched)

    def _effect(self, directions: Tensor, strength: Tensor, watched: Tensor | None) -> Steered:
        total, rises = torch.zeros(len(directions)), []
        directions, strength = directions.to(self.model.device), strength.to(self.model.device)
        for default, after in zip(self.defaults, self.log_probabilities(directions, strength), strict=True):
            if watched is not None:
                tokens = watched.to(after.device)
                rises.append((after.gather(1, tokens).exp() - default[tokens].exp()).cpu())
            total += torch.linalg.vecdot(after.exp(), after - default).cpu()
        rise = torch.stack(rises) if rises else torch.zeros(len(self.prefixes), len(directions), 0)
        return Steered(strength.cpu(), total / len(self.prefixes), rise)


class _Search:
    """Strengths [m] whose KL approaches a target: first as if KL grew with the square, then by the secant of
    both logarithms.
    """

    START = 0.5

    def __init__(self, m: int, kl: float) -> None:
        self._target = np.log(kl)
        self._at, self._found = torch.full((m,), np.log(self.START)), torch.full((m,), float("nan"))
        self._before = self._found_before = torch.full((m,), float("nan"))

    @property
    def strength(self) -> Tensor:
        return self._at.exp()

    def tell(self, kl: Tensor) -> None:
        """Go on from the KL [m] that `strength` gave."""
        self._found = kl.clamp_min(1e-9).log()
        slope = (self._found - self._found_before) / (self._at - self._before)
        slope = slope.nan_to_num(2.0, 2.0, 2.0).clamp(0.5, 8.0)
        following = self._at + (self._target - self._found) / slope
        self._before, self._found_before = self._at, self._found
        self._at = following.clamp(np.log(WEAKEST), np.log(STRONGEST))


def neutral_prefixes(
    passages: Mapping[int, np.ndarray] | Sequence[np.ndarray], *, n: int = PREFIXES
) -> list[np.ndarray]:
    """Beginnings of `n` passages of at least PREFIX_LENGTH tokens, evenly spread; of the `n` longest, where
    fewer are that long.
    """
    numbers = sorted(passages) if isinstance(passages, Mapping) else range(len(passages))
    beginnings = [np.asarray(passages[number])[:PREFIX_LENGTH] for number in numbers]
    beginnings = [ids for ids in beginnings if len(ids) > 1]
    lengths = sorted(map(len, beginnings), reverse=True)
    usable = [ids for ids in beginnings if len(ids) >= lengths[min(n, len(lengths)) - 1]]
    return [usable[at] for at in np.unique(np.linspace(0, len(usable) - 1, n).astype(int))] if usable else []
