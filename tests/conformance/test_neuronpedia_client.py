"""The `neuronpedia` package of PyPI against this server: all its calls that read, steer or compute."""

import os
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from bench.peer_environments import interpreter
from tests.live.conftest import client, tiny  # noqa: F401  (fixtures)
from tests.live.jobs import Tiny
from tests.server_thread import running

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(3600)]

CALLS = Path(__file__).parent / "neuronpedia_calls.py"
PORT = 3000
"""which the package expects of a local server"""


def test_every_call_of_the_package_works(client: TestClient, tiny: Tiny) -> None:  # noqa: F811
    environment = os.environ | {"USE_LOCALHOST": "true"}
    calls = [interpreter("neuronpedia"), str(CALLS), "tiny", "1-random"]
    with running(client.app, port=PORT, log_level="error", lifespan="off"):
        done = subprocess.run(calls, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 12, done.stdout
