"""Reading over REST: active features by name, compared with the dictionary's code; the page and its twin."""

import re
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.records import ErrorRecord, Token
from lexiscope.selection import TopK
from server.live import WorkerClient
from server.live.messages import RawReadDone, RawReadLayer, RawReadTokens

TEXT, OTHER = "Once upon a time", "Bees do buzz"


def post(client, **given):
    return client.post("/api/v1/read", json={"model": "tiny", "text": TEXT} | given)


@pytest.fixture(scope="module")
def answer(client):
    return post(client).json()


def codes(tiny, model, layer, text=TEXT):
    """[n, d_sae] the dense code of a text, the residual stream it was made from, and its reconstruction."""
    dictionary = load_checkpoint(Path(tiny.checkpoints[layer])).dictionary
    x = model.read(torch.tensor([[model.bos, *model.tokenise(text)]]), [layer])[layer][0, 1:]
    code = dictionary.encode(x)
    return (
        torch.zeros(len(x), dictionary.d_sae).scatter(1, code.indices, code.values),
        x,
        dictionary.decode(code, x),
    )


@pytest.mark.parametrize("layer", [0, 1])
def test_every_active_feature_of_every_token_is_returned_by_name(tiny, model, client, answer, layer):
    dense, x, reconstruction = codes(tiny, model, layer)
    read = answer["texts"][0]["layers"][layer]
    names = {ref["index"]: ref["name"]["id"] for ref in read["features"]}
    for token, row, own, copy in zip(read["tokens"], dense, x, reconstruction):
        got = {read["features"][one["feature"]]["index"]: one["value"] for one in token["fired"]}
        assert got == pytest.approx({i: row[i].item() for i in row.nonzero().squeeze(1).tolist()}, rel=1e-4)
        assert [one["value"] for one in token["fired"]] == sorted(got.values(), reverse=True)
        assert token["error"] == pytest.approx(((own - copy).norm() / own.norm()).item(), rel=1e-4)
    some = next(iter(names))
    assert client.get(f"/tiny/{layer}-random/{some}.json").json()["feature"]["name"]["id"] == names[some]


def test_k_reads_with_the_strongest_features_alone(tiny, model, client):
    whole, fewer = post(client).json(), post(client, k=2).json()
    dictionary = load_checkpoint(Path(tiny.checkpoints[0])).dictionary
    _, x, _ = codes(tiny, model, 0)
    two = replace(dictionary, selection=TopK(2))
    for layer, read in ((whole, dictionary), (fewer, two)):
        tokens = layer["texts"][0]["layers"][0]["tokens"]
        error = (x - read.reconstruct(x)).norm(dim=-1) / x.norm(dim=-1)
        assert [token["error"] for token in tokens] == pytest.approx(error.tolist(), rel=1e-4)
    for many, few in zip(*(one["texts"][0]["layers"][0]["tokens"] for one in (whole, fewer)), strict=True):
        assert [fire["value"] for fire in few["fired"]] == [fire["value"] for fire in many["fired"]][:2]
    more = post(client, k=1000).json()["texts"][0]["layers"][0]["tokens"]
    assert more == whole["texts"][0]["layers"][0]["tokens"]
    page = client.get("/read", params={"model": "tiny", "text": TEXT, "k": 2, "source": "0-random"})
    assert page.status_code == 200 and 'name="k" type="number"' in page.text


@pytest.mark.parametrize("k", [0, -1, 1.5, "many"])
def test_a_k_that_is_no_number_of_features_is_refused(client, k):
    assert post(client, k=k).status_code == 422


def test_the_table_has_the_highest_feature_after_the_mean_code_is_subtracted(tiny, model, client, answer):
    dense, _, _ = codes(tiny, model, 0)
    for subtract, given in ((dense.mean(0), answer), (0.0, post(client, subtract_mean=False).json())):
        read = given["texts"][0]["layers"][0]
        for token, row in zip(read["tokens"], dense):
            apart = torch.where(row > 0, row - subtract, -1)
            assert read["features"][token["best"]["feature"]]["index"] == apart.argmax()
            assert token["best"]["value"] == pytest.approx(apart.max().item(), rel=1e-3, abs=1e-5)


