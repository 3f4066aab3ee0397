"""Neuronpedia's endpoints: their fields, and what they compute, compared with dictionary and model."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lexiscope.checkpoint import load_checkpoint
from tests.live.test_read_route import codes

TEXT, OTHER = "Once upon a time", "Bees do buzz"
SOURCE = {"modelId": "tiny", "source": "1-random"}
FEATURE = {**SOURCE, "index": "3"}
BOS = "<|endoftext|>"

FIELDS = {
    "feature": {
        *(
            "modelId",
            "layer",
            "index",
            "sourceSetName",
            "maxActApprox",
            "frac_nonzero",
            "pos_str",
            "pos_values",
        ),
        *("neg_str", "neg_values", "freq_hist_data_bar_values", "freq_hist_data_bar_heights", "hookName"),
        *("logits_hist_data_bar_values", "logits_hist_data_bar_heights", "topkCosSimIndices", "lists"),
        *("topkCosSimValues", "neuron_alignment_indices", "correlated_neurons_indices", "hasVector"),
        *("decoder_weights_dist", "vector", "vectorLabel", "vectorDefaultSteerStrength", "activations"),
        *("explanations", "comments", "model", "source", "sourceSet", "creator", "creatorId", "createdAt"),
    },
    "activation": {
        *(
            "tokens",
            "values",
            "maxValue",
            "maxValueTokenIndex",
            "minValue",
            "binMin",
            "binMax",
            "binContains",
        ),
        *("qualifyingTokenIndex", "dataIndex", "dataSource", "dfaValues", "dfaTargetIndex", "dfaMaxValue"),
    },
    "explanation": {"id", "description", "explanationModelName", "typeName", "scores"},
    "new": {
        *("tokens", "values", "maxValue", "minValue", "maxValueTokenIndex", "modelId", "layer", "index"),
        *("creatorId", "dataIndex", "dataSource", "createdAt", "dfaValues", "dfaTargetIndex", "dfaMaxValue"),
    },
    "search-all": {"tokens", "result", "counts", "sortIndexes"},
    "result": {"modelId", "layer", "index", "values", "maxValue", "maxValueIndex", "neuron"},
    "steer": {"STEERED", "DEFAULT", "steeredLogProbs", "defaultLogProbs", "id", "shareUrl", "limit"},
}
"""as recorded from Neuronpedia's responses"""


def post(client: Any, path: str, body: Any) -> Any:
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_feature_has_neuronpedias_fields_and_the_pages_values(client):
    feature = client.get("/api/feature/tiny/1-random/3").json()
    page = client.get("/tiny/1-random/3.json").json()["feature"]
    assert FIELDS["feature"] <= set(feature)
    assert FIELDS["activation"] <= set(feature["activations"][0])
    assert FIELDS["explanation"] <= set(feature["explanations"][0])
    assert (feature["layer"], feature["index"], feature["sourceSetName"]) == ("1-random", "3", "random")
    assert feature["frac_nonzero"] == pytest.approx(page["density"])
    firing = [context for context in page["contexts"] if context["kind"] != "near_miss"]
    assert len(feature["activations"]) == len(firing)
    assert page["name"]["shown"] in feature["explanations"][0]["notes"]
    assert post(client, "features", [{"modelId": "tiny", "layer": "1-random", "index": 3}]) == [feature]
    few = {"modelId": "tiny", "layer": "1-random", "index": "3", "maxActsToReturn": 1}
    assert post(client, "features", [few])[0]["activations"] == feature["activations"][:1]
    assert post(client, "activation/get", FEATURE) == feature["activations"]
    assert post(client, "features", []) == []


def test_an_activation_is_that_of_the_dictionary_after_a_silent_bos(tiny, model, client):
    expected = codes(tiny, model, 1)[0][:, 3].tolist()
    body = {"feature": FEATURE, "customText": TEXT}
    found = post(client, "activation/new", body)
    assert FIELDS["new"] <= set(found)
    assert found["tokens"] == [BOS, *TEXT] and found["values"] == pytest.approx([0, *expected], rel=1e-4)
    assert found["maxValueTokenIndex"] == found["values"].index(max(found["values"]))
    without = post(client, "activation/new", {**body, "ignoreBos": True})
    assert (without["tokens"], without["values"]) == (found["tokens"][1:], found["values"][1:])
    layered = {"modelId": "tiny", "layer": "1-random", "index": 3}
    several = post(client, "activation/new", {"feature": layered, "customText": [TEXT, OTHER]})
    assert several[0] == found and len(several[1]["values"]) == 1 + len(OTHER)


