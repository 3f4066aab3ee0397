"""The live model: a worker process of its own that holds the language models, and the client that the web
server speaks to it with.

The web server resolves names and paths and sends a job (`SteerJob`, `SweepJob`, `ReadJob`); the worker
answers with a stream of events. `python -m server.live` is the process; `spawn_worker` starts, restarts and
ends it; `WorkerClient` asks it.
"""

from server.live.client import WorkerClient, WorkerRefused
from server.live.messages import Health, Intervention, Located, ReadJob, Source, SteerJob, SweepJob
from server.live.process import Worker, spawn_worker

__all__ = [
    "Health",
    "Intervention",
    "Located",
    "ReadJob",
    "Source",
    "SteerJob",
    "SweepJob",
    "Worker",
    "WorkerClient",
    "WorkerRefused",
    "spawn_worker",
]
