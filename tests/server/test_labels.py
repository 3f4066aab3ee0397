"""People's labels over REST and on the feature's page."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lexiscope.records import ErrorRecord, Label, LabelList
from lexiscope.settings import Settings
from server import create_app
from store import MOST_ID, ApiKeys
from tests.store import synthetic

FEATURE = "/api/v1/features/tiny/1-vasae/6"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    synthetic.publish(tmp_path)
    return Settings(index=tmp_path)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def add(client: TestClient, label: str, at: str = FEATURE, **given: Any) -> Label:
    answer = client.post(f"{at}/labels", json={"label": label, **given})
    assert answer.status_code == 201, answer.text
    return Label(**answer.json())


def listed(client: TestClient, at: str = f"{FEATURE}/labels", **query: Any) -> LabelList:
    answer = client.get(at, params=query)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    return LabelList(**answer.json())


def test_a_label_is_written_listed_and_removed(client: TestClient) -> None:
    assert listed(client) == LabelList(labels=[])
    first = add(client, "  capitals ", note="of Europe", author="Ann")
    second = add(client, "cities")
    assert (first.label, first.note, first.author) == ("capitals", "of Europe", "Ann")
    assert first.feature == "tiny/1-vasae/6" and not first.outdated
    assert listed(client).labels == [second, first]
    assert client.delete(f"{FEATURE}/labels/{first.id}").status_code == 204
    assert client.delete(f"{FEATURE}/labels/{first.id}").status_code == 404
    assert listed(client).labels == [second]


def test_labels_are_searched_in_pages_and_exported(client: TestClient, settings: Settings) -> None:
    made = [add(client, f"word {n}", f"/api/v1/features/tiny/1-vasae/{n}", author="Zoë") for n in range(5)]
    page = listed(client, "/api/v1/labels", q="WORD", limit=3)
    assert [one.id for one in page.labels] == [one.id for one in made[:1:-1]]
    rest = listed(client, "/api/v1/labels", q="WORD", limit=3, before=page.next)
    assert rest.labels == made[1::-1] and rest.next is None
    assert listed(client, "/api/v1/labels", q="word 3", model="tiny").labels == [made[3]]
    assert listed(client, "/api/v1/labels", source="2-vasae").labels == []
    synthetic.publish(settings)  # the index is made again
    lines = client.get("/api/v1/labels/export").text.splitlines()
    assert [Label(**json.loads(line)) for line in lines] == made[::-1]
    rows = list(csv.DictReader(io.StringIO(client.get("/api/v1/labels/export?format=csv").text)))
    assert [(row["feature"], row["author"]) for row in rows] == [(one.feature, "Zoë") for one in made[::-1]]


@pytest.mark.parametrize("query", ["", "?limit=3"])
def test_without_labels_the_page_says_that_there_are_none(client: TestClient, query: str) -> None:
    assert "Nobody has labelled a feature yet." in client.get(f"/labels{query}").text
    assert "No label holds this." in client.get("/labels?q=a").text


def test_an_exported_label_is_one_line_whatever_it_holds(client: TestClient) -> None:
    made = [add(client, text, note=text) for text in ("a\u2028b", "a\u2029b", "a\x85b")]
    lines = client.get("/api/v1/labels/export").text.splitlines()
    assert [Label(**json.loads(line)) for line in lines] == made[::-1]


def test_the_feature_page_shows_its_labels_and_is_sent_again_when_they_change(client: TestClient) -> None:
    html = {"accept": "text/html"}
    before = client.get("/tiny/1-vasae/6", headers=html)
    assert "Nobody has labelled it" in before.text
    known = {**html, "if-none-match": before.headers["etag"]}
    assert client.get("/tiny/1-vasae/6", headers=known).status_code == 304
    add(client, "<b>capitals</b>", author="Ann")
    after = client.get("/tiny/1-vasae/6", headers=known)
    assert after.status_code == 200 and "&lt;b&gt;capitals&lt;/b&gt;" in after.text and "Ann" in after.text


@pytest.mark.parametrize(
    ("address", "body", "status", "says"),
    [
        (FEATURE, {"label": " "}, 422, "label"),
        (FEATURE, {"label": "x" * 201}, 422, "200"),
        (FEATURE, {"label": "a\0b"}, 422, "NUL"),
        (FEATURE, {"label": "a", "nte": "b"}, 422, "'note'"),
        ("/api/v1/features/tiny/1-vasae/999", {"label": "a"}, 404, "200 features"),
        ("/api/v1/features/tiny/7-vasae/1", {"label": "a"}, 404, "7-vasae"),
    ],
)
def test_what_cannot_be_a_label_is_refused(
    client: TestClient, address: str, body: Any, status: int, says: str
) -> None:
    answer = client.post(f"{address}/labels", json=body)
    assert answer.status_code == status and says in ErrorRecord(**answer.json()).detail


def test_numbers_that_no_database_holds_are_refused(client: TestClient) -> None:
    add(client, "a")
    beyond = MOST_ID + 1
    assert client.get(f"/api/v1/labels?before={beyond}").status_code == 422
    assert client.get(f"/api/v1/lists/kept/{beyond}").status_code == 422
    assert client.delete(f"{FEATURE}/labels/{beyond}").status_code == 422
    for index, status in ((10**17, 404), (10**19, 422)):
        assert client.delete(f"/api/v1/features/tiny/1-vasae/{index}/labels/1").status_code == status


def test_where_keys_are_on_labels_are_signed_by_the_key_and_removed_by_it_alone(settings: Settings) -> None:
    keys = ApiKeys(settings)
    ann, bob = ({"x-api-key": keys.add(name)} for name in ("ann", "bob"))
    keys.close()
    with TestClient(create_app(settings)) as client:
        assert client.post(f"{FEATURE}/labels", json={"label": "a"}).status_code == 401
        made = client.post(f"{FEATURE}/labels", json={"label": "a"}, headers=ann)
        assert made.status_code == 201 and made.json()["author"] == "ann"
        other = client.post(f"{FEATURE}/labels", json={"label": "a", "author": "bob"}, headers=ann)
        assert other.status_code == 422 and "'ann'" in other.json()["detail"]
        address = f"{FEATURE}/labels/{made.json()['id']}"
        assert client.delete(address, headers=bob).status_code == 404
        assert client.delete(address, headers=ann).status_code == 204


def test_a_search_and_the_page_of_labels_show_what_people_wrote(client: TestClient) -> None:
    for number in range(7):
        add(client, f"paris <b>{number}</b>", f"/api/v1/features/tiny/1-vasae/{number}", note="\u202eodd")
    add(client, "rivers", author="Zoë")
    before = client.get("/search?q=Paris", headers={"accept": "text/html"})
    shown = [f"paris &lt;b&gt;{number}&lt;/b&gt;" for number in range(7)]
    assert [text in before.text for text in shown] == [False, False, *[True] * 5]
    assert "<b>6</b>" not in before.text and 'href="/labels?q=Paris"' in before.text
    assert "Labels that people wrote" not in client.get("/search?q=Paris&tokens_from=1").text
    assert "Labels that people wrote" not in client.get("/search?q=Paris&source=1-plain").text
    known = {"if-none-match": before.headers["etag"]}
    assert client.get("/search?q=Paris", headers=known).status_code == 304
    assert (
        client.delete(f"/api/v1/features/tiny/1-vasae/6/labels/{listed(client).labels[1].id}").status_code
        == 204
    )
    assert shown[6] not in client.get("/search?q=Paris", headers=known).text
    page = client.get("/labels?q=PARIS&limit=4")
    assert [text in page.text for text in shown] == [False, False, *[True] * 4, False]
    assert "q=PARIS&amp;limit=4&amp;before=" in page.text and "rivers" not in page.text
    assert "Zoë" in client.get("/labels").text and "No label holds this." in client.get("/labels?q=zzz").text
