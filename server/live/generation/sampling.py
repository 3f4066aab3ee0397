"""Drawing the next token of each row: frequency penalty, temperature, top k, top p, and random numbers that
all rows of a request share.

Rows with equal logits therefore get equal tokens, and rows differ only because of their interventions.
"""

import torch
from torch import Tensor

from lexiscope.records.requests import Sampling

SEEDS = 2**63
LOWEST_TEMPERATURE = 1e-30
"""Below it, float32 would divide by 0; the most likely token is certain long before."""


class Sampler:
    """Draws the tokens of `n_rows` rows of one request, position by position."""

    def __init__(self, sampling: Sampling, n_rows: int, vocab_size: int, device: torch.device) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed % SEEDS)
        self._device = device
        self._counts = torch.zeros(n_rows, vocab_size, device=device) if sampling.frequency_penalty else None

    def draw(self, logits: Tensor) -> Tensor:
        """[rows] token ids from logits [rows, vocab]. Temperature 0 takes the most likely token, after the
        penalty.
        """
        sampling = self._sampling
        if self._counts is not None:
            logits = logits - sampling.frequency_penalty * self._counts
        if sampling.temperature > 0:
            uniform = torch.rand(logits.shape[-1], generator=self._generator).clamp_min(1e-20)
            gumbel = (-(-uniform.log()).log()).to(self._device)
            # from the maximum, so that a temperature near 0 gives 0 and −∞, and no overflow
            apart = logits - logits.amax(-1, keepdim=True)
            logits = apart / max(sampling.temperature, LOWEST_TEMPERATURE)
            logits = keep_likely(logits, top_k=sampling.top_k, top_p=sampling.top_p) + gumbel
        tokens = logits.argmax(-1)
        if self._counts is not None:
            self._counts[torch.arange(len(tokens), device=self._device), tokens] += 1
        return tokens


def keep_likely(logits: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Logits [rows, vocab] with −∞ outside the `top_k` most likely tokens (0: all tokens) and outside the
    smallest set of most likely tokens whose probability is at least `top_p`.
    """
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1:
        ordered = logits.sort(descending=True)
        probabilities = ordered.values.softmax(-1, dtype=torch.double)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        beyond[..., 0] = False  # a top_p that rounds to 0 keeps the most likely token
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, ordered.indices, beyond), -torch.inf)
    return logits
