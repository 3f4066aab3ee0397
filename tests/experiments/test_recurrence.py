"""Names by relation and word that recur over seeds: the same run recurs whole, and chance is far below."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from experiments import recurrence
from lexiscope.metrics import NamedRun

FEATURES = 300


def run(names: torch.Tensor, seed: int = 0) -> NamedRun:
    draw = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(FEATURES, 32, generator=draw), dim=-1)
    return NamedRun(names, directions, torch.arange(FEATURES), torch.ones(FEATURES, dtype=torch.bool))


def test_a_run_recurs_in_itself_and_not_where_its_names_are_dealt() -> None:
    names = torch.arange(FEATURES)
    names[::3] = -1
    found = recurrence.compare([run(names), run(names)])
    assert found["different"] == 200 and found["any"] == found["nearest"] == 1
    assert found["nearest_permuted"] < 0.05
    dealt = recurrence.permuted(run(names)).names
    assert sorted(dealt.tolist()) == sorted(names.tolist()) and bool((dealt[::3] == -1).all())


def test_names_that_the_other_seed_lacks_do_not_recur() -> None:
    one, other = torch.arange(FEATURES), torch.arange(FEATURES)
    other[: FEATURES // 2] += FEATURES
    found = recurrence.compare([run(one), run(other)])
    assert found["any"] == found["nearest"] == pytest.approx(0.5)


def test_the_page_marks_what_reaches_the_target(tmp_path: Path) -> None:
    row = {"dictionary": "toy/1-vasae", "seeds": 3, "tokens": 5000, "names": "relation and word"}
    row |= {"different": 12.5, "any": 0.6, "nearest": 0.25, "nearest_permuted": 0.01}
    kept, page = tmp_path / "kept.json", tmp_path / "page.md"
    kept.write_text(json.dumps({"commands": [], "rows": [row]}))
    page.write_text("<!-- recurrence -->\n<!-- /recurrence -->\n")
    recurrence.write_page(page, kept)
    assert "| toy/1-vasae | 3 | 5,000 | 12 | **0.60** | 0.25 | 0.01 |" in page.read_text()
