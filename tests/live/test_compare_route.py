"""`/compare`: features matched by the cosine of their directions and by name; texts are read with both."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lexiscope.checkpoint import load_checkpoint
from lexiscope.records import ErrorRecord
from lexiscope.records.compare import ComparePage
from server.live.jobs.match import PART, largest_cosines, random_directions

PAIR = {"model": "tiny", "left": "0-random", "right": "1-random"}


@pytest.fixture(scope="module")
def compared(client) -> ComparePage:
    answer = client.get("/compare.json", params={**PAIR, "sort": "index", "descending": False, "limit": 40})
    return ComparePage.model_validate_json(answer.content)


def test_each_feature_has_the_counterpart_of_the_largest_cosine(compared, tiny):
    left, right = (load_checkpoint(Path(tiny.checkpoints[layer])).dictionary.directions for layer in (0, 1))
    cosines = left @ right.T
    assert len(compared.matches) == 40
    for match in compared.matches:
        assert match.nearest.index == int(cosines[match.feature.index].argmax())
        assert match.cosine == pytest.approx(float(cosines[match.feature.index].max()), abs=1e-5)
        assert (match.feature.source, match.nearest.source) == ("0-random", "1-random")


def test_features_of_the_same_name_have_its_relation_and_word(compared):
    named = [(match.feature, other) for match in compared.matches for other in match.named]
    assert named
    for own, other in named:
        assert (own.relation, own.words[0].id) == (other.relation, other.words[0].id)
        assert other.source == "1-random"


def test_the_summary_counts_the_sample_and_stands_beside_chance(compared, tiny):
    summary = compared.summary
    assert summary.sampled == sum(summary.cosines.counts) + summary.cosines.zeros == compared.left.n_live
    assert 0 < summary.random_median < 1 and summary.share_08 <= summary.share_05
    assert abs(summary.median - summary.random_median) < 0.2, "both are random dictionaries"


def test_random_directions_have_the_second_moments_of_the_dictionary():
    rows = torch.nn.functional.normalize(torch.randn(500, 3) * torch.tensor([3.0, 1.0, 0.1]), dim=-1)
    drawn = random_directions(rows, 4000)
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(4000))
    assert drawn[:, 0].abs().mean() > drawn[:, 1].abs().mean() > drawn[:, 2].abs().mean()


def test_dictionaries_on_a_gpu_are_compared_there():
    with FakeTensorMode():  # tensors without values, that know which device they would be on
        steps = largest_cosines(torch.empty(3, 8, device="cuda"), torch.empty(PART + 1, 8, device="cuda"))
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
    assert [found.device.type for found in end.value.value] == ["cuda", "cuda"]


def test_a_text_is_read_with_both(client):
    record = client.get("/compare.json", params={**PAIR, "text": "Once"}).json()
    assert [layer["source"] for layer in record["read"]["texts"][0]["layers"]] == ["0-random", "1-random"]
    html = client.get("/compare", params={**PAIR, "text": "Once"}, headers={"accept": "text/html"}).text
    assert "The text, read with both" in html


def test_a_text_that_cannot_be_read_leaves_the_directions_compared(client):
    record = client.get("/compare.json", params={**PAIR, "text": "a" * 3000}).json()
    assert record["summary"] is not None and record["read"] is None
    [note] = record["notes"]
    assert note.startswith("The text was not read. ") and "3,000 tokens" in note


def test_the_page_its_twin_and_its_rest_address_are_one_record(client):
    twin, rest = client.get("/compare.json", params=PAIR), client.get("/api/v1/compare", params=PAIR)
    assert twin.status_code == 200 and twin.json() == rest.json()
    html = client.get("/compare", params=PAIR, headers={"accept": "text/html"}).text
    for match in twin.json()["matches"]:
        assert f'href="/{match["feature"]["id"]}"' in html and f'href="/{match["nearest"]["id"]}"' in html


def test_pages_follow_each_other(client):
    first = client.get("/compare.json", params={**PAIR, "limit": 10}).json()
    second = client.get("/compare.json", params={**PAIR, "limit": 10, "cursor": first["next"]}).json()
    ids = [match["feature"]["id"] for page in (first, second) for match in page["matches"]]
    assert len(set(ids)) == 20


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({"model": "tiny", "left": "0-random", "right": "0-random"}, 422, "choose two"),
        ({"model": "tiny", "left": "0-random", "right": "9-x"}, 404, "no dictionary '9-x'"),
        ({"model": "nope"}, 404, "no model 'nope'"),
        ({**PAIR, "sort": "size"}, 422, "sort"),
        ({**PAIR, "lef": "x"}, 422, "'left'"),
    ],
)
def test_an_impossible_comparison_is_an_error_with_the_reason(client, given, status, says):
    answer = client.get("/compare.json", params=given)
    assert answer.status_code == status
    assert says in ErrorRecord.model_validate_json(answer.content).detail
