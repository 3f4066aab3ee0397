"""`lexiscope keys` makes, lists and removes keys."""

from pathlib import Path

import pytest

from cli.main import main
from lexiscope.settings import Settings
from store import ApiKeys


def test_keys_are_made_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEXISCOPE_INDEX", str(tmp_path))
    assert main(["keys", "list"]) == 0 and "no keys" in capsys.readouterr().out
    assert main(["keys", "add", "ann", "--per-minute", "60"]) == 0
    key = capsys.readouterr().out.strip()
    assert ApiKeys(Settings(index=tmp_path)).grant(key).limit == 60
    assert main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "ann" in shown and "60" in shown and key not in shown
    assert main(["keys", "add", "ann"]) == 1 and "already" in capsys.readouterr().err
    assert main(["keys", "remove", "bob"]) == 1 and "ann" in capsys.readouterr().err
    assert main(["keys", "remove", "ann"]) == 0
