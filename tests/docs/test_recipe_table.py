"""The table of settings in docs/method.md#recipes is that of the code."""

from lexiscope.settings import ROOT
from trainer import recipe


def test_the_documented_settings_of_our_recipes_are_their_defaults() -> None:
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    lines = page[page.index("| setting | `vasae`") :].partition("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    for column, name in enumerate(header[1:-1], start=1):
        config = recipe(name)
        for row in rows:
            assert row[column] == str(getattr(config, row[0], "–")), f"{name}: {row[0]}"
    assert {"k", "batch", "learning_rate", "schedule", "dense_rank", "lookup"} <= {row[0] for row in rows}
