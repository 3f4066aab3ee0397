"""Features of one dictionary matched with those of another by their directions, and the subspaces that sets
of them span.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.metrics import LIVE_RATE
from studies.inputs import encode
from studies.names import names_on

BLOCK = 1024
"""features that are compared with all others at once"""


class Run(NamedTuple):
    """One seed on the study's text; all of live features [m]."""

    indices: Tensor
    """[m] their numbers in the dictionary"""
    encoder: Tensor
    """[m, d] unit"""
    decoder: Tensor
    """[m, d] unit"""
    energy: Tensor
    """[m] Σ z² ‖d‖²"""
    firings: Tensor
    """[m]"""
    names: Tensor
    """[m] token of highest lift"""


def live_run(dictionary: Dictionary, x: Tensor, tokens: Tensor, vocab_size: int) -> Run:
    code = encode(dictionary, x, tokens)
    active = code.values != 0
    fired = torch.bincount(code.indices[active], minlength=dictionary.d_sae)
    squares = torch.bincount(
        code.indices[active], code.values[active].double().square(), minlength=dictionary.d_sae
    )
    live = (fired >= max(2, LIVE_RATE * len(x))).nonzero().squeeze(1)
    names = names_on(code, tokens, d_sae=dictionary.d_sae, vocab_size=vocab_size)
    energy = squares[live] * dictionary.W_dec[live].double().square().sum(-1)
    return Run(
        live,
        F.normalize(dictionary.W_enc.T[live], dim=-1),
        dictionary.directions[live],
        energy,
        fired[live],
        names[live],
    )


class Matches(NamedTuple):
    """The nearest feature of another run to each of m features."""

    nearest: Tensor
    """[m] its place among the other's live features"""
    similarity: Tensor
    """[m] mean of the cosines of the encoder and decoder rows"""
    mutual: Tensor
    """[m] bool: it is the nearest the other way too"""


def match(a: Run, b: Run) -> Matches:
    """Each live feature of a with its nearest in b."""
    best, place = torch.full((len(b.indices),), -2.0), torch.zeros(len(b.indices), dtype=torch.long)
    nearest, similarity = [], []
    for first in range(0, len(a.indices), BLOCK):
        part = slice(first, first + BLOCK)
        both = (a.encoder[part] @ b.encoder.T + a.decoder[part] @ b.decoder.T) / 2
        most = both.max(-1)
        nearest.append(most.indices)
        similarity.append(most.values)
        back = both.max(0)
        better = back.values > best
        best, place = torch.where(better, back.values, best), torch.where(better, back.indices + first, place)
    to = torch.cat(nearest)
    return Matches(to, torch.cat(similarity), place[to] == torch.arange(len(to)))


def recurrence(runs: Sequence[Run], threshold: float) -> list[Tensor]:
    """For each run, [m] the share of the other runs in which a feature recurs."""
    found = [torch.zeros(len(run.indices)) for run in runs]
    for a, b in permutations(range(len(runs)), 2):
        matches = match(runs[a], runs[b])
        found[a] += (matches.mutual & (matches.similarity >= threshold)).float() / (len(runs) - 1)
    return found


def subspace(rows: Tensor, energy: Tensor, rank: int) -> Tensor:
    """[d, rank] the principal directions of unit rows [m, d], weighted by the root of their energy [m]."""
    weighted = rows.double() * energy.double().sqrt()[:, None]
    return torch.linalg.eigh(weighted.T @ weighted).eigenvectors[:, -rank:]


def overlap(u: Tensor, v: Tensor) -> float:
    """‖UᵀV‖² / r for orthonormal [d, r]: 1 for one subspace, r / d for random ones."""
    return float((u.T @ v).square().sum() / u.shape[1])


def whitening(covariance: Tensor) -> Tensor:
    """[d, d] Σ^(−1/2); directions that the stream hardly has (below 1e-4 of the largest) are left out."""
    values, vectors = torch.linalg.eigh(covariance.double())
    scale = torch.where(values > 1e-4 * values[-1], values.clamp_min(1e-30).rsqrt(), 0)
    return ((vectors * scale) @ vectors.T).float()
