"""The wheel carries templates, static files and the bundled model, and serves a page from where it is
installed.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVE = """
from pathlib import Path
import lexiscope, server
from lexiscope.settings import DATA, Settings
from fastapi.testclient import TestClient
assert Path(lexiscope.__file__).is_relative_to(Path.cwd() / "site"), lexiscope.__file__
assert (DATA / "demo" / "model" / "config.json").is_file(), DATA
with TestClient(server.create_app(Settings()), base_url="http://localhost") as client:
    assert client.get("/static/lexiscope.css").status_code == 200
    assert client.get("/docs").status_code == 200
    page = client.get("/", headers={"accept": "text/html"})
    assert page.status_code == 503 and "lexiscope" in page.text, page.text
"""


@pytest.mark.slow
def test_an_installed_wheel_serves_a_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    for folder in (pattern.removesuffix("*").replace(".", "/") for pattern in found["include"]):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q"]
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", *options, "-w", str(tmp_path), str(source)], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)],
        check=True,
        capture_output=True,
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEXISCOPE_")} | {
        "PYTHONPATH": str(tmp_path / "site")
    }
    result = subprocess.run(
        [sys.executable, "-c", SERVE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
