"""Builds the images, and uses what `docker compose` starts as its users would: `make docker-test`.

Each profile (but gpu) is brought up until it is healthy, pages are loaded and a model is steered; a container
is restarted in the middle of a stream; everything is taken down and up again with its data kept. Nothing but
Debian's packages and a package index of Python is needed.
"""

import argparse
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.docker.engine import BASE, compose, make_base, run, start_engine

ROOT = Path(__file__).parents[2]
PORT, HTTPS_PORT = "8190", "8191"
HERE = f"http://127.0.0.1:{PORT}"
LAB = f"https://127.0.0.1:{HTTPS_PORT}"
SETTINGS = {
    "BASE_IMAGE": BASE,
    "IMAGE": "lexiscope:test",
    "PROXY_IMAGE": "lexiscope-proxy:test",
    "POSTGRES_IMAGE": "lexiscope-postgres:test",
    "POSTGRES_PASSWORD": "only-for-this-test",
    "LEXISCOPE_WORKER_TOKEN": "only-for-this-test",
    "LEXISCOPE_LOG_LEVEL": "info",
    "TORCH_INDEX": "https://pypi.org/simple",
    "BUILD_NETWORK": "host",
    "DOCKER_BUILDKIT": "0",
    "COMPOSE_DOCKER_CLI_BUILD": "0",
    "COMPOSE_PROJECT_NAME": "lexiscope-test",
    "HTTP_PORT": PORT,
    "HTTPS_PORT": HTTPS_PORT,
    "REDIRECT_PORT": "8192",
}
DATABASE = "postgresql+psycopg://lexiscope:only-for-this-test@postgres:5432/lexiscope"
ANY_CERTIFICATE = ssl._create_unverified_context()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docker", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave containers and volumes at the end")
    keep = parser.parse_args().keep
    if why := start_engine():
        print(f"skipped: {why}")
        return
    os.environ.update(SETTINGS)
    run(*compose(), "config", "-q")  # the file is one of Compose's schema
    timed("base image", make_base)
    timed("images", build_images)
    sizes = run("docker", "images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}")
    print("\n".join(line for line in sizes.splitlines() if ":test" in line), flush=True)
    down(volumes=True)
    try:
        build = timed("demo: up, pages, a steer", demo)
        timed("a container restarted in the middle of a stream", restart_in_a_stream)
        timed("down and up again, data kept", again, build)
        timed("a one-off job", one_off)
        timed("profile postgres", postgres)
        timed("profile lab", lab)
    except BaseException:
        print(run(*compose(), "logs", "--tail", "40"), flush=True)
        raise
    finally:
        if not keep:
            down(volumes=True)
    print("docker-test: all passed")


def timed(what: str, act: Any, *given: Any) -> Any:
    begun = time.monotonic()
    result = act(*given)
    print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
    return result


def build_images() -> None:
    with wheels() as page:
        run(*compose(), "build", "lexiscope", WHEELS=page)
    run(*compose(), "--profile", "lab", "build", "proxy")
    folder = str(Path(__file__).parent)
    run("docker", "build", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}", "-t",
        SETTINGS["POSTGRES_IMAGE"], "-f", f"{folder}/postgres.Dockerfile", folder)  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP, without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def wheels() -> Iterator[str]:
    """A page of the wheels that pip finds in a folder of this machine; empty where there is none."""
    folder = next((part for part in os.environ.get("PIP_FIND_LINKS", "").split() if Path(part).is_dir()), "")
    if not folder:
        yield ""
        return
    handler = partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def up(*services: str, profile: str = "", **environment: str) -> None:
    """Start services, and wait until all that have a health check are healthy."""
    profiles = ["--profile", profile] if profile else []
    run(*compose(), *profiles, "up", "-d", *services, **environment)
    deadline = time.monotonic() + 1800
    for service in services:
        while (state := health(service)) != "healthy":
            assert state != "exited" and time.monotonic() < deadline, f"{service} is {state}"
            time.sleep(2)


