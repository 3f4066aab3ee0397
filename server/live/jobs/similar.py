"""The job of similar features: those whose directions have the highest cosines to a feature's."""

import torch
import torch.nn.functional as F

from lexiscope.errors import CheckpointError
from server.live.generation.batches import JobSteps
from server.live.jobs.prepare import load_dictionaries
from server.live.messages import RawSimilar, SimilarJob
from server.live.model_cache import ModelCache


def similar(job: SimilarJob, cache: ModelCache) -> JobSteps[None]:
    """`similar`, without the feature itself. Raises NotLoadable, and CheckpointError for dictionaries of
    different widths.
    """
    own, other = yield from load_dictionaries(cache, [job.feature, job.source])
    index = job.feature.feature.index
    direction, directions = own.dictionary.W_dec[index], other.dictionary.W_dec
    if len(direction) != directions.shape[1]:
        raise CheckpointError(
            f"{job.feature.feature.id} writes {len(direction)} dimensions, {job.source.source} "
            f"{directions.shape[1]}: their features have no cosine."
        )
    cosines = F.normalize(directions, dim=-1) @ F.normalize(direction, dim=0)
    if job.feature.checkpoint_path == job.source.checkpoint_path:
        cosines[index] = -torch.inf
    best = cosines.topk(min(job.limit + 1, len(cosines)))
    found = [
        (place, cosine)
        for place, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        if cosine > -2
    ][: job.limit]
    yield RawSimilar(indices=[place for place, _ in found], cosines=[cosine for _, cosine in found])
