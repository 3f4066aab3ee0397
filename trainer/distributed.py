"""Several processes train together: the tokens of each batch are split over ranks, or the dictionaries are.

Every rank holds the same weights, makes the same random choices and gets the averaged gradients: ranks differ
only in the rows they train on. Rank 0 writes. Started by `torchrun --nproc-per-node N -m trainer …`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

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
        """The mean over ranks of a statistic of a batch."""
        if not self.together:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def share_start(self, tensors: Sequence[Tensor]) -> None:
        """Rank 0's tensors become everyone's, in place."""
        if self.together:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Makes the ranks' gradients one, in place."""
        if self.together:
            for gradient in gradients:
                dist.all_reduce(gradient)
                gradient.div_(self.world)

    def unite(self, fired: Tensor) -> None:
        """Makes the ranks' `fired` one, in place: a feature fired where it fired on any of them."""
        if self.together:
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
