"""The jobs of the worker, each a generator of events and pauses: a steer, a sweep, a reading."""

from server.live.jobs.read import read
from server.live.jobs.steer import steer
from server.live.jobs.sweep import sweep

__all__ = ["read", "steer", "sweep"]
