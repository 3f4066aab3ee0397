"""Every test that docs/security.md and docs/reliability.md name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", ["security.md", "reliability.md"])
def test_every_line_names_tests_that_exist(document: str) -> None:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
    claims = text.split("## Killed at random moments")[0]
    rows = [
        line for line in claims.splitlines() if line.startswith("| ") and not line.startswith("| who does")
    ]
    assert all("tests/" in row or "0700" in row for row in rows if "fault | what" not in row)
