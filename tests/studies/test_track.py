"""Names that appear are told from those that come and go, and the last checkpoint agrees with itself."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from lexiscope.sparse_code import SparseCode
from studies import STUDIES, StudyError
from studies.track import TrackArguments, appeared, code_at, seen_tokens, weighted_jaccard
from tests import tiny


def test_similarity_is_the_mean_over_pairs() -> None:
    rows = torch.rand(5, 7)
    slow = [
        float(torch.minimum(rows[a], rows[b]).sum() / torch.maximum(rows[a], rows[b]).sum())
        for a in range(5)
        for b in range(5)
        if a != b
    ]
    assert float(weighted_jaccard(rows)) == pytest.approx(sum(slow) / len(slow), rel=1e-5)
    code = SparseCode(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[4, 1], [1, 4]]))
    assert code_at(code, torch.tensor([0, 1]), 6).tolist() == [[1, 2], [3, 0]]


def test_a_name_has_appeared_when_it_stays() -> None:
    names = torch.tensor([[1, 5, 3, 9], [1, 2, 4, 9], [7, 2, 3, 9], [1, 2, 3, 9]])
    assert appeared(names).tolist() == [3, 1, 2, 0]


@pytest.fixture(scope="module")
def checkpoints(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny model with half of its weights from another seed, and as it is."""
    folder = tmp_path_factory.mktemp("training")
    early, other = GPT2LMHeadModel.from_pretrained(model_folder), tiny.make_model(folder / "other", seed=7)
    noise = dict(GPT2LMHeadModel.from_pretrained(other).named_parameters())
    for name, weights in early.named_parameters():
        weights.data = 0.5 * weights.data + 0.5 * noise[name].data
    early.save_pretrained(folder / "early")
    tiny.save_tokenizer(folder / "early")
    for place, each in enumerate((folder / "early", folder / "last")):
        if each.name == "last":
            GPT2LMHeadModel.from_pretrained(model_folder).save_pretrained(each)
            tiny.save_tokenizer(each)
        (each / "training.json").write_text(json.dumps({"tokens_seen": (place + 1) * 1_000_000}))
    return [folder / "early", folder / "last"]


def test_a_dictionary_over_two_checkpoints(
    runs: list[Path], text_file: Path, checkpoints: list[Path]
) -> None:
    ask = {"dictionaries": (runs[2],), "text": (str(text_file),), "tokens": 1500, "length": 48}
    record = STUDIES["track"].run(TrackArguments(**ask, checkpoint=tuple(checkpoints), features=40, formed=6))
    figures = {figure.label: figure for figure in record.figures}
    assert 0 <= figures["names that are there, early"].value < 1
    assert figures["variance explained, early"].value < figures["variance explained, last"].value
    assert record.chart is not None and record.chart.x_label == "millions of tokens seen"
    lines = {series.name: series.points for series in record.chart.series}
    assert [point.x for point in lines["formation"]] == [1, 2]
    assert lines["correlation with the last"][-1].y == pytest.approx(1, abs=1e-4)
    assert lines["names that are there"][-1].y == 1
    assert seen_tokens([text_file.parent, *checkpoints]) is None


def test_checkpoints_of_another_model_are_refused(
    runs: list[Path], text_file: Path, checkpoints: list[Path], tmp_path: Path
) -> None:
    ask = {"dictionaries": (runs[2],), "text": (str(text_file),), "tokens": 1500, "length": 48}
    with pytest.raises(StudyError, match="2 checkpoints"):
        STUDIES["track"].run(TrackArguments(**ask, checkpoint=(checkpoints[0],)))
    from transformers import GPT2Config

    size = tiny.save_tokenizer(tmp_path)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    ).save_pretrained(tmp_path)
    with pytest.raises(StudyError, match="another width"):
        STUDIES["track"].run(TrackArguments(**ask, checkpoint=(tmp_path, checkpoints[1])))
    with pytest.raises(StudyError, match="one for each"):
        two = ask | {"dictionaries": (runs[1], runs[2], runs[1])}
        STUDIES["track"].run(TrackArguments(**two, checkpoint=tuple(checkpoints)))
