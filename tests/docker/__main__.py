"""Builds the images, and uses what `docker compose` starts as its users would: `make docker-test`.

The first start happens without a network. Each profile (but gpu) is brought up until it is healthy, pages are
loaded and a model is steered; a container is restarted in the middle of a stream; everything is taken down
and up again with its data kept; the data is backed up, restored and upgraded. Nothing but Debian's packages
and a package index of Python is needed.
"""

import argparse
import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import tests.environment  # noqa: F401  (Compose hands LEXISCOPE_ variables of the shell to the containers)
from tests.docker.engine import BASE, compose, make_base, run, start_engine
from tests.docker.visitor import ANY_CERTIFICATE, get, steer, use

ROOT = Path(__file__).parents[2]
PORT, HTTPS_PORT = "8190", "8191"
WHEELS_PORT = 8193  # always the same, for the build's cache
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
PACKAGES = "/opt/lexiscope/lib/python3.11/site-packages"
DEMO = f"{PACKAGES}/data/demo/model"
TEXT = f"{PACKAGES}/data/demo/corpus.txt.xz"
PROGRESS = "http://127.0.0.1:8000/progress.json"
NEWER_IMAGE = "lexiscope-newer:test"
NEWER = f"RUN sed -i 's/^SCHEMA_VERSION = .*/SCHEMA_VERSION = 1000/' {PACKAGES}/store/schema.py"
CHECKPOINTS = "cd /data/runs && find . -name '*.safetensors' | sort | xargs sha256sum"
ASK = """
import sys, time, urllib.error, urllib.request
for _ in range(240):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
            print(answer.status, answer.read().decode(), sep="\\n")
        break
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode(), sep="\\n")
        break
    except OSError:
        time.sleep(0.5)
"""
PROJECT = SETTINGS["COMPOSE_PROJECT_NAME"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docker", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave containers and volumes at the end")
    parser.add_argument(
        "--data",
        type=Path,
        help="a folder of `index` and `runs` with the paths of a container, to be served as it is",
    )
    given = parser.parse_args()
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
        if given.data is None:
            timed("first start without a network", first_start_without_a_network)
        else:
            timed("data that was there", fill, given.data)
            os.environ["COMPOSE_FILE"] = f"{ROOT}/docker-compose.yml:{Path(__file__).parent}/serve.yml"
        build = timed("up: healthy, locked down, pages, a steer", demo)
        timed("a container restarted in the middle of a stream", restart_in_a_stream)
        timed("down and up again, data kept", again, build)
        timed("profile train: doctor, a dictionary, its index", one_off)
        timed("backup, restore, upgrade", backup_and_restore, given.data is None)
        timed("profile postgres", postgres, given.data is None)
        timed("profile lab", lab)
    except BaseException:
        print(run(*compose(), "logs", "--tail", "40"), flush=True)
        raise
    finally:
        if not given.keep:
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
    with http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def up(*services: str, profile: str = "", **environment: str) -> None:
    """Start services, and wait until all that have a health check are healthy."""
    profiles = ["--profile", profile] if profile else []
    run(*compose(), *profiles, "up", "-d", *services, **environment)
    for service in services:
        wait_healthy(container_of(service))


def wait_healthy(container: str) -> None:
    deadline = time.monotonic() + 1800
    health = "{{if .State.Health}}{{.State.Health.Status}}{{else}}running{{end}}"
    form = "{{if .State.Running}}" + health + "{{else}}ended{{end}}"
    while (state := run("docker", "inspect", "--format", form, container)) not in ("healthy", "running"):
        assert state != "ended" and time.monotonic() < deadline, f"{container} is {state}"
        time.sleep(2)


def container_of(service: str) -> str:
    mark = "-" if compose()[-1] == "compose" else "_"
    return mark.join((PROJECT, service, "1"))


def down(*, volumes: bool = False) -> None:
    profiles = [part for name in ("postgres", "lab", "train") for part in ("--profile", name)]
    run(*compose(), *profiles, "down", *(["-v"] if volumes else []))


def first_start_without_a_network() -> None:
    """The demo is made and used in a container that has no network at all, on the volume of the others."""
    run(*compose(), "up", "--no-start", "lexiscope")
    name = f"{PROJECT}-offline"
    run("docker", "rm", "-f", name)
    hardened = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    run("docker", "run", "-d", "--name", name, "--network", "none", *hardened,
        "-v", f"{PROJECT}_data:/data", SETTINGS["IMAGE"])  # fmt: skip
    try:
        wait_healthy(name)
        print(f"  a page after {age(name):.0f} s", end="; ", flush=True)
        progress = (
            "python3",
            "-c",
            "import urllib.request as u; print(u.urlopen(" + repr(PROGRESS) + ").read().decode())",
        )
        while (state := json.loads(run("docker", "exec", name, *progress))["state"]) == "running":
            time.sleep(5)
        assert state == "finished", state
        print(f"all after {age(name):.0f} s", flush=True)
        inside(name)
    except BaseException:
        print(run("sh", "-c", f"docker logs --tail 40 {name} 2>&1"), flush=True)
        raise
    finally:
        run("docker", "rm", "-f", name)


