"""What `lexiscope doctor` finds, and that every fault has an advice."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.doctor import Finding, examine
from indexer.exchange import export_parquet, import_parquet
from lexiscope.settings import Settings
from tests.store import synthetic


def found(**given: object) -> dict[str, Finding]:
    with ThreadPoolExecutor(1) as aside:  # where no event loop of another test's browser runs
        findings = aside.submit(lambda: list(examine(Settings(**given)))).result()
    return {finding.what: finding for finding in findings}


def test_an_index_whose_files_moved_is_said(tmp_path: Path) -> None:
    synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)])
    findings = found(index=tmp_path, runs=tmp_path)
    assert findings["index"].ok and "1 dictionaries of 1 models" in findings["index"].found
    assert not findings["model m"].ok and not findings["checkpoints"].ok
    assert findings["address"].ok and findings["GPU"].found


def test_what_was_imported_without_weights_is_not_called_present(tmp_path: Path) -> None:
    synthetic.publish(tmp_path / "index", [synthetic.Dictionary("m", 0), synthetic.Dictionary("m", 1)])
    export_parquet(tmp_path / "out", settings=Settings(index=tmp_path / "index"))
    import_parquet(tmp_path / "out", settings=Settings(index=tmp_path / "other"))
    findings = found(index=tmp_path / "other", runs=tmp_path)
    assert findings["imported dictionaries"] == Finding(
        "imported dictionaries", True, "2 without weights: browsed, not steered"
    )
    assert "checkpoints" not in findings and findings["model m"].found.startswith("imported without")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "index"),
        ({"database_url": "postgresql://nobody@127.0.0.1:1/none"}, "database"),
        ({"worker_url": "http://127.0.0.1:9"}, "worker"),
        ({"worker_device": "cuda:7"}, "GPU"),
    ],
)
def test_every_fault_has_an_advice(given: dict[str, object], what: str, tmp_path: Path) -> None:
    finding = found(**{"index": tmp_path, "runs": tmp_path, **given})[what]
    assert not finding.ok and (finding.advice or "run `lexiscope" in finding.found)


def test_an_address_of_all_interfaces_without_names_is_said_to_answer_loopback_alone(tmp_path: Path) -> None:
    finding = found(index=tmp_path, runs=tmp_path, host="0.0.0.0", allowed_hosts="")["address"]
    assert finding.ok and "LEXISCOPE_ALLOWED_HOSTS" in finding.found
