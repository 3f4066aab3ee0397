"""The files of the containers name every setting, every room and a version of every image."""

import re
from pathlib import Path

import pytest

from lexiscope.settings import Settings

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
