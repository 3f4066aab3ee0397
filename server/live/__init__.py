"""The live model: a worker process that holds the language models, and the web server's client of it.

The web server resolves names and paths and submits a job (`SteerJob`, `SweepJob`, `ReadJob`, …).
The worker responds with a stream of events. `python -m server.live` is the process; `spawn_worker` starts,
restarts and ends it.

    client, process ──▶ app ──▶ queue, scheduler ──▶ jobs/: steer, sweep, read, similar, match
    (web server)        (worker)                      ├─▶ generation/: rows of all jobs in one batch
                                                      ├─▶ interventions/: plans and patches
                                                      └─▶ model_cache: models and dictionaries

`lexiscope.records.requests` and `.live` are what the REST API takes and returns; `messages` is what crosses
the worker's socket.
"""

from server.live.client import WorkerClient, WorkerRefused
from server.live.messages import (
    ControlSources,
    DictionaryPath,
    Intervention,
    LocatedFeature,
    MatchJob,
    ReadJob,
    SimilarJob,
    SteerJob,
    SweepJob,
)
from server.live.process import WorkerDown, WorkerProcess, spawn_worker

__all__ = [
    "ControlSources",
    "DictionaryPath",
    "Intervention",
    "LocatedFeature",
    "MatchJob",
    "ReadJob",
    "SimilarJob",
    "SteerJob",
    "SweepJob",
    "WorkerClient",
    "WorkerDown",
    "WorkerProcess",
    "WorkerRefused",
    "spawn_worker",
]
