"""The files of the containers name every setting, every package and a version of every image."""

import re
import subprocess
from pathlib import Path

import pytest

from lexiscope.settings import Settings
from server.connections import HEAD_BYTES

ROOT = Path(__file__).parents[2]
NAMES = {f"LEXISCOPE_{name.upper()}" for name in Settings.model_fields}
IN_THE_IMAGE = {f"LEXISCOPE_{name}" for name in "INDEX RUNS LENSES TABLES STUDIES HOST PORT".split()}


def names(file: str) -> set[str]:
    return set(re.findall(r"LEXISCOPE_[A-Z_]+", (ROOT / file).read_text(encoding="utf-8")))


def test_the_example_of_settings_has_every_setting_and_no_other() -> None:
    assert names(".env.example") == NAMES


def test_the_containers_get_every_setting() -> None:
    assert names("docker-compose.yml") == NAMES - IN_THE_IMAGE
    assert IN_THE_IMAGE - {"LEXISCOPE_PORT"} <= names("Dockerfile") <= NAMES


@pytest.mark.parametrize("file", ["Dockerfile", "deploy/proxy.Dockerfile", "docker-compose.yml"])
def test_every_image_has_a_version(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    images = re.findall(r"(?:BASE_IMAGE=|_IMAGE:-)([a-z][\w./-]*:?[\w.-]*)", text)
    foreign = [image for image in images if not image.startswith("lexiscope")]
    assert foreign and all(re.search(r":\d+\.\d+", image) for image in foreign)


def test_every_room_is_in_the_image() -> None:
    packages = re.search(
        r"packages\.find\]\ninclude = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    assert packages is not None
    copied = set(re.findall(r"^COPY ([\w/]+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for pattern in re.findall(r'"([\w.]+)\*"', packages[1]):
        assert pattern.replace(".", "/") in copied, pattern


def test_the_example_has_every_variable_of_the_containers() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name in re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")):
        assert f"# {name}=" in example, name


def test_the_proxy_passes_addresses_as_long_as_the_server_takes() -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    assert f"large_client_header_buffers 4 {HEAD_BYTES // 1024}k;" in text


@pytest.mark.parametrize(
    ("given", "port"), [("8443", ":8443"), ("0.0.0.0:9443", ":9443"), ("443", ""), (None, "")]
)
def test_the_proxy_redirects_to_the_port_outside_its_container(
    given: str | None, port: str, tmp_path: Path
) -> None:
    script = (ROOT / "deploy" / "proxy.sh").read_text(encoding="utf-8")
    part = script[script.index("port=") : script.index("exec nginx")]
    written = tmp_path / "redirect.conf"
    command = ["sh", "-euc", part.replace("/tmp/redirect.conf", str(written))]
    subprocess.run(command, env={} if given is None else {"HTTPS_PORT": given}, check=True)
    assert written.read_text() == f"return 308 https://$host{port}$request_uri;\n"
    assert "include /tmp/redirect.conf;" in (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    assert "HTTPS_PORT: ${HTTPS_PORT:-8443}" in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
