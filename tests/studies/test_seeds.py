"""Features that two dictionaries are known to share are the ones that recur."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lexiscope.checkpoint import load_checkpoint
from studies import STUDIES, StudyError
from studies.feature_matching import Run, match, overlap, recurrence, subspace
from studies.seeds import SeedArguments
from tests.cli.commands import lexiscope


def run_of(rows: torch.Tensor, names: torch.Tensor | None = None) -> Run:
    unit = F.normalize(rows, dim=-1)
    n = len(rows)
    return Run(
        torch.arange(n), unit, unit, torch.ones(n), torch.ones(n), torch.arange(n) if names is None else names
    )


def test_the_match_is_that_of_a_slow_search() -> None:
    a, b = run_of(torch.randn(70, 12)), run_of(torch.randn(50, 12))
    found = match(a, b)
    for i in range(70):
        cosines = [float((a.encoder[i] @ b.encoder[j] + a.decoder[i] @ b.decoder[j]) / 2) for j in range(50)]
        j = max(range(50), key=cosines.__getitem__)
        assert int(found.nearest[i]) == j and float(found.similarity[i]) == pytest.approx(
            cosines[j], abs=1e-5
        )
        back = [float((a.encoder[k] @ b.encoder[j] + a.decoder[k] @ b.decoder[j]) / 2) for k in range(70)]
        assert bool(found.mutual[i]) == (max(range(70), key=back.__getitem__) == i)


def test_shared_features_recur_and_own_ones_do_not() -> None:
    shared = torch.randn(20, 64)
    runs = [run_of(torch.cat([shared + 0.1 * torch.randn(20, 64), torch.randn(30, 64)])) for _ in range(3)]
    for share in recurrence(runs, 0.7):
        assert bool((share[:20] == 1).all()) and bool((share[20:] == 0).all())


def test_features_drawn_in_one_plane_span_it_in_every_seed() -> None:
    plane = torch.linalg.qr(torch.randn(40, 4)).Q
    spaces = [
        subspace(F.normalize(torch.randn(60, 4) @ plane.T, dim=-1), torch.ones(60), 4) for _ in range(2)
    ]
    assert overlap(*spaces) == pytest.approx(1)
    chance = [subspace(F.normalize(torch.randn(4, 40), dim=-1), torch.ones(4), 4) for _ in range(2)]
    assert overlap(*chance) < 0.4


def test_one_dictionary_twice_or_of_two_recipes_is_refused(runs: list[Path], text_file: Path) -> None:
    text = {"text": (str(text_file),), "length": 48, "tokens": 600}
    with pytest.raises(StudyError, match="needs 2 different"):
        STUDIES["seeds"].run(SeedArguments(dictionaries=(runs[1], runs[1]), **text))
    with pytest.raises(StudyError, match="of layers \\[0, 1\\]"):
        STUDIES["seeds"].run(SeedArguments(dictionaries=(runs[0], runs[1]), **text))
    with pytest.raises(StudyError, match="one architecture"):
        STUDIES["seeds"].run(SeedArguments(dictionaries=(runs[1], runs[2]), **text))


def test_a_study_of_two_seeds_gives_every_figure_beside_its_control(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    for seed in ("1", "2"):
        sizes = ["--tokens", "2500", "--eval-tokens", "200", "--k", "4", "--length", "48", "--seen", "6000"]
        named = ["--recipe", "plain", "--layers", "1", "--seed", seed, "--set-name", f"plain-s{seed}"]
        made = lexiscope("train", str(model_folder), "--text", str(text_file), *sizes, *named, work=tmp_path)
        assert made.returncode == 0, made.stderr
    places = tuple(tmp_path / "runs" / "tiny" / f"1-plain-s{seed}" for seed in "12")
    ask = SeedArguments(dictionaries=places, text=(str(text_file),), length=48, tokens=1500, rank=4, shown=5)
    record = STUDIES["seeds"].run(ask)
    figures = {figure.label: figure for figure in record.figures}
    recurs = figures["features that recur"]
    assert recurs.control is not None and 0 <= recurs.control < recurs.value <= 1
    assert record.name == "seeds-tiny" and len(record.tables[0].rows) == 5
    assert record.chart is not None and len(record.chart.series[0].points) == 10
    seeds = record.recurrence
    assert seeds is not None and seeds.dictionary == "tiny/1-plain-s1"
    assert seeds.identity == load_checkpoint(places[0]).dictionary.identity
    never, once = seeds.recur_in
    assert not set(never) & set(once) and len(set(never + once)) == len(never + once)
    assert sum(row[1] for row in record.tables[0].rows) <= len(once)
