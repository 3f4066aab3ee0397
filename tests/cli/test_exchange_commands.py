"""`lexiscope export` and `import` from the command line: what they say, and one line of words when something
is wrong.
"""

from pathlib import Path

import pytest
import torch

from lexiscope.checkpoint import load_checkpoint, save_weights
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.selection import TopK
from lexiscope.settings import Settings
from store import columns_document
from tests.cli.commands import lexiscope, lexiscope_process
from tests.indexer import dashboards
from tests.store import synthetic


@pytest.mark.slow
def test_an_index_goes_out_and_comes_back_from_the_command_line(tmp_path: Path) -> None:
    synthetic.publish(tmp_path / "index", [synthetic.Dictionary("tiny", 1)])
    out = lexiscope("export", "parquet", str(tmp_path / "out"), "--model", "tiny", work=tmp_path)
    assert out.returncode == 0, out.stderr
    assert "wrote 1 dictionaries" in out.stdout and (tmp_path / "out" / "feature.parquet").is_file()
    again = lexiscope_process("import", "parquet", str(tmp_path / "out"), work=tmp_path)
    assert again.returncode == 1 and again.stderr.count("\n") == 1
    assert "already holds tiny/1-vasae" in again.stderr and "Nothing was published" in again.stderr
    into = lexiscope("import", "parquet", str(tmp_path / "out"), work=tmp_path / "elsewhere")
    assert into.returncode == 0 and "tiny/1-vasae" in into.stdout


def test_dashboards_come_in_and_go_out_from_the_command_line(
    model: LanguageModel, model_folder: Path, tmp_path: Path
) -> None:
    batches = dashboards.write(tmp_path / "batches", model)
    found = lexiscope(
        "import",
        "neuronpedia",
        str(batches),
        "--model",
        str(model_folder),
        "--set-name",
        "theirs",
        work=tmp_path,
    )
    assert found.returncode == 0, found.stderr
    assert "tiny/1-theirs: 5 features" in found.stdout and "repeat another" in found.stdout
    out = lexiscope(
        "export", "neuronpedia", str(tmp_path / "out"), "--source", "tiny/1-theirs", work=tmp_path
    )
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "out" / "tiny" / "1-theirs" / "features" / "batch-0.jsonl.gz").is_file()
    wrong = lexiscope("export", "neuronpedia", str(tmp_path / "b"), "--source", "1-theirs", work=tmp_path)
    assert wrong.returncode == 1 and "MODEL/SOURCE" in wrong.stderr


def test_a_string_in_brackets_that_is_no_token_is_named_as_it_is(
    model: LanguageModel, model_folder: Path, tmp_path: Path
) -> None:
    features = [dashboards.feature(model, index) for index in range(4)]
    features[0]["activations"][0]["tokens"][0] = "[/INST]"
    batches = dashboards.write(tmp_path / "batches", model, features)
    found = lexiscope("import", "neuronpedia", str(batches), "--model", str(model_folder), work=tmp_path)
    assert found.returncode == 0 and "shown as unknown: '[/INST]' (1)" in found.stdout, found.stderr


def test_a_dictionary_goes_out_for_saelens_and_encodes_the_same(tmp_path: Path) -> None:
    dictionary = Dictionary(torch.randn(8, 20), torch.randn(20), torch.randn(20, 8), torch.randn(8), TopK(3))
    (tmp_path / "run").mkdir()
    details = {"layer": 1, "set": "plain", "recipe": "plain"}
    hook = "blocks.1.hook_resid_post"
    save_weights(tmp_path / "run", dictionary, fit=None, model="tiny", hook=hook, context=32, details=details)
    out = lexiscope("export", "saelens", str(tmp_path / "run"), str(tmp_path / "out"), work=tmp_path)
    assert out.returncode == 0, out.stderr
    x = torch.randn(50, 8)
    ours, theirs = dictionary.encode(x), load_checkpoint(tmp_path / "out").dictionary.encode(x)
    assert torch.equal(ours.indices, theirs.indices) and torch.equal(ours.values, theirs.values)
    again = lexiscope("export", "saelens", str(tmp_path / "run"), str(tmp_path / "out"), work=tmp_path)
    assert again.returncode == 1 and "already holds" in again.stderr


def test_columns_are_shown_or_written(tmp_path: Path) -> None:
    assert lexiscope("export", "columns", work=tmp_path).stdout == columns_document()


def test_imported_features_have_pages(model: LanguageModel, tmp_path: Path) -> None:
    """The server shows a dictionary that has no checkpoint, no position histogram and, for some features, no
    firing.
    """
    from fastapi.testclient import TestClient

    from indexer.exchange import NeuronpediaImportRequest, import_neuronpedia
    from server import create_app

    settings = Settings(index=tmp_path / "index")
    folder = dashboards.write(tmp_path / "batches", model)
    import_neuronpedia(NeuronpediaImportRequest(folder, lambda: model), settings=settings)
    with TestClient(create_app(settings)) as client:
        for path in (
            "/",
            "/tiny/1-res-jb",
            "/tiny/1-res-jb/0",
            f"/tiny/1-res-jb/{dashboards.SILENT}",
            "/search?q=paris",
        ):
            assert client.get(path).status_code == 200, path
        feature = client.get("/tiny/1-res-jb/0.json").json()["feature"]
        assert feature["name"]["shown"] == "␣Paris" and feature["contexts"]
