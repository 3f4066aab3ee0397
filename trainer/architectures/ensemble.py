"""Ensembles of TopK dictionaries that are one (Gadgil et al. 2025, arXiv 2505.16077). The features are of
`members` equal groups, each with k / members active features: width and k are those of one dictionary.

Bagging: each member reconstructs x by itself, and the reconstruction is their mean. Boosting: each member
reads and reconstructs what those before it leave. Members are trained side by side; no gradient goes from one
to another.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lexiscope import selection
from lexiscope.dictionary import Dictionary
from lexiscope.sparse_code import SparseCode
from trainer import kernels, objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class BaggingConfig(TopKConfig):
    name: str = "bagging"
    members: int = 4
    """Dictionaries; they divide k and the width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("members")
        if self.k % self.members:
            raise RecipeError(f"members is {self.members}: it must divide k, {self.k}.")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        super().check(d_in=d_in, d_sae=d_sae, embedding=embedding)
        if d_sae % self.members:
            raise RecipeError(f"members is {self.members}: it must divide the width, {d_sae:,}.")


@dataclass(frozen=True, kw_only=True)
class BoostingConfig(BaggingConfig):
    name: str = "boosting"

    def check_other_target(self, what: str) -> None:
        raise RecipeError(f"boosting reads what it leaves of its input: it cannot be {what}.")


class Bagging(TopKArchitecture):
    name = "bagging"
    summary = "several TopK dictionaries as one: their mean reconstructs"
    config_type = BaggingConfig
    config: BaggingConfig
    boosted = False

    def _code(self, x: Tensor, member: int) -> SparseCode:
        """The member's code of x [n, d_in], with a graph; indices are of the whole dictionary."""
        p, width = self.parameters, self.d_sae // self.config.members
        rows = slice(member * width, (member + 1) * width)
        with torch.no_grad():
            found = kernels.encode_top_k(
                x,
                p["encoder"][rows],
                p["b_enc"][rows],
                self.config.k // self.config.members,
                dtype=self.matmul_dtype,
                scratch=self._scratch,
            )
            selected = SparseCode(found.values, found.indices + rows.start)
        return sparse.encode(x, p["encoder"], p["b_enc"], selected)

    def forward(self, x: Tensor) -> Pass:
        p, codes = self.parameters, list[SparseCode]()
        rest = x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
        self._outputs: list[Tensor] = []
        """[n, d_out] of each member"""
        self._inputs: list[Tensor] = []
        """[n, d_in] what each member reads"""
        left = x
        for member in range(self.config.members):
            self._inputs.append(left)
            codes.append(self._code(left, member))
            self._outputs.append(sparse.decode(codes[-1], p["decoder"], unit_rows=True))
            if self.boosted:
                left = left - self._outputs[-1].detach()
        code = SparseCode(*(torch.cat(columns, 1) for columns in zip(*codes, strict=True)))
        share = 1 if self.boosted else 1 / self.config.members
        return Pass(code, rest + share * torch.stack(self._outputs).sum(0))

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """Bagging: the mean of the members' own errors. Boosting: what the last leaves, then what each
        before it leaves. And AuxK, for the whole; in boosting for each member, of what it reads.
        """
        p = self.parameters
        left = batch.target - batch.x @ p["dense_in"] @ p["dense_out"] - p["b_dec"]
        errors = []
        for output in self._outputs:
            errors.append(objectives.mse(output, left))
            if self.boosted:
                left = (left - output).detach()
        if self.boosted:
            losses = {"mse": errors[-1]} | {f"after_{n}": error for n, error in enumerate(errors[:-1], 1)}
        else:
            losses = {"members": torch.stack(errors).mean()}
        whole = super().losses(batch, made, step)
        return losses | {name: loss for name, loss in whole.items() if name != "mse"}

    def selection(self) -> selection.Selection:
        return selection.GroupTopK(self.config.k, self.config.members, boosted=self.boosted)

    def dictionary(self) -> Dictionary:
        found = super().dictionary()
        if self.boosted:
            return found
        return replace(found, W_dec=found.W_dec / self.config.members)


class Boosting(Bagging):
    name = "boosting"
    summary = "several TopK dictionaries as one: each reads what the ones before leave"
    config_type = BoostingConfig
    config: BoostingConfig
    boosted = True

    def _aux_k(self, residual: Tensor, x: Tensor, silent: Tensor) -> Tensor:
        """The sum over the members, each of what it read in the last pass."""
        aux_k, terms = super()._aux_k, list[Tensor]()
        for member, left in enumerate(self._inputs):
            own = silent[self._member(silent) == member]
            if len(own):
                terms.append(aux_k(residual, left, own))
        return torch.stack(terms).sum()

    def _member(self, features: Tensor) -> Tensor:
        return features // (self.d_sae // self.config.members)

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        """At what the member of each feature reads of its sample."""
        self.forward(samples.x)
        each = torch.arange(len(features), device=self.device)
        left = torch.stack(self._inputs)[self._member(features), each]
        super().restart(features, samples._replace(x=left, target=left))
