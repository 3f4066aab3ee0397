"""Where a fit starts: the layer's centre and scale, its principal directions, its anchors, and the sample
each row begins at.

The dense path begins at the top principal directions, and everything sparse begins outside them: rows and
anchors that also held what the dense path already explains would spend their code, and their cones, on it
(docs/results.md: a third of ΔCE).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.anchor_sets import Material
from lexiscope.anchors import OUTLIER, TokenSums, rows_per_token

CHUNK = 65536


class Centring(NamedTuple):
    """y = x · scale − mean has mean 0 and mean-square norm d."""

    mean: Tensor
    """[d] in scaled space"""
    scale: float
    mean_norm: float
    """mean norm of raw x: the unit of steering strength"""
    kept: Tensor
    """[m] indices of the rows that are no outliers"""
    largest: float
    """the norm of raw x above which a row is one"""

    def normalise(self, x: Tensor) -> Tensor:
        """[n, d] raw activations, centred and scaled, in float32 on the mean's device."""
        return x.to(self.mean.device).float() * self.scale - self.mean


def centring(x: Tensor) -> Centring:
    """Measured over all n rows of x [n, d] (bf16), in chunks."""
    norms = _norms(x)
    largest = OUTLIER * norms.median().item()
    kept = (norms <= largest).nonzero().squeeze(1)
    total, squares = torch.zeros(x.shape[1], dtype=torch.float64), 0.0
    for rows in kept.split(CHUNK):
        part = x[rows].float()
        total += part.sum(0).double()
        squares += part.square().sum(dtype=torch.float64).item()
    mean = total / len(kept)
    variance = squares / len(kept) - float(mean @ mean)
    scale = (x.shape[1] / variance) ** 0.5
    return Centring((mean * scale).float(), scale, norms[kept].mean().item(), kept, largest)


def inliers(x: Tensor, largest: float) -> Tensor:
    """[m] indices of the rows of x [n, d] whose norm is at most `largest`."""
    return (_norms(x) <= largest).nonzero().squeeze(1)


def _norms(x: Tensor) -> Tensor:
    return torch.cat([part.float().norm(dim=-1) for part in x.split(CHUNK)])


def token_sums(x: Tensor, tokens: Tensor, centred: Centring, vocab_size: int) -> TokenSums:
    """States summed by the token in `tokens` [n]; outliers, and positions with token −1, are left out."""
    sums = TokenSums(vocab_size, x.shape[1])
    for rows in centred.kept[tokens[centred.kept] >= 0].split(CHUNK):
        sums.add(tokens[rows].long(), centred.normalise(x[rows]))
    return sums


class Surroundings(NamedTuple):
    """What anchor sets other than the mean state by current token are made from."""

    previous: Tensor
    """[n] the token before each of the starting sample"""
    following: Tensor
    """[n] the token after, −1 for none"""
    unembedding: Tensor
    """[vocab, d] rows that read a token's logit"""
    unigram: Tensor | None
    """[vocab, d] raw state of each token alone after BOS; None where it was not worth a pass of the model"""


def material(
    x: Tensor, tokens: Tensor, centred: Centring, *, embedding: Tensor, around: Surroundings | None, seed: int
) -> Material:
    """All that anchors of this layer can be made from, in scaled space."""
    sums = token_sums(x, tokens, centred, len(embedding))
    found = Material(embedding.cpu(), sums, covariance(x, centred), seed=seed)
    if around is None:
        return found
    before, after = (token_sums(x, at, centred, len(embedding)) for at in (around.previous, around.following))
    unigram = None if around.unigram is None else centred.normalise(around.unigram.cpu())
    return found._replace(
        previous=before, following=after, unembedding=around.unembedding.cpu().clone(), unigram=unigram
    )


def covariance(x: Tensor, centred: Centring) -> Tensor:
    """[d, d] of centred activations."""
    total = torch.zeros(x.shape[1], x.shape[1])
    for rows in centred.kept.split(CHUNK):
        part = centred.normalise(x[rows])
        total += part.T @ part
    return total / len(centred.kept)


def principal_directions(covariance: Tensor, rank: int) -> Tensor:
    """[d, rank] orthonormal, of largest variance; no columns where rank is 0."""
    return torch.linalg.eigh(covariance).eigenvectors[:, len(covariance) - rank :].contiguous()


def outside(y: Tensor, principal: Tensor) -> Tensor:
    """y [n, d] without its part in the span of principal [d, rank]."""
    return y - (y @ principal) @ principal.T


def starting_rows(
    tokens: Tensor, kept: Tensor, d_sae: int, *, vocab_size: int, by_token: bool, random: torch.Generator
) -> Tensor:
    """[d_sae] indices of the samples that rows start at: uniform, or `by_token` ∝ count^0.7 a token
    (METHOD.md §4 item 1).
    """
    if not by_token:
        return kept[torch.randint(len(kept), (d_sae,), generator=random)]
    shuffled = kept[torch.randperm(len(kept), generator=random)]
    shuffled = shuffled[tokens[shuffled].argsort(stable=True)]  # grouped by token, in random order within
    counts = torch.bincount(tokens[shuffled], minlength=vocab_size)
    wanted = rows_per_token(counts, d_sae)
    starts = counts.cumsum(0) - counts
    token = torch.arange(len(wanted)).repeat_interleave(wanted)
    nth = torch.arange(d_sae) - (wanted.cumsum(0) - wanted)[token]
    return shuffled[starts[token] + nth % counts[token]]