def test_a_bos_that_is_spelled_out_shifts_nothing(client):
    for path, given in (
        ("activation/new", {"feature": FEATURE, "customText": TEXT}),
        ("activation/source", {**SOURCE, "customText": TEXT}),
        ("search-topk-by-token", {**SOURCE, "text": TEXT}),
        ("search-all", {"modelId": "tiny", "sourceSet": "random", "text": TEXT}),
    ):
        field = "customText" if "customText" in given else "text"
        assert post(client, path, {**given, field: BOS + TEXT}) == post(client, path, given), path


def test_all_active_features_of_a_dictionary_are_given_where_they_are_active(tiny, model, client):
    dense = codes(tiny, model, 1)[0]
    [found, other] = post(client, "activation/source", {**SOURCE, "customText": [TEXT, OTHER]})["results"]
    assert found["tokens"] == [BOS, *TEXT] and other["tokens"] == [BOS, *OTHER]
    got = torch.zeros(1 + len(TEXT), dense.shape[1])
    for index, places in found["activeFeatures"].items():
        for position, value in places:
            got[position, int(index)] = value
    assert got[0].sum() == 0 and torch.allclose(got[1:], dense, rtol=1e-4)


def test_a_search_ranks_features_by_their_maximum_or_by_the_sum_at_positions(tiny, model, client):
    both = [codes(tiny, model, layer)[0] for layer in (0, 1)]
    body = {"modelId": "tiny", "sourceSet": "random", "text": TEXT, "numResults": 7}
    found = post(client, "search-all", body)
    assert FIELDS["search-all"] <= set(found) and FIELDS["result"] <= set(found["result"][0])
    every = [
        (one.max().item(), f"{layer}-random", index)
        for layer, dense in enumerate(both)
        for index, one in enumerate(dense.T)
    ]
    best = sorted(every, reverse=True)[:7]
    assert [(one["layer"], int(one["index"])) for one in found["result"]] == [one[1:] for one in best]
    assert [one["maxValue"] for one in found["result"]] == pytest.approx([one[0] for one in best], rel=1e-4)
    assert found["counts"] == [[0, *(dense > 0).sum(1).tolist()] for dense in both]
    at = post(client, "search-all", {**body, "sortIndexes": [2, 3], "selectedLayers": ["0-random"]})
    sums = both[0][[1, 2]].sum(0)
    assert int(at["result"][0]["index"]) == sums.argmax() and at["sortIndexes"] == [2, 3]
    few = post(client, "search-all", {**body, "densityThreshold": 0.001})["result"]
    assert all(one["neuron"]["frac_nonzero"] <= 0.001 for one in few)
    assert len(post(client, "search-all", {**body, "text": [TEXT, OTHER]})["results"]) == 2


def test_each_token_has_its_most_active_features(tiny, model, client):
    dense = codes(tiny, model, 1)[0]
    found = post(client, "search-topk-by-token", {**SOURCE, "text": TEXT, "densityThreshold": -1})
    assert [one["position"] for one in found["results"]] == list(range(1, 1 + len(TEXT)))
    for row, one in zip(dense, found["results"]):
        assert [top["featureIndex"] for top in one["topFeatures"]] == row.topk(10).indices.tolist()
    body = {**SOURCE, "text": [TEXT], "ignoreBos": False, "numResults": 2}
    [first] = post(client, "search-topk-by-token", body)["results"]
    assert first["results"][0] == {"position": 0, "token": BOS, "isSpecial": True, "topFeatures": []}


