"""The match job: for features of one dictionary, those of another with the largest cosine of directions."""

from collections.abc import Callable

import torch
from torch import Tensor

from lexiscope.errors import ModelError
from server.live.generation.batches import JobSteps, Pause
from server.live.interventions import Cancelled
from server.live.jobs.prepare import load_dictionaries
from server.live.messages import MatchJob, RawMatches
from server.live.model_cache import ModelCache

PART = 4096
"""right features that are compared at once, between two turns of other jobs"""


def match(
    job: MatchJob, cache: ModelCache, *, cancelled: Callable[[], bool] = lambda: False
) -> JobSteps[None]:
    """`matched`. Raises NotLoadable, ModelError and Cancelled."""
    loaded = yield from load_dictionaries(cache, [job.left, job.right])
    left, right = (one.dictionary for one in loaded)
    if left.d_out != right.d_out:
        raise ModelError(
            f"{job.left.source} writes to {left.d_out} dimensions and {job.right.source} to {right.d_out}: "
            "their directions cannot be compared."
        )
    directions = left.directions.float()
    own = torch.cat([directions[job.indices], random_directions(directions, job.random)])
    cosines, nearest = yield from largest_cosines(own, right.W_dec, cancelled=cancelled)
    n = len(job.indices)
    yield RawMatches(
        nearest=nearest[:n].tolist(), cosines=cosines[:n].tolist(), random_cosines=cosines[n:].tolist()
    )


def largest_cosines(
    own: Tensor, rows: Tensor, *, cancelled: Callable[[], bool] = lambda: False
) -> JobSteps[tuple[Tensor, Tensor]]:
    """(cosines, indices) [n]: for unit vectors own [n, d] the largest cosine to rows [m, d], and whose it is.
    Raises Cancelled.
    """
    cosines = own.new_full((len(own),), -2.0)
    nearest = torch.zeros(len(own), dtype=torch.long, device=own.device)
    start = 0
    for part in rows.split(PART):
        if cancelled():
            raise Cancelled
        found, places = (own @ torch.nn.functional.normalize(part.float(), dim=-1).T).max(dim=-1)
        better = found > cosines
        cosines, nearest = torch.where(better, found, cosines), torch.where(better, start + places, nearest)
        start += len(part)
        yield Pause.TURN
    return cosines, nearest


def random_directions(directions: Tensor, n: int) -> Tensor:
    """[n, d] unit vectors drawn from a normal distribution with the second moments of `directions` [m, d]."""
    generator = torch.Generator(directions.device).manual_seed(0)
    weights = torch.randn(n, len(directions), generator=generator, device=directions.device)
    return torch.nn.functional.normalize(weights @ directions, dim=-1)
