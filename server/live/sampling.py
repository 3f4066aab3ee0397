"""How the next token of each row is drawn: penalty, temperature, cuts, and one draw of random numbers that
all rows share.

Equal rows therefore stay equal, and rows that differ differ because of what was done to them.
"""

import torch
from torch import Tensor

from server.live.records import Sampling

SEEDS = 2**63


class Sampler:
    """Draws the tokens of `n_rows` rows of one request, position by position."""

    def __init__(self, asked: Sampling, n_rows: int, vocab_size: int, device: torch.device) -> None:
        self._asked = asked
        self._generator = torch.Generator().manual_seed(asked.seed % SEEDS)
        self._device = device
        self._counts = torch.zeros(n_rows, vocab_size, device=device) if asked.frequency_penalty else None

    def draw(self, logits: Tensor) -> Tensor:
        """[rows] token ids from logits [rows, vocab]. Temperature 0 takes the likeliest, after the penalty."""
        asked = self._asked
        if self._counts is not None:
            logits = logits - asked.frequency_penalty * self._counts
        if asked.temperature > 0:
            uniform = torch.rand(logits.shape[-1], generator=self._generator).clamp_min(1e-20)
            noise = -(-uniform.log()).log()
            logits = cut(logits / asked.temperature, top_k=asked.top_k, top_p=asked.top_p) + noise.to(
                self._device
            )
        tokens = logits.argmax(-1)
        if self._counts is not None:
            self._counts[torch.arange(len(tokens), device=self._device), tokens] += 1
        return tokens


def cut(logits: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Logits [rows, vocab] with −∞ outside the `top_k` likeliest (0: all) and outside the fewest likeliest
    that hold `top_p`.
    """
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1:
        ordered = logits.sort(descending=True)
        probabilities = ordered.values.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, ordered.indices, beyond), -torch.inf)
    return logits
