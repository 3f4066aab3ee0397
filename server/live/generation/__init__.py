"""Generation of rows side by side: the batches in progress, sampling, and the text of each row."""

from server.live.generation.batches import Batches, JobSteps, Pause
from server.live.generation.generated_row import GeneratedRow
from server.live.generation.sampling import Sampler

__all__ = ["Batches", "GeneratedRow", "JobSteps", "Pause", "Sampler"]