def health(service: str) -> str:
    container = f"{SETTINGS['COMPOSE_PROJECT_NAME']}_{service}_1"
    if compose()[-1] == "compose":
        container = container.replace("_", "-")
    state = "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
    return run("docker", "inspect", "--format", state, container)


def down(*, volumes: bool = False) -> None:
    profiles = [part for name in ("postgres", "lab", "train") for part in ("--profile", name)]
    run(*compose(), *profiles, "down", *(["-v"] if volumes else []))


def get(address: str, *, data: Any = None) -> Any:
    """A parsed JSON response, or the text of another."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    context = ANY_CERTIFICATE if address.startswith("https") else None
    with urllib.request.urlopen(request, timeout=180, context=context) as answer:
        text = answer.read().decode()
    return json.loads(text) if answer.headers["content-type"].startswith("application/json") else text


def use(root: str) -> str:
    """Load pages and steer, and return the build that is served."""
    for page in ("/", "/search?q=king", "/steer", "/docs", "/static/lexiscope.css", "/readyz"):
        get(root + page)
    home = get(f"{root}/index.json")
    layer = home["models"][0]["layers"][0]
    feature = f"{layer['model']}/{layer['source']}/1"
    get(f"{root}/{feature}")
    steered = get(f"{root}/api/v1/steer?stream=false", data=steer(feature, 8))
    assert steered["done"]["steered_text"] != "", steered
    return str(home["build"])


def steer(feature: str, tokens: int) -> dict[str, Any]:
    return {"prompt": "Once upon a time", "features": [{"id": feature, "mode": "add", "strength": 1}],
            "max_tokens": tokens, "model": feature.partition("/")[0]}  # fmt: skip


def demo() -> str:
    up("lexiscope")
    return use(HERE)


def restart_in_a_stream() -> None:
    home = get(f"{HERE}/index.json")
    layer = home["models"][0]["layers"][0]
    data = json.dumps(steer(f"{layer['model']}/{layer['source']}/1", 256)).encode()
    request = urllib.request.Request(f"{HERE}/api/v1/steer", data, {"content-type": "application/json"})
    lines: list[str] = []
    with urllib.request.urlopen(request, timeout=180) as stream:
        restart: subprocess.Popen[bytes] | None = None
        try:
            for line in stream:
                lines.append(line.decode().strip())
                if restart is None and '"step"' in lines[-1]:
                    restart = subprocess.Popen(
                        [*compose(), "restart", "lexiscope"], stderr=subprocess.DEVNULL
                    )
        except (OSError, ValueError):
            pass
    assert restart is not None and restart.wait() == 0
    events = [json.loads(line[5:])["event"] for line in lines if line.startswith("data:")]
    print(f"  the stream ended with: {events[-1]} after {len(events)} events")
    assert events[-1] in ("error", "done")
    up("lexiscope")
    assert use(HERE) == home["build"]


def again(build: str) -> None:
    down()
    up("lexiscope")
    assert use(HERE) == build


def one_off() -> None:
    said = run(*compose(), "run", "--rm", "--no-deps", "train", "lexiscope", "doctor")
    print("  " + said.replace("\n", "\n  "))


def postgres() -> None:
    down()
    up("postgres", profile="postgres")
    up("lexiscope", LEXISCOPE_DATABASE_URL=DATABASE)
    first = use(HERE)
    down()
    up("postgres", profile="postgres")
    up("lexiscope", LEXISCOPE_DATABASE_URL=DATABASE)
    assert use(HERE) == first


def lab() -> None:
    down()
    up("worker", "web", "proxy", profile="lab")
    use(LAB)
    for refused in ("/metrics",):
        try:
            get(LAB + refused)
            raise AssertionError(refused)
        except urllib.error.HTTPError as error:
            assert error.code == 404


if __name__ == "__main__":
    main()
