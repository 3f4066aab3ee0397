"""Which browser the tests drive."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("playwright")

from tests.browser.chromium import NAMES, NoBrowser, executable


def playwright(own: Path) -> Any:
    return SimpleNamespace(chromium=SimpleNamespace(executable_path=str(own)))


@pytest.mark.parametrize("name", NAMES)
def test_a_browser_of_the_path_is_taken_before_playwrights_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, installed = tmp_path / "own", tmp_path / "bin" / name
    installed.parent.mkdir()
    for path in (own, installed):
        path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert executable(playwright(own)) == own
    monkeypatch.setenv("PATH", str(installed.parent))
    assert executable(playwright(own)) == installed == Path(shutil.which(name) or "")


def test_where_there_is_none_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoBrowser, match="chromium, chromium-browser, google-chrome"):
        executable(playwright(tmp_path / "none"))
