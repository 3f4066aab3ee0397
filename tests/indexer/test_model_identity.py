"""One model id stands for one language model, and a dictionary that is read on another one shows it."""

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import indexer
from indexer import job
from indexer.exchange import (
    ImportRefused,
    NeuronpediaImportRequest,
    export_parquet,
    import_neuronpedia,
    import_parquet,
)
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.measures.warnings import reconstruction_warning
from lexiscope.settings import Settings
from store import Store
from tests import tiny
from tests.indexer import dashboards


def perturbed(folder: Path, source: Path, *, noise: float = 0.5) -> Path:
    """The same model and vocabulary with other weights: a fine-tune."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for weights in model.parameters():
        weights.data += noise * weights.data.std() * torch.randn_like(weights)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finetuned(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    torch.manual_seed(1)
    return load_language_model(str(perturbed(tmp_path_factory.mktemp("finetuned") / "tiny", model_folder)))


@pytest.fixture(scope="session")
def moved(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("moved") / "tiny"
    shutil.copytree(model_folder, folder)
    return load_language_model(str(folder))


def index(model: LanguageModel, runs: list[Path], text: Path, settings: Settings, **given: str) -> list[str]:
    """The lines it prints."""
    console = Console(record=True, width=400, file=open("/dev/null", "w"))  # noqa: SIM115
    request = indexer.IndexRequest(length=48, ablate=0, tokens=2000)
    checkpoints = [load_checkpoint(run, **given) for run in runs]
    indexer.index([(model, checkpoints)], [str(text)], settings=settings, console=console, request=request)
    return console.export_text().splitlines()


def test_a_model_is_known_by_its_weights_and_vocabulary_in_any_precision_and_place(
    model: LanguageModel, moved: LanguageModel, finetuned: LanguageModel, model_folder: Path, tmp_path: Path
) -> None:
    assert model.id == moved.id == finetuned.id and model.path != moved.path
    assert model.identity == moved.identity != finetuned.identity
    half = load_language_model(str(model_folder), dtype=torch.bfloat16)
    assert half.identity == model.identity
    other = tmp_path / "tiny"
    shutil.copytree(model_folder, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    vocabulary = (other / "tokenizer.json").read_text()
    cat, dog = tokenizer.encode(" cat")[0], tokenizer.encode(" dog")[0]
    swapped = vocabulary.replace(f": {cat},", ": CAT,").replace(f": {dog},", f": {cat},")
    (other / "tokenizer.json").write_text(swapped.replace(": CAT,", f": {dog},"))
    assert load_language_model(str(other)).identity != model.identity


def test_another_model_under_the_id_of_one_in_the_index_is_refused_and_nothing_changes(
    model: LanguageModel, finetuned: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    settings = Settings(index=tmp_path)
    index(model, runs[:2], text_file, settings)
    before = Store(settings).home().build
    with pytest.raises(ModelError, match=r"another model under the id 'tiny'.*0-vasae.*--model-id"):
        index(finetuned, runs[:1], text_file, settings, set_name="finetuned")
    with pytest.raises(ModelError, match="--model-id"):  # it would replace one dictionary and keep the other
        index(finetuned, runs[:1], text_file, settings)
    assert Store(settings).home().build == before
    finetuned_id = finetuned.id
    try:
        finetuned.id = "tiny-finetuned"
        index(finetuned, runs[:1], text_file, settings)
    finally:
        finetuned.id = finetuned_id
    assert {summary.model for summary in Store(settings).home().models} == {"tiny", "tiny-finetuned"}


def test_another_model_that_was_published_while_the_text_was_read_is_refused_too(
    model: LanguageModel,
    finetuned: LanguageModel,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(index=tmp_path)
    count = job.count_text

    def count_while_another_publishes(counted: job.ModelJob) -> object:
        monkeypatch.setattr(job, "count_text", count)
        index(model, runs[1:2], text_file, settings)
        return count(counted)

    monkeypatch.setattr(job, "count_text", count_while_another_publishes)
    with pytest.raises(ModelError, match=r"another model under the id 'tiny'.*1-vasae.*--model-id"):
        index(finetuned, runs[:1], text_file, settings)
    assert [entry.source for entry in Store(settings).dictionaries()] == ["1-vasae"]


def test_what_an_id_replaces_is_said(
    model: LanguageModel,
    moved: LanguageModel,
    finetuned: LanguageModel,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
) -> None:
    settings = Settings(index=tmp_path)
    assert not any("replaces" in line for line in index(model, runs[:1], text_file, settings))
    (line,) = [line for line in index(moved, runs[:1], text_file, settings) if "replaces" in line]
    assert "tiny/0-vasae replaces" in line and "another model" not in line
    (line,) = [line for line in index(finetuned, runs[:1], text_file, settings) if "replaces" in line]
    assert "read with another model" in line and moved.path in line


def test_two_models_of_one_id_in_one_call_are_refused_and_one_model_from_two_places_is_one(
    model: LanguageModel,
    moved: LanguageModel,
    finetuned: LanguageModel,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
) -> None:
    settings, quiet = Settings(index=tmp_path), Console(quiet=True)
    request = indexer.IndexRequest(length=48, ablate=0, tokens=2000)
    first, second = load_checkpoint(runs[0]), load_checkpoint(runs[1])
    with pytest.raises(
        ModelError, match=r"different models under the id 'tiny'.*two calls, one of them .*--model-id"
    ):
        indexer.index(
            [(model, [first]), (finetuned, [second])],
            [str(text_file)],
            settings=settings,
            console=quiet,
            request=request,
        )
    indexer.index(
        [(model, [first]), (moved, [second])],
        [str(text_file)],
        settings=settings,
        console=quiet,
        request=request,
    )
    (summary,) = Store(settings).home().models
    assert len(summary.layers) == 2


def test_an_imported_index_of_another_model_under_the_id_is_refused(
    model: LanguageModel, finetuned: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    mine, theirs = Settings(index=tmp_path / "mine"), Settings(index=tmp_path / "theirs")
    index(model, runs[:1], text_file, mine)
    index(finetuned, runs[:1], text_file, theirs, set_name="theirs")
    export_parquet(tmp_path / "exported", settings=theirs)
    with pytest.raises(ImportRefused, match="its weights differ"):
        import_parquet(tmp_path / "exported", settings=mine)


def test_imported_dashboards_read_with_another_model_under_the_id_are_refused(
    model: LanguageModel, finetuned: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    settings = Settings(index=tmp_path / "index")
    index(model, runs[:1], text_file, settings)
    before = Store(settings).home().build
    folder = dashboards.write(tmp_path / "batches", model)
    with pytest.raises(ImportRefused, match=r"tiny/0-vasae of another model.*--model-id"):
        import_neuronpedia(NeuronpediaImportRequest(folder, lambda: finetuned), settings=settings)
    assert Store(settings).home().build == before
    import_neuronpedia(NeuronpediaImportRequest(folder, lambda: model), settings=settings)
    with pytest.raises(ModelError, match=r"another model under the id 'tiny'.*1-res-jb"):
        index(finetuned, runs[:1], text_file, settings)  # the imported one would stay


def test_a_dictionary_on_its_own_layer_explains_the_text_and_on_another_layer_or_model_warns(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    def explained(model: LanguageModel, run: Path, place: str) -> tuple[float, str, list[str]]:
        settings = Settings(index=tmp_path / place)
        lines = index(model, [run], text_file, settings)
        (summary,) = Store(settings).home().models[0].layers
        assert summary.fve_text is not None
        return summary.fve_text, summary.warning, [line for line in lines if "WARNING" in line]

    right = load_checkpoint(runs[0])
    fve, warning, lines = explained(model, runs[0], "right")
    assert fve == pytest.approx(right.metrics["fve"], abs=0.1) and warning == "" and lines == []
    wrong = tmp_path / "1-vasae"
    shutil.copytree(runs[0], wrong)
    settings = (wrong / "cfg.json").read_text()
    (wrong / "cfg.json").write_text(
        settings.replace("blocks.0.", "blocks.1.").replace('"layer": 0', '"layer": 1')
    )
    assert explained(model, wrong, "layer")[0] < fve - 0.1  # the tiny model's layers are alike
    other = load_language_model(str(tiny.make_model(tmp_path / "other" / "tiny", seed=3)))
    fve, warning, lines = explained(other, runs[0], "model")
    assert fve < 0.5 and "Likely causes: another layer" in warning and lines


def test_a_dictionary_that_records_other_weights_is_warned_of(
    model: LanguageModel, finetuned: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    right = index(model, runs[:1], text_file, Settings(index=tmp_path / "right"))
    assert not any("other weights" in line for line in right)
    wrong = index(finetuned, runs[:1], text_file, Settings(index=tmp_path / "wrong"))
    assert any("was trained on other weights of tiny" in line for line in wrong)


def test_the_warning_is_for_a_low_figure_alone() -> None:
    assert reconstruction_warning(None) == reconstruction_warning(0.5) == ""
    assert "BOS" in reconstruction_warning(0.49) and "0.49" in reconstruction_warning(0.49)


def test_the_vocabulary_of_the_first_model_stays(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    """Two models whose folders share their last name, with other vocabularies."""
    settings = Settings(index=tmp_path / "index")
    index(model, runs[:1], text_file, settings)
    named = [Store(settings).feature("tiny", "0-vasae", i).feature.name for i in range(9)]
    other = load_language_model(str(tiny.make_model(tmp_path / "tiny", seed=3)))
    with pytest.raises(ModelError, match="--model-id"):
        index(other, runs[:1], text_file, settings, set_name="other")
    assert [Store(settings).feature("tiny", "0-vasae", i).feature.name for i in range(9)] == named
