"""A Docker engine, and a base image that needs no registry."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

BASE = "lexiscope-base:bookworm"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def run(*command: str, **environment: str) -> str:
    """The output of a command. Raises CalledProcessError after printing what it said."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], flush=True)
        done.check_returncode()
    return done.stdout.strip()


def start_engine() -> str:
    """Why there is no engine; empty where one responds, which is started if need be."""
    if shutil.which("docker") is None:
        return "docker is not installed (Debian: apt-get install docker.io)"
    if not compose():
        return "docker compose is not installed (Debian: apt-get install docker-compose)"
    if _responds():
        return ""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        return "no Docker engine responds, and only root can start one"
    log = Path(tempfile.gettempdir()) / "dockerd.log"
    with log.open("wb") as sink:
        subprocess.Popen(["dockerd"], stdout=sink, stderr=sink, start_new_session=True)
    for _ in range(60):
        if _responds():
            return ""
        time.sleep(1)
    return f"dockerd does not start: {log.read_text()[-300:]}"


def compose() -> list[str]:
    """The command of Compose, whichever is installed; empty where none is."""
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def _responds() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def make_base() -> None:
    """BASE, from Debian's packages: what the Dockerfiles use of `python:3.11-slim-bookworm`."""
    if run("docker", "images", "-q", BASE):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root))
        if CERTIFICATES.is_file():  # those that this machine trusts: a package mirror may have its own
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        (root / "etc" / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\ntimeout = 180\n")
        packed = Path(folder) / "root.tar"
        run("tar", "-C", str(root), "-cf", str(packed), ".")
        path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run("docker", "import", "--change", path, str(packed), BASE)
