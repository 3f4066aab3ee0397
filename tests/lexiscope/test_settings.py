"""docs/settings.md is the Settings class, row by row."""

from pathlib import Path

import pytest
from pydantic import ByteSize

from lexiscope.settings import ROOT, Settings, SettingsError


def written(default: object) -> str:
    """A default as the table has it."""
    if isinstance(default, Path):
        default = default.relative_to(ROOT)
    elif isinstance(default, ByteSize):
        default = default.human_readable().replace(".0", "")
    elif isinstance(default, bool):
        default = str(default).lower()
    return "empty" if default == "" else f"`{default}`"


def test_every_setting_is_documented_and_nothing_else() -> None:
    lines = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| `")] == [
        f"| `LEXISCOPE_{name.upper()}` | {written(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def test_wrong_settings_are_said_all_at_once_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PORT", "eighty"),
        ("READER_MEMORY", "plenty"),
        ("DATABASE_URL", "mysql://alice:s3cret@db/x"),
        ("WORKER_URL", "localhost:8001"),
        ("WORKR_QUEUE", "4"),
    ):
        monkeypatch.setenv(f"LEXISCOPE_{name}", value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    said = str(caught.value)
    for name in ("PORT", "READER_MEMORY", "DATABASE_URL", "WORKER_URL", "WORKR_QUEUE"):
        assert f"LEXISCOPE_{name}: " in said
    assert "nearest is LEXISCOPE_WORKER_QUEUE" in said and "s3cret" not in said and "\n" not in said


def test_the_secrets_of_settings_are_not_shown() -> None:
    shown = repr(Settings(database_url="postgresql://alice:s3cret@db/x", worker_token="t0ken"))
    assert "s3cret" not in shown and "t0ken" not in shown
