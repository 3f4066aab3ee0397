"""The `neuronpedia` package of PyPI against this server: all its calls that read, steer or compute."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from bench.peer_environments import interpreter
from tests.live.conftest import client, tiny  # noqa: F401  (fixtures)
from tests.live.jobs import Tiny

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(3600)]

CALLS = Path(__file__).parent / "neuronpedia_calls.py"
PORT = 3000
"""which the package expects of a local server"""


def test_every_call_of_the_package_works(client: TestClient, tiny: Tiny) -> None:  # noqa: F811
    server = uvicorn.Server(uvicorn.Config(client.app, port=PORT, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), f"port {PORT} is in use"
        time.sleep(0.05)
    environment = os.environ | {"USE_LOCALHOST": "true"}
    calls = [interpreter("neuronpedia"), str(CALLS), "tiny", "1-random"]
    try:
        done = subprocess.run(calls, env=environment, capture_output=True, text=True, check=False)
    finally:
        server.should_exit = True
        thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 12, done.stdout
