"""The jobs of the worker, each a generator of events and pauses: steer, sweep, read, similar features."""

from server.live.jobs.match import match
from server.live.jobs.read import read
from server.live.jobs.similar import similar
from server.live.jobs.steer import steer
from server.live.jobs.sweep import sweep

__all__ = ["match", "read", "similar", "steer", "sweep"]
