"""The tutorial notebook runs from its first cell to its last, against a small index of the bundled model."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.demo_command import MODEL, MODEL_ID, TEXT, Amounts, build
from lexiscope.client import Lexiscope
from lexiscope.language_model import load_language_model
from lexiscope.settings import ROOT, Settings
from server import create_app
from tests.server_thread import running

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of `vasae` and `plain` at layer 2, trained and indexed for seconds."""
    settings = Settings(**{name: tmp_path / name for name in ("runs", "index", "lenses", "tables")})
    build(
        lambda: load_language_model(str(MODEL), model_id=MODEL_ID),
        MODEL_ID,
        ("vasae", 2),
        [("plain", 2)],
        [TEXT],
        Amounts(20_000, 20_000, 1_000, 20_000, 0, 0, 0, 0),
        settings=settings,
        console=Console(quiet=True),
    )
    for name in ("runs", "index", "lenses", "tables"):  # of the commands that the notebook starts
        monkeypatch.setenv(f"LEXISCOPE_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    with running(create_app(settings), log_level="error") as address:
        monkeypatch.setenv("TUTORIAL_SERVER", address)
        yield address


def test_every_cell_of_the_tutorial_runs(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells()):
        exec(compile(cell, f"cell {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert "␣king" in shown and "steered:" in shown
    with Lexiscope(address) as server:
        published = [f"{one.model}/{one.source}" for one in server.dictionaries()]
    assert published == ["demo/2-foreign", "demo/2-plain", "demo/2-vasae"]
    assert names["feature"]._repr_html_() and len(names["table"]) == names["feature"].dictionary.d_sae