def test_the_table_leaves_out_names_below_the_minimum_cosine(client):
    read = post(client, min_cosine=0.9).json()["texts"][0]["layers"][0]
    shown = [read["features"][token["best"]["feature"]] for token in read["tokens"] if token["best"]]
    assert all(ref["cosine"] >= 0.9 for ref in shown) and len(read["tokens"][0]["fired"]) > 0


def test_the_whole_texts_top_features_are_its_highest_means(tiny, model, answer):
    dense, _, _ = codes(tiny, model, 1)
    top = answer["texts"][0]["top"]["1-random"]
    assert [ref["index"] for ref in top[:5]] == dense.mean(0).topk(5).indices.tolist()
    assert top[0]["token_share"] == pytest.approx((dense[:, top[0]["index"]] > 0).float().mean().item())


def test_a_contrast_orders_features_by_the_difference_of_their_means(tiny, model, client):
    got = post(client, contrast=OTHER, sources=["0-random"]).json()
    assert list(got["contrast"]) == ["0-random"] and len(got["texts"]) == 2
    first, second = codes(tiny, model, 0)[0], codes(tiny, model, 0, OTHER)[0]
    top = torch.maximum(first.max(0).values, second.max(0).values).clamp_min(1e-9)
    expected = (first.mean(0) - second.mean(0)) / top
    listed = got["contrast"]["0-random"]
    assert listed[0]["difference"] == pytest.approx(expected.max().item(), rel=1e-3)
    assert listed[-1]["difference"] == pytest.approx(expected.min().item(), rel=1e-3)


def test_one_feature_can_be_followed_through_a_text(tiny, model, client):
    got = post(client, feature="tiny/0-random/3").json()["followed"]
    assert got["values"][0] == pytest.approx(codes(tiny, model, 0)[0][:, 3].tolist(), rel=1e-4)
    assert got["feature"]["id"] == "tiny/0-random/3"


def test_a_feature_that_fires_negatively_is_shown_with_its_strongest_value_and_its_hue(client, monkeypatch):
    tokens = [Token(id=one, shown=shown) for one, shown in enumerate("abc")]
    layer = {
        "indices": [[3], [], [3]],
        "values": [[-2.5], [], [-1.0]],
        "error": [0.1] * 3,
        "dense": [0.0] * 3,
    }
    events = [
        RawReadTokens(bos=Token(id=256, shown="<|endoftext|>"), texts=[tokens]),
        RawReadLayer(text=0, source="0-random", **layer),
        RawReadDone(followed=[[-2.5, 0.0, -1.0]]),
    ]

    @asynccontextmanager
    async def submit(worker, job, *, client=""):
        async def stream():
            for event in events:
                yield event

        yield stream()

    monkeypatch.setattr(WorkerClient, "submit", submit)
    query = {"model": "tiny", "text": "abc", "source": "0-random", "feature": "tiny/0-random/3"}
    html = client.get("/read", params=query, headers={"accept": "text/html"}).text
    assert "Fires on 2 of 3 tokens, at most −2.500" in " ".join(html.split())
    cells = re.findall(r'class="cell ([^"]*)"', html)
    assert cells and all("below" in cell for cell in cells)


def test_the_page_its_twin_and_the_rest_call_give_the_same_record(client, answer):
    query = {"model": "tiny", "text": TEXT}
    assert client.get("/read.json", params=query | {"token": 2}).json() == post(client, positions=[2]).json()
    page = client.get("/read", params=query | {"token": 1})
    assert page.status_code == 200 and "Features that fire on" in page.text
    cell = answer["texts"][0]["layers"][0]
    assert f'href="/{cell["features"][cell["tokens"][2]["best"]["feature"]]["id"]}"' in page.text


