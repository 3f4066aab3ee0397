"""Every bench and experiment starts by its module's name, and a bench's report is kept as it was printed."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from bench import report
from bench.report import Report, load, times, write_page
from bench.store_reads import Requests
from bench.synthetic_index import Shape, write
from lexiscope.settings import Settings
from store import Store

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "bench.peer_environments",
    "bench.processes",
    "bench.report",
    "bench.synthetic_index",
    "experiments.figures",
    "experiments.page",
    "experiments.plots",
    "experiments.results",
    "experiments.training",
}
"""modules without options of their own"""
OWN_TRAINERS = ("bench.peers.lexiscope_trainer", "bench.peers.paper_soft")
SCRIPTS = {
    f"{folder}.{file.stem}"
    for folder in ("bench", "experiments")
    for file in (ROOT / folder).glob("*.py")
    if file.stem != "__init__"
} - LIBRARIES


@pytest.mark.parametrize("module", sorted(SCRIPTS))
def test_a_script_names_its_options(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("module", [*sorted(LIBRARIES), *OWN_TRAINERS])
def test_what_scripts_share_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__doc__


def test_a_report_is_read_back_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- reading -->\n<!-- /reading -->\n")
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["bench/store_reads.py", "--at", "/somewhere/store"])
    made = Report("store_reads", kept_as="reading")
    made.table("requests", ["", "ms"]).rows.append(["page", "3.5"])
    made.notes.append("On a quiet machine.")
    made.finish(write=True)
    assert load(tmp_path / "reading.json") == made
    assert made.command == "python -m bench.store_reads --at store"
    assert "| page | 3.5 |" in page.read_text() and "| page | 3.5 |" in capsys.readouterr().out


def test_the_benchmarks_page_is_made_from_the_kept_reports(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(report.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_page(page, report.FOLDER)
    assert page.read_text(encoding="utf-8") == report.PAGE.read_text(encoding="utf-8")


def test_a_ratio_is_shown_with_its_sign() -> None:
    assert times(3, 2) == "1.50×" and times(3, 0) == "–"


def test_the_synthetic_index_has_the_columns_of_this_version_and_can_be_read(tmp_path: Path) -> None:
    shape = Shape("few", 2, 400, 1)
    settings = Settings(index=tmp_path, database_url="")
    write(settings, shape)
    store = Store(settings)
    reads = Requests(store, shape)
    for send in (reads.feature_record, reads.name_search, reads.list_page, reads.token_page):
        send()
    [model] = store.home().models
    assert model.n_features == 800 and store.feature("synthetic", "1-vasae", 300).feature.d_sae == 400
    store.close()
