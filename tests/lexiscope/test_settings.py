"""docs/settings.md is the Settings class, row by row."""

from pathlib import Path

import pytest

from lexiscope.settings import Settings, SettingsError


def test_every_setting_is_documented_and_nothing_else() -> None:
    rows = [
        line.split("|")[1].strip(" `")
        for line in Path("docs/settings.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert rows == [f"LEXISCOPE_{name.upper()}" for name in Settings.model_fields]


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