def fill(data: Path) -> None:
    """The volume with what a folder holds."""
    run(*compose(), "up", "--no-start", "lexiscope")
    with tempfile.TemporaryFile() as packed:
        subprocess.run(["tar", "-C", str(data), "-c", "."], stdout=packed, check=True)
        packed.seek(0)
        restore = ["docker", "run", "--rm", "-i", "-v", f"{PROJECT}_data:/data", SETTINGS["IMAGE"]]
        subprocess.run([*restore, "tar", "-C", "/data", "-x", "--no-same-owner"], stdin=packed, check=True)


def age(container: str) -> float:
    """Seconds since a container was started."""
    started = run("docker", "inspect", "--format", "{{.State.StartedAt}}", container)
    return time.time() - datetime.fromisoformat(started[:19] + "+00:00").timestamp()


def inside(container: str) -> str:
    """The build that a visitor inside a container is served."""
    script = (Path(__file__).parent / "visitor.py").read_text()
    command = ["docker", "exec", "-i", container, "python3", "-", "http://127.0.0.1:8000"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def locked_down(*services: str) -> None:
    """Every process runs without root, capabilities, or a root file system that it could write to."""
    for service in services:
        container = container_of(service)
        status = run("docker", "exec", container, "cat", "/proc/1/status")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        assert fields["Uid"].split()[0] != "0" and int(fields["CapEff"], 16) == 0, fields
        assert int(fields["CapBnd"], 16) == 0 and fields["NoNewPrivs"].strip() == "1", fields
        for place in ("/", "/usr/bin", "/opt", "/etc"):
            command = ["docker", "exec", "-u", "0", container, "sh", "-c", f"echo x > {place}/written"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode and "Read-only file system" in done.stderr, (service, place, done.stderr)


def demo() -> str:
    up("lexiscope")
    locked_down("lexiscope")
    build = use(HERE)
    lines = run("sh", "-c", f"docker logs {container_of('lexiscope')} 2>&1").splitlines()
    requests = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(line.get("path") == "/api/v1/steer" for line in requests), lines[-3:]
    return build


def restart_in_a_stream() -> None:
    home = get(f"{HERE}/index.json")
    layer = home["models"][0]["layers"][0]
    data = json.dumps(steer(f"{layer['model']}/{layer['source']}/1", 100)).encode()
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
    job = [*compose(), "run", "--rm", "--no-deps", "train", "lexiscope"]
    run(*job, "train", DEMO, "--model-id", "demo", "--text", TEXT, "--layers", "1", "--recipe", "plain",
        "--tokens", "20000", "--seen", "20000", "--eval-tokens", "500", "--ce-tokens", "200",
        "--out", "/data/runs/own")  # fmt: skip
    run(*job, "index", "/data/runs/own/demo/1-plain", "--model-id", "demo", "--set-name", "own",
        "--text", TEXT, "--tokens", "5000")  # fmt: skip
    sources = [layer["source"] for layer in get(f"{HERE}/index.json")["models"][0]["layers"]]
    assert "1-own" in sources and len(sources) > 1, sources


def backup_and_restore(demo: bool) -> None:
    """As docs/deploy.md has it: the volume to a file, the file to another volume, which is served, and then
    upgraded.
    """
    home = get(f"{HERE}/index.json")
    layer = home["models"][0]["layers"][0]
    labels = f"/api/v1/features/{layer['model']}/{layer['source']}/1/labels"
    get(HERE + labels, data={"label": "kept"})
    down()
    other = f"{PROJECT}_restored"
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        backup = ["docker", "run", "--rm", "-v", f"{PROJECT}_data:/data:ro", SETTINGS["IMAGE"]]
        subprocess.run([*backup, "tar", "-C", "/data", "-c", "."], stdout=file, check=True)
        file.seek(0)
        restore = ["docker", "run", "--rm", "-i", "-v", f"{other}:/data", SETTINGS["IMAGE"]]
        subprocess.run([*restore, "tar", "-C", "/data", "-x"], stdin=file, check=True)
    try:
        with serving(other, SETTINGS["IMAGE"], "lexiscope", "serve") as name:
            wait_healthy(name)
            assert inside(name) == home["build"]
        upgrade(other, labels, demo)
    finally:
        run("docker", "volume", "rm", "-f", other)


@contextmanager
def serving(volume: str, *command: str) -> Iterator[str]:
    """A container without a network on a volume."""
    name = f"{PROJECT}-aside"
    run("docker", "rm", "-f", name)
    run("docker", "run", "-d", "--name", name, "--network", "none", "-v", f"{volume}:/data", *command)
    try:
        yield name
    except BaseException:
        print(run("sh", "-c", f"docker logs --tail 40 {name} 2>&1"), flush=True)
        raise
    finally:
        run("docker", "rm", "-f", name)


def upgrade(volume: str, labels: str, demo: bool) -> None:
    """A release with another version of the schema refuses the index with the command that makes it again;
    that command, run where the data is the demo's, needs no training, and labels are kept.
    """
    newer = "FROM " + SETTINGS["IMAGE"] + "\nUSER 0\n" + NEWER + "\nUSER 10001:10001\n"
    subprocess.run(["docker", "build", "-q", "-t", NEWER_IMAGE, "-"], input=newer, text=True, check=True)
    before = run("docker", "run", "--rm", "-v", f"{volume}:/data:ro", NEWER_IMAGE, "sh", "-c", CHECKPOINTS)
    with serving(volume, NEWER_IMAGE, "lexiscope", "serve") as name:
        status, said = asked(name, "/")
        assert status == 503 and "rebuild it, run `lexiscope demo`" in said, (status, said)
        assert asked(name, "/healthz")[0] == 200 and asked(name, "/readyz")[0] == 503
    if not demo:
        return
    begun = time.monotonic()
    with serving(volume, NEWER_IMAGE) as name:
        wait_healthy(name)
        while (state := json.loads(asked(name, "/progress.json")[1])["state"]) == "running":
            time.sleep(5)
        assert state == "finished", state
        print(f"  the index made again by another release after {time.monotonic() - begun:.0f} s")
        inside(name)
        [label] = json.loads(asked(name, labels)[1])["labels"]
        assert label["label"] == "kept" and not label["outdated"], label
    after = run("docker", "run", "--rm", "-v", f"{volume}:/data:ro", NEWER_IMAGE, "sh", "-c", CHECKPOINTS)
    assert before == after and before.count("\n") > 2


def asked(container: str, path: str) -> tuple[int, str]:
    """(status, text) of a page that a visitor inside a container asks for."""
    said = run("docker", "exec", container, "python3", "-c", ASK, f"http://127.0.0.1:8000{path}")
    status, _, text = said.partition("\n")
    return int(status), text


def postgres(demo: bool) -> None:
    """The tables are made by the first start of the demo, or by an import."""
    down()
    up("postgres", profile="postgres")
    if demo:
        up("lexiscope", LEXISCOPE_DATABASE_URL=DATABASE)
        finished()
    else:
        job = [*compose(), "run", "--rm", "--no-deps"]
        run(*job, "train", "lexiscope", "export", "parquet", "/data/exported")
        run(*job, "-e", f"LEXISCOPE_DATABASE_URL={DATABASE}", "train",
            "lexiscope", "import", "parquet", "/data/exported", "--keep-paths")  # fmt: skip
        up("lexiscope", LEXISCOPE_DATABASE_URL=DATABASE)
    first = use(HERE)
    assert DATABASE.split(":")[2].partition("@")[0] not in run(*compose(), "logs", "lexiscope")
    down()
    up("postgres", profile="postgres")
    up("lexiscope", LEXISCOPE_DATABASE_URL=DATABASE)
    assert use(HERE) == first


def lab() -> None:
    down()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        certificate(Path(folder))
        up("worker", "web", "proxy", profile="lab", TLS_FOLDER=folder)
        locked_down("worker", "web", "proxy")
        shown = ssl.get_server_certificate(("127.0.0.1", int(HTTPS_PORT)))
        assert shown.split() == (Path(folder) / "fullchain.pem").read_text().split()
        use(LAB)
        stream_over_the_proxy()
        refused("/metrics", 404)
        refused("/healthz", 421, host="other.example")
        (Path(folder) / "privkey.pem").chmod(0o600)
        (Path(folder) / "privkey.pem").rename(Path(folder) / "kept")  # a new inode, that nginx has not open
        shutil.copy(Path(folder) / "kept", Path(folder) / "privkey.pem")
        (Path(folder) / "privkey.pem").chmod(0o600)
        run(*compose(), "--profile", "lab", "restart", "proxy", TLS_FOLDER=folder)
        time.sleep(3)
        assert "cannot be read by user 33" in run(*compose(), "logs", "proxy")


def certificate(folder: Path) -> None:
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=lab.example", "-keyout", f"{folder}/privkey.pem",
        "-out", f"{folder}/fullchain.pem")  # fmt: skip
    (folder / "privkey.pem").chmod(0o644)


def stream_over_the_proxy() -> None:
    """Events of a steer arrive one by one, not all at the end."""
    layer = get(f"{LAB}/index.json")["models"][0]["layers"][0]
    data = json.dumps(steer(f"{layer['model']}/{layer['source']}/1", 64)).encode()
    request = urllib.request.Request(f"{LAB}/api/v1/steer", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=180, context=ANY_CERTIFICATE) as stream:
        times = [time.monotonic() for line in stream if line.startswith(b"data:")]
    assert len(times) > 10 and times[-1] - times[0] > 5 * (times[1] - times[0]) / len(times), times


def refused(path: str, status: int, *, host: str = "") -> None:
    request = urllib.request.Request(LAB + path, headers={"host": host} if host else {})
    try:
        urllib.request.urlopen(request, timeout=60, context=ANY_CERTIFICATE)
    except urllib.error.HTTPError as error:
        assert error.code == status, error.code
        return
    raise AssertionError(f"{path} was answered")


def finished() -> None:
    """Wait until all dictionaries of the demo are indexed."""
    while (state := get(f"{HERE}/progress.json")["state"]) == "running":
        time.sleep(5)
    assert state == "finished", state


if __name__ == "__main__":
    main()
