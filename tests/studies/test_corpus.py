"""Clusters of passages, and scores of them whose truth is known."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from studies import STUDIES, StudyError
from studies.corpus import CorpusArguments, k_means, purity, reduced
from tests import tiny


def test_groups_that_are_far_apart_are_found() -> None:
    centres = F.normalize(torch.randn(4, 30), dim=1)
    truth = torch.arange(120) % 4
    rows = F.normalize(centres[truth] + 0.05 * torch.randn(120, 30), dim=1)
    cluster = k_means(rows, 4, seed=0)
    assert float(purity(cluster, truth).mean()) == 1
    assert {len(set(cluster[truth == each].tolist())) for each in range(4)} == {1}


def test_purity_is_the_share_of_the_largest_file_of_each_cluster() -> None:
    cluster, source = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 0])
    assert purity(cluster, source).tolist() == [1, 1, 0, 1, 1, 1]


def test_reduced_inputs_keep_distances_of_few_dimensions() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 5, generator=draw) @ torch.randn(5, 300, generator=draw)
    fewer = reduced(inputs)
    before, after = ((rows[:, None] - rows).norm(dim=-1) for rows in (inputs, fewer))
    assert torch.allclose(after, before, atol=1e-3)


def test_a_corpus_of_two_files(runs: list[Path], text_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "house.txt"
    other.write_text(tiny.text(3000, seed=9).replace("cat", "house").replace("dog", "house"))
    ask = {"dictionaries": (runs[2],), "tokens": 1500, "length": 32}
    scores = tmp_path / "scores.jsonl"
    record = STUDIES["corpus"].run(
        CorpusArguments(text=(str(text_file), str(other)), clusters=3, export=scores, **ask)
    )
    figures = {figure.label: figure for figure in record.figures}
    assert figures["quality by token counts"].value == pytest.approx(0.5, abs=0.2)
    assert figures["clusters of features: purity"].control is not None
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    assert len(rows) == sum(row[1] for row in record.tables[0].rows)
    assert {row["source"] for row in rows} == {0, 1} and all(row["loss"] > 0 and row["text"] for row in rows)
    assert sum(row["fitted"] for row in rows) == pytest.approx(len(rows) / 2, abs=1)
    with pytest.raises(StudyError, match="two --text"):
        STUDIES["corpus"].run(CorpusArguments(text=(str(text_file),), **ask))
    with pytest.raises(StudyError, match="cannot make"):
        STUDIES["corpus"].run(CorpusArguments(text=(str(text_file), str(other)), clusters=900, **ask))
