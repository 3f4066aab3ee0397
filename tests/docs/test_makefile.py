"""What `make` does before anything is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
# Stands in for Python: `-m venv FOLDER` makes an environment of which it is the python and the pip.
[ "$2" != venv ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip"; }
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("environment", [".venv", ".venv/audit"])
@pytest.mark.parametrize("begun", [None, "bin"], ids=["missing", "half made"])
def test_an_environment_is_made_or_finished(environment: str, begun: str | None, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    if begun is not None:
        (tmp_path / environment / begun).mkdir(parents=True)
    shell = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", f"PYTHON={python}", f"{environment}/installed"]
    done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / environment / "bin" / "python").exists()
