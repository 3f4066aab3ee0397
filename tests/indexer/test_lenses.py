"""What features write, through a Jacobian lens that is fitted once and kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import indexer
from indexer.lenses import jacobian_lenses
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel
from lexiscope.settings import Settings
from lexiscope.text import passages
from store import Store


def fitted(model: LanguageModel, text: Path, folder: Path, layers: list[int]) -> dict[int, torch.Tensor]:
    done: list[int] = []
    found = jacobian_lenses(
        model,
        layers,
        passages(model, [str(text)], length=48),
        prompts=2,
        folder=folder,
        advance=done.append,
    )
    assert sum(done) <= 2
    return found.by_layer


def test_a_lens_is_fitted_once_and_a_damaged_file_again(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitted(model, text_file, tmp_path, [0, model.n_layers - 1])
    assert torch.equal(first[model.n_layers - 1], torch.eye(model.d_model))
    [file] = tmp_path.glob("*.safetensors")
    calls: list[object] = []
    fit = LanguageModel.jacobians
    monkeypatch.setattr(
        LanguageModel, "jacobians", lambda *given, **more: calls.append(given) or fit(*given, **more)
    )
    assert torch.equal(fitted(model, text_file, tmp_path, [0])[0], first[0]) and not calls
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(fitted(model, text_file, tmp_path, [0])[0], first[0]) and len(calls) == 1


def test_a_lens_of_fewer_or_shorter_prompts_is_not_taken_for_another(
    model: LanguageModel, tmp_path: Path
) -> None:
    """A trial run over the beginning of a text must not leave its lens to the whole run."""
    prompts = [np.arange(3, 3 + n) % model.vocab_size for n in (40, 30)]
    folder = tmp_path / "lenses"
    found = [
        jacobian_lenses(model, [0], given, prompts=2, folder=folder)
        for given in (prompts[:1], [each[:25] for each in prompts], prompts)
    ]
    assert len({each.path for each in found}) == len(list(folder.glob("*.safetensors"))) == 3
    assert not torch.equal(found[0].by_layer[0], found[2].by_layer[0])


def test_layers_that_another_job_wrote_meanwhile_are_kept(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(model, text_file, tmp_path, [0])
    [file] = tmp_path.glob("*.safetensors")
    file.unlink()
    fit = LanguageModel.jacobians

    def meanwhile(*given: Any, **more: Any) -> dict[int, torch.Tensor]:
        save_file({"5": torch.eye(model.d_model)}, file)
        return fit(*given, **more)

    monkeypatch.setattr(LanguageModel, "jacobians", meanwhile)
    fitted(model, text_file, tmp_path, [0])
    assert set(load_file(file)) == {"0", "5"}


def test_a_text_of_short_passages_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    short = [np.zeros(10, dtype=np.int64)]
    with pytest.raises(TextError, match="passages of more than 17 tokens"):
        jacobian_lenses(model, [0], short, prompts=2, folder=tmp_path / "lenses")
    assert not (tmp_path / "lenses").exists()


def test_an_index_says_what_each_feature_writes(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    settings = Settings(index=tmp_path / "index", lenses=tmp_path / "lenses")
    request = indexer.IndexRequest(length=48, ablate=0, lens_prompts=2)
    indexer.index(
        [(model, map(load_checkpoint, runs[:1]))],
        [str(text_file)],
        settings=settings,
        console=Console(quiet=True),
        request=request,
    )
    [file] = (tmp_path / "lenses").glob("*.safetensors")
    assert model.identity in file.name
    jacobian = fitted(model, text_file, tmp_path / "again", [0])[0]
    direction = load_checkpoint(runs[0]).dictionary.directions[3]
    logits = model.unembed_residual(1e3 * jacobian @ direction)  # so large that the norm's epsilon is nothing
    best = ((logits - logits.mean()) / model.d_model**0.5).topk(5)
    writes = Store(settings).feature("tiny", "0-vasae", 3).feature.writes
    assert [token.id for token in writes[:5]] == best.indices.tolist()
    assert [token.score for token in writes[:5]] == pytest.approx(best.values.tolist(), rel=1e-3)
