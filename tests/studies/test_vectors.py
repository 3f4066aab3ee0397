"""A vector that is made of features is written as those; one that is not has a poor cosine."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lexiscope.language_model import LanguageModel
from studies import STUDIES, StudyError
from studies.vectors import FULL, VectorArguments, effects, pursuit
from tests import tiny


@pytest.fixture(scope="module")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("other") / "house.txt"
    file.write_text(tiny.text(4000, seed=9).replace("cat", "house").replace("dog", "house"))
    return file


def test_pursuit_finds_the_rows_that_a_vector_is_made_of_with_their_signs() -> None:
    rows = F.normalize(torch.randn(60, 40), dim=-1)
    vector = 3 * rows[7] - 2 * rows[31] + rows[50]
    found = pursuit(vector, rows, 3)
    assert dict(zip(found.features.tolist(), found.coefficients.tolist(), strict=True)) == pytest.approx(
        {7: 3, 31: -2, 50: 1}, abs=1e-4
    )
    positive = pursuit(vector, rows, 3, signed=False)
    assert bool((positive.coefficients >= 0).all())
    cosine = F.cosine_similarity(positive.vector, vector, dim=0)
    assert float(cosine) < 0.98 and torch.allclose(found.vector, vector, atol=1e-4)


def test_the_same_vector_has_the_same_effect_and_its_opposite_another(
    model: LanguageModel, text_file: Path
) -> None:
    direction = F.normalize(torch.randn(model.d_model), dim=0)
    prompts = [torch.tensor([model.bos, *model.tokenise("the cat sat on a mat and then")[:9]])] * 2
    vectors = {FULL: direction, "same": direction, "opposite": -direction}
    found = effects(model, 0, vectors, prompts, torch.tensor([1.0, 0.0]))
    assert found.alike["same"].value == pytest.approx(1, abs=1e-4) and found.alike["opposite"].value < 0
    assert found.preference[FULL].value == pytest.approx(0, abs=1e-5)


def test_a_study_writes_a_given_vector_and_refuses_one_of_another_width(
    runs: list[Path], text_file: Path, other_text: Path, tmp_path: Path
) -> None:
    ask = {
        "dictionaries": (runs[2],),
        "text": (str(text_file),),
        "against": (str(other_text),),
        "tokens": 2500,
        "length": 32,
        "prompts": 3,
        "features": 6,
    }
    record = STUDIES["vectors"].run(VectorArguments(**ask))
    figures = {figure.label: figure for figure in record.figures}
    signed = figures["cosine of signed pursuit with the vector"]
    assert signed.control is not None and signed.value > signed.control
    assert len(record.tables[0].rows) == 6 and record.chart is not None
    save_file({"v": torch.randn(5)}, tmp_path / "v.safetensors")
    with pytest.raises(StudyError, match="not one tensor of \\[32\\]"):
        STUDIES["vectors"].run(VectorArguments(**ask, vector=tmp_path / "v.safetensors"))