def test_only_the_tokens_that_were_asked_for_list_all_their_features(client, answer):
    whole = answer["texts"][0]
    for positions in ([2], []):
        part = post(client, positions=positions).json()["texts"][0]
        for layer, full in zip(part["layers"], whole["layers"]):
            for place, (token, other) in enumerate(zip(layer["tokens"], full["tokens"])):
                named = lambda one, names: (names[one["feature"]]["id"], one["value"])
                assert named(token["best"], layer["features"]) == named(other["best"], full["features"])
                listed = [named(one, layer["features"]) for one in token["fired"]]
                all_of_it = [named(one, full["features"]) for one in other["fired"]]
                assert listed == (all_of_it if place in positions else [])
        assert part["top"] == whole["top"]
    assert client.get("/read.json", params={"model": "tiny", "text": TEXT}).json()["texts"][0] == part


def test_a_text_can_be_read_by_the_chat_template(tiny, model, client, answer):
    expected = model.tokenise_chat(TEXT)
    read = post(client, chat=True).json()
    assert [token["id"] for token in read["texts"][0]["tokens"]] == expected != model.tokenise(TEXT)
    page = client.get("/read.json", params={"model": "tiny", "text": TEXT, "chat": True}).json()
    assert page["texts"][0]["tokens"] == read["texts"][0]["tokens"]
    assert read["notes"] == answer["notes"] == []


def test_special_tokens_in_a_text_are_noted_as_characters(model, client):
    text = "Hi <|endoftext|> Bo"
    read = post(client, text=text).json()
    assert len(read["texts"][0]["tokens"]) == len(text)  # a token a byte
    [note] = read["notes"]
    assert "<|endoftext|>" in note and "read as characters" in note
    assert note in client.get("/read", params={"model": "tiny", "text": text}).text.replace(
        "&lt;", "<"
    ).replace("&gt;", ">")
    chat = post(client, text=text, chat=True).json()
    assert chat["notes"] == [] and model.bos in [token["id"] for token in chat["texts"][0]["tokens"]]


def test_a_line_break_that_a_form_sends_is_one_character(client):
    query = {"model": "tiny", "text": "a\r\nb"}
    assert client.get("/read.json", params=query).json() == post(client, text="a\nb", positions=[]).json()
    of_form = {"min_cosine": "", "k": "", "feature": "", "contrast": ""}  # fields that were cleared
    page = client.get("/read", params={**query, "text": "\r\na\r\n", **of_form})
    assert page.status_code == 200 and ">\n\na\n</textarea>" in page.text, "a parser drops the first break"


def test_a_token_that_only_the_second_text_has_is_refused(client):
    query = {"model": "tiny", "text": TEXT, "contrast": TEXT * 2, "token": len(TEXT)}
    page = client.get("/read", params=query, headers={"accept": "text/html"})
    assert page.status_code == 422 and f"the text has tokens 0 to {len(TEXT) - 1}" in page.text
    assert f"{TEXT}</textarea>" in page.text, "the form stays as it was"
    assert client.get("/read.json", params=query).status_code == 422


def test_an_empty_form_is_a_page_and_markup_in_a_text_is_escaped(client):
    assert client.get("/read").status_code == 200
    page = client.get("/read", params={"model": "tiny", "text": "<script>alert(1)</script>"})
    assert page.status_code == 200 and "<script>alert" not in page.text


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({"model": "huge"}, 404, "tiny"),
        ({"text": ""}, 422, "text"),
        ({"text": "a" * 19_000}, 422, "19,000 tokens"),
        ({"sources": ["7-none"]}, 404, "0-random"),
        ({"feature": "tiny/0-random/9999"}, 404, "9999"),
        ({"feature": "nonsense"}, 404, "model/source/index"),
        ({"min_cosine": 7}, 422, "min_cosine"),
        ({"positions": [99]}, 422, "tokens 0 to 15"),
        ({"contrasts": "x"}, 422, "the nearest is 'contrast'"),
    ],
)
def test_an_invalid_reading_is_an_error_record_with_the_reason(client, given, status, says):
    answer = post(client, **given)
    assert answer.status_code == status and says in ErrorRecord.model_validate(answer.json()).detail
