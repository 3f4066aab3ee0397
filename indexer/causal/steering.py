"""Adding directions to the residual stream at the last position of neutral prefixes, each at the strength
where the next-token distribution moves by the same KL divergence.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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


class Prefix(NamedTuple):
    tokens: Tensor
    """[1, n]"""
    stream: Tensor
    """[1, n, d_model] after the layer"""
    default: Tensor
    """[vocab] log probabilities of the next token"""


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
        self, model: LanguageModel, layer: int, prefixes: Iterable[np.ndarray], *, mean_norm: float
    ) -> None:
        """`prefixes` are token ids of PREFIX_LENGTH; mean_norm of the residual stream there."""
        self.model, self.layer, self.mean_norm = model, layer, mean_norm
        self.prefixes = [self._read(ids) for ids in prefixes]

    @torch.inference_mode()
    def _read(self, ids: np.ndarray) -> Prefix:
        tokens = torch.from_numpy(ids.astype(np.int64))[None].to(self.model.device)
        read = self.model.read_with_logits(tokens, [self.layer])
        return Prefix(tokens, read.residuals[self.layer].clone(), read.logits[0, -1].float().log_softmax(-1))

    @torch.inference_mode()
    def log_probabilities(self, prefix: Prefix, directions: Tensor, strength: Tensor) -> Tensor:
        """[m, vocab] with unit directions [m, d_model] added at strengths [m] in mean residual norms."""
        added = prefix.stream[0, -1] + strength[:, None] * self.mean_norm * directions
        at = torch.full((len(directions),), prefix.tokens.shape[1] - 1)
        logits = self.model.logits_at(prefix.tokens, self.layer, prefix.stream, at, added)
        return logits.float().log_softmax(-1)

    def at_equal_kl(self, directions: Tensor, watched: Tensor, *, kl: float = KL) -> Steered:
        """Unit directions [m, d_model], each at its own strength of equal KL; watched [m, q] token ids."""
        parts = [
            self._steer(directions[rows], watched[rows], kl)
            for rows in torch.arange(len(directions)).split(AT_ONCE)
        ]
        if not parts:
            nothing = torch.zeros(0)
            return Steered(nothing, nothing, torch.zeros(len(self.prefixes), 0, watched.shape[1]))
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
        for prefix in self.prefixes:
            after = self.log_probabilities(prefix, directions, strength)
            if watched is not None:
                tokens = watched.to(after.device)
                rises.append((after.gather(1, tokens).exp() - prefix.default[tokens].exp()).cpu())
            total += torch.linalg.vecdot(after.exp(), after - prefix.default).cpu()
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
    """Beginnings of `n` passages of at least PREFIX_LENGTH tokens (of the longest, where fewer are that
    long), evenly spread.
    """
    numbers = sorted(passages) if isinstance(passages, Mapping) else range(len(passages))
    beginnings = [np.asarray(passages[number])[:PREFIX_LENGTH] for number in numbers]
    long = [ids for ids in beginnings if len(ids) == PREFIX_LENGTH]
    usable = long or [ids for ids in beginnings if len(ids) > 1]
    return [usable[at] for at in np.unique(np.linspace(0, len(usable) - 1, n).astype(int))] if usable else []