def test_cosines_are_those_of_the_decoder_rows(tiny, client):
    rows = [load_checkpoint(Path(tiny.checkpoints[layer])).dictionary.W_dec for layer in (0, 1)]
    for target in (0, 1):
        cosines = F.cosine_similarity(rows[1][3][None], rows[target])
        if target == 1:
            cosines[3] = -1
        best = cosines.topk(10)
        body = {**FEATURE, "targetModelId": "tiny", "targetSourceId": f"{target}-random"}
        found = post(client, "cossim", body)["topkDecoderCossimFeatures"]
        assert [one["feature"]["index"] for one in found] == best.indices.tolist()
        assert [one["cosineSimilarity"] for one in found] == pytest.approx(best.values.tolist(), abs=1e-5)
        ours = client.get(f"/api/v1/features/tiny/1-random/3/similar?to={target}-random").json()["features"]
        assert [one["index"] for one in ours] == best.indices.tolist() and ours[0]["name"]


STEER = {
    "prompt": TEXT,
    "modelId": "tiny",
    "features": [{"modelId": "tiny", "layer": "0-random", "index": 3, "strength": 3.0}],
    "temperature": 0,
    "n_tokens": 5,
}


def test_a_steer_adds_the_strength_times_the_decoder_row(tiny, client):
    found = post(client, "steer", STEER)
    assert set(found) == FIELDS["steer"]
    row = load_checkpoint(Path(tiny.checkpoints[0])).dictionary.W_dec[3]
    ours = {"id": "tiny/0-random/3", "mode": "add", "strength": 3 * row.norm().item() / 5.0}
    body = {"model": "tiny", "prompt": TEXT, "features": [ours], "temperature": 0, "max_tokens": 5}
    done = client.post("/api/v1/steer?stream=false", json=body).json()["done"]
    assert (found["DEFAULT"], found["STEERED"]) == (TEXT + done["default_text"], TEXT + done["steered_text"])
    assert found["DEFAULT"] != found["STEERED"]
    assert [len(found[name]) for name in ("steeredLogProbs", "defaultLogProbs")] == [5, 5]
    first = found["defaultLogProbs"][0]
    assert first["logprob"] == pytest.approx(first["topLogprobs"][0]["logprob"])
    multiplied = {**STEER, "features": [{**STEER["features"][0], "strength": 1.5}], "strength_multiplier": 2}
    assert post(client, "steer/", multiplied) == found


def test_the_orthogonal_method_sets_the_component_along_the_row(client):
    off = {
        **STEER,
        "features": [{**STEER["features"][0], "strength": 0}],
        "steer_method": "ORTHOGONAL_DECOMP",
    }
    taken_away = post(client, "steer", off)
    unchanged = post(client, "steer", {**off, "steer_method": "SIMPLE_ADDITIVE"})
    assert unchanged["STEERED"] == unchanged["DEFAULT"] == taken_away["DEFAULT"]
    assert taken_away["steeredLogProbs"] != taken_away["defaultLogProbs"]


def test_a_streamed_steer_sends_both_whole_texts_in_every_frame(client):
    answer = client.post("/api/steer", json={**STEER, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n") if line.startswith("data: ")]
    frames = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert frames[-1] == post(client, "steer", STEER) and len(frames) == 6
    for before, after in pairwise(frames):
        assert after["STEERED"].startswith(before["STEERED"])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("activation/new", {"feature": {**FEATURE, "index": "999"}, "customText": "a"}, 404, "48 features"),
        ("activation/new", {"feature": {"modelId": "tiny", "index": 3}, "customText": "a"}, 422, "source"),
        ("activation/new", {"feature": FEATURE, "customTxt": "a"}, 422, "'customText'"),
        ("activation/source", {"modelId": "nobody", "source": "1-random", "customText": "a"}, 404, "tiny"),
        ("search-all", {"modelId": "tiny", "sourceSet": "res-jb", "text": "a"}, 422, "random"),
        ("search-topk-by-token", {**SOURCE, "source": "7-random", "text": "a"}, 404, "0-random"),
        ("cossim", {**FEATURE, "targetModelId": "other", "targetSourceId": "a"}, 422, "says nothing"),
        ("steer", {**STEER, "n_tokens": 257}, 422, "256"),
        ("steer", {**STEER, "features": [{**STEER["features"][0], "strength": 1e6}]}, 422, "100000"),
        ("features", [{"modelId": "tiny", "layer": "1-random", "index": 3}] * 65, 422, "64"),
    ],
)
def test_what_is_wrong_is_said_in_the_one_error_shape(client, path, body, status, says):
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == status and says in answer.json()["detail"], answer.text
