"""What a dictionary starts from: a sample of one layer's activations, its centre and scale, its principal
directions, its anchors, and the samples at which rows start.

A transcoder's sample has a target beside x, with a centre and scale of its own; its decoder rows, and so its
anchors, are directions of the target.

The dense path starts at the top principal directions, and everything sparse starts outside them: rows and
anchors that also held what the dense path explains would spend their code, and their cones, on it
(results/notes.md).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lexiscope.anchor_sets import ANCHOR_SETS, Material
from lexiscope.anchors import OUTLIER, TokenSums, class_mean_anchors, exchanged_rows, rows_per_token
from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel, Point
from trainer.errors import RecipeError

CHUNK = 65536

Lookup = Literal["none", "fixed", "trained", "permuted"]
"""A token look-up: fixed at the mean states, trained on from them, or with rows of other tokens (a
control)."""


class Centring(NamedTuple):
    """y = x · scale − mean has mean 0 and mean-square norm d."""

    mean: Tensor
    """[d] in scaled space"""
    scale: float
    mean_norm: float
    """mean norm of raw x: the unit of steering strength"""
    kept: Tensor
    """[m] positions of the sample to train on: those that are no outliers"""
    largest: float
    """the norm of raw x above which a position is an outlier"""

    def normalise(self, x: Tensor) -> Tensor:
        """[n, d] raw activations, centred and scaled, in float32 on the mean's device."""
        return x.to(self.mean.device).float() * self.scale - self.mean

    def restore(self, y: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return (y + self.mean) / self.scale


def centring(x: Tensor, positions: Tensor | None = None) -> Centring:
    """Measured over x [n, d] (bf16), in chunks; over the given positions [m] of it, where there are some."""
    norms = _norms(x)
    norms = norms if positions is None else norms[positions]
    largest = OUTLIER * norms.median().item()
    kept = (norms <= largest).nonzero().squeeze(1)
    mean_norm = norms[kept].mean().item()
    kept = kept if positions is None else positions[kept]
    total, squares = torch.zeros(x.shape[1], dtype=torch.float64), 0.0
    for rows in kept.split(CHUNK):
        part = x[rows].float()
        total += part.sum(0).double()
        squares += part.square().sum(dtype=torch.float64).item()
    mean = total / len(kept)
    variance = squares / len(kept) - float(mean @ mean)
    scale = (x.shape[1] / variance) ** 0.5
    return Centring((mean * scale).float(), scale, mean_norm, kept, largest)


def uncentred(x: Tensor, positions: Tensor | None = None) -> Centring:
    """Activations as they are, outliers included; `mean_norm` as `centring` measures it."""
    every = torch.arange(len(x)) if positions is None else positions
    norm = centring(x, positions).mean_norm
    return Centring(torch.zeros(x.shape[1]), 1.0, norm, every, float("inf"))


def inliers(x: Tensor, largest: float) -> Tensor:
    """[m] indices of the rows of x [n, d] whose norm is at most `largest`."""
    return (_norms(x) <= largest).nonzero().squeeze(1)


def _norms(x: Tensor) -> Tensor:
    return torch.cat([part.float().norm(dim=-1) for part in x.split(CHUNK)])


RELATED = ("previous", "following")
"""Anchor sets that go by another token than the one a position stands on."""


class AnchorSources(NamedTuple):
    """What anchor sets other than the mean state by current token are made from."""

    previous: Tensor
    """[n] the token before each position of the sample"""
    following: Tensor
    """[n] the token after, −1 for none"""
    unembedding: Tensor
    """[vocab, d] rows that read a token's logit"""
    unigram: Tensor | None
    """[vocab, d] raw state of each token alone after BOS; None where it was not worth a pass of the model"""


class Start:
    """The sample that a dictionary starts from. What is costly is computed when it is first used."""

    def __init__(
        self,
        x: Tensor,
        tokens: Tensor,
        *,
        embedding: Tensor,
        d_sae: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        centre: bool = True,
        lookup: Lookup = "none",
        positions: Tensor | None = None,
        sources: AnchorSources | None = None,
        model: LanguageModel | None = None,
        writes: Point = 0,
        target: Tensor | None = None,
    ) -> None:
        """x [n, d] bf16 raw activations on tokens [n], of which `positions` are trained on (all unless
        given); embedding is W_E [vocab, d_e]; some anchor sets are made from `sources`. A transcoder
        reconstructs target [n, d_out] bf16 from x.

        With `centre=False` the dictionary is trained on raw activations. An objective may use the language
        model, and `writes`, the point at which the reconstruction stands in it.
        """
        self.x, self.tokens, self.embedding = x, tokens, embedding.cpu()
        self.d_in, self.d_sae, self.seed, self.device = x.shape[1], d_sae, seed, torch.device(device)
        self.sources, self.model, self.writes = sources, model, writes
        self.target = x if target is None else target
        self.d_out, self.transcoder = self.target.shape[1], target is not None
        fitted = centring if centre else uncentred
        self.centring = self.target_centring = fitted(x, positions)
        if self.transcoder:
            self.target_centring = fitted(self.target, self.centring.kept)
            self.centring = self.centring._replace(kept=self.target_centring.kept)
        self.random = torch.Generator().manual_seed(seed)
        """Every random choice of a run is drawn from it, restarts included."""
        self.lookup: Tensor | None = None
        """[vocab, d] in scaled space; what `batch` leaves out, and so all that is made from it"""
        if lookup != "none":
            self.lookup = self._lookup(permuted=lookup == "permuted")

    def batch(self, rows: Tensor) -> Tensor:
        """[m, d] normalised activations of the given rows of the sample, without the look-up's part."""
        y = self.centring.normalise(self.x[rows])
        return y if self.lookup is None else y - self.lookup[self.tokens[rows]].to(y.device)

    def _lookup(self, *, permuted: bool) -> Tensor:
        """The mean state on each token, shrunk to the transported embedding. Raises RecipeError."""
        try:
            means = class_mean_anchors(self.embedding, self._current)
        except TextError as error:
            raise RecipeError(f"A token look-up cannot be fitted: {error}") from error
        if not permuted:
            return means
        return exchanged_rows(means, self._current.counts.nonzero().squeeze(1), seed=self.seed)

    def target_batch(self, rows: Tensor) -> Tensor:
        """[m, d_out] what is reconstructed from them, normalised."""
        return self.target_centring.normalise(self.target[rows]) if self.transcoder else self.batch(rows)

    @cached_property
    def material(self) -> Material:
        """All that anchors of this layer can be made from, in the target's scaled space. Beside a look-up,
        what is summed by the token before or after is what the look-up leaves.
        """
        covariance = self._covariance(self.target_batch) if self.transcoder else self.covariance
        found = Material(self.embedding, self._current, covariance, seed=self.seed)
        if self.sources is None:
            return found
        around = self.sources
        unigram = None if around.unigram is None else self.centring.normalise(around.unigram.cpu())
        return found._replace(
            previous=self._token_sums(around.previous, self.target_batch),
            following=self._token_sums(around.following, self.target_batch),
            unembedding=around.unembedding.cpu().clone(),
            unigram=unigram,
        )

    @property
    def counts(self) -> Tensor:
        """[vocab] occurrences of each token among the positions trained on."""
        return self._current.counts

    def anchors(self, name: str, rank: int = 0) -> Tensor:
        """[vocab, d_out] the named anchor set in scaled space, outside the top `rank` principal directions;
        of a transcoder's target, whole.

        Raises RecipeError where it cannot be made from this sample, or has another width.
        """
        try:
            anchors = ANCHOR_SETS[name](self.material)
        except ValueError as error:
            raise RecipeError(f"Anchors '{name}' cannot be fitted: {error}") from error
        if anchors.shape[1] != self.d_out:
            raise RecipeError(
                f"Anchors '{name}' have {anchors.shape[1]} dimensions, the activations {self.d_out}."
            )
        return anchors if self.transcoder else outside(anchors, self.principal(rank))

    def principal(self, rank: int) -> Tensor:
        """[d, rank] orthonormal directions of largest variance; no columns where rank is 0."""
        if not rank:
            return torch.zeros(self.d_in, 0)
        return self._eigenvectors[:, self.d_in - rank :].contiguous()

    def dense_map(self, principal: Tensor) -> Tensor:
        """[rank, d_out] what best reconstructs the target from x @ principal [d, rank]: its transpose where x
        is the target.
        """
        if not self.transcoder or not principal.shape[1]:
            return principal.new_empty(0, self.d_out) if self.transcoder else principal.T
        cross = torch.zeros(self.d_in, self.d_out)
        for rows in self.centring.kept.split(CHUNK):
            cross += self.batch(rows).T @ self.target_batch(rows)
        inside = principal.T @ self.covariance @ principal * len(self.centring.kept)
        return torch.linalg.solve(inside, principal.T @ cross)

    def spread_samples(self) -> Tensor:
        """[d_sae] rows of the sample, drawn uniformly."""
        kept = self.centring.kept
        return kept[torch.randint(len(kept), (self.d_sae,), generator=self.random)]

    def related_tokens(self, anchors: str) -> Tensor:
        """[n] the token of each position that an anchor set goes by: the one before or after it (−1 for
        none), or the one that it stands on.
        """
        if anchors not in RELATED:
            return self.tokens
        assert self.sources is not None  # the anchors were made from them
        tokens: Tensor = getattr(self.sources, anchors)
        return tokens

    def samples_by_token(self, tokens: Tensor) -> Tensor:
        """[d_sae] rows of the sample, ∝ count^0.7 a token in `tokens` [n], −1 for none
        (docs/method.md#starting-rows).
        """
        kept = self.centring.kept
        kept = kept[tokens[kept] >= 0]
        shuffled = kept[torch.randperm(len(kept), generator=self.random)]
        tokens = tokens[shuffled]
        shuffled = shuffled[tokens.argsort(stable=True)]  # grouped by token, in random order within
        counts = torch.bincount(tokens, minlength=len(self.embedding))
        wanted = rows_per_token(counts, self.d_sae)
        starts = counts.cumsum(0) - counts
        token = torch.arange(len(wanted)).repeat_interleave(wanted)
        nth = torch.arange(self.d_sae) - (wanted.cumsum(0) - wanted)[token]
        return shuffled[starts[token] + nth % counts[token]]

    @cached_property
    def covariance(self) -> Tensor:
        """[d, d] of normalised activations."""
        return self._covariance(self.batch)

    def _covariance(self, batch: Callable[[Tensor], Tensor]) -> Tensor:
        total = torch.zeros(())
        for rows in self.centring.kept.split(CHUNK):
            part = batch(rows)
            total = total + part.T @ part
        return total / len(self.centring.kept)

    @cached_property
    def _eigenvectors(self) -> Tensor:
        vectors: Tensor = torch.linalg.eigh(self.covariance).eigenvectors
        return vectors

    @cached_property
    def _current(self) -> TokenSums:
        """Whole targets by the token they stand on."""
        return self._token_sums(self.tokens, lambda rows: self.target_centring.normalise(self.target[rows]))

    def _token_sums(self, tokens: Tensor, states: Callable[[Tensor], Tensor]) -> TokenSums:
        """`states` of rows summed by the token in `tokens` [n], but for outliers and positions with token
        −1.
        """
        sums = TokenSums(len(self.embedding), self.d_out)
        kept = self.centring.kept
        for rows in kept[tokens[kept] >= 0].split(CHUNK):
            sums.add(tokens[rows].long(), states(rows))
        return sums


def outside(y: Tensor, principal: Tensor) -> Tensor:
    """y [n, d] without its part in the span of principal [d, rank]."""
    return y - (y @ principal) @ principal.T
