"""Several processes train together: the tokens of each batch are split over ranks, or the dictionaries are.

Every rank holds the same weights, takes the same random choices and sees the summed gradients, so a rank is
told from another only by the rows it reads. Rank 0 writes. Started by `torchrun --nproc-per-node N -m trainer
…`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from trainer.fitting import Fit

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long a rank waits for the others: one may harvest or evaluate for hours."""


class Ranks(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    split_layers: bool = False
    """each rank trains its share of the dictionaries by itself, rather than its share of each batch"""

    @property
    def together(self) -> bool:
        """The ranks fit one dictionary, each on its part of a batch."""
        return self.world > 1 and not self.split_layers

    @property
    def writes(self) -> bool:
        return self.rank == 0 or self.split_layers

    def share(self, jobs: Sequence[T]) -> list[T]:
        """The dictionaries that this rank trains."""
        return list(jobs[self.rank :: self.world]) if self.split_layers else list(jobs)

    def part(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch; the batch divides by the number of ranks."""
        return rows.chunk(self.world)[self.rank] if self.together else rows

    def gathered(self, part: Tensor) -> Tensor:
        """[batch] from every rank's part of it, in the batch's order."""
        if not self.together:
            return part
        parts = [torch.empty_like(part) for _ in range(self.world)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def mean(self, value: Tensor) -> Tensor:
        if self.together:
            dist.all_reduce(value)
            value /= self.world
        return value

    def join(self, fit: "Fit") -> None:
        """From here on, all ranks' fits are one: the same start, and in each step the same gradient and the
        same rows that fired.
        """
        if not self.together:
            return
        for tensor in fit.weights.tensors():
            dist.broadcast(tensor, 0)
        fit.reduce, fit.unite = self._reduce, self._unite

    def _reduce(self, gradients: Sequence[Tensor], fired: Tensor) -> None:
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient.div_(self.world)
        self._unite(fired)

    def _unite(self, fired: Tensor) -> None:
        seen = fired.byte()
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        fired.copy_(seen)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()

    def wait_together(self) -> None:
        """The same, among ranks that fit one dictionary."""
        if self.together:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def ranks(*, split_layers: bool = False) -> Iterator[Ranks]:
    """The ranks torchrun started (gloo on CPUs, NCCL where there are GPUs), or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), split_layers)
    finally:
        dist.destroy_process_group()
