"""docs/settings.md is the Settings class, row by row."""

from pathlib import Path

from lexiscope.settings import Settings


def test_every_setting_is_documented_and_nothing_else() -> None:
    rows = [
        line.split("|")[1].strip(" `")
        for line in Path("docs/settings.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert rows == [f"LEXISCOPE_{name.upper()}" for name in Settings.model_fields]
