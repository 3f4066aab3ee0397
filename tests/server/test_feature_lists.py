"""A shared list is its address: the features in order, notes, and those that the index lacks."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.records.collection import KeptListSummary
from lexiscope.settings import Settings
from server import create_app
from store import ApiKeys
from tests.store import synthetic

KEPT = "/api/v1/lists/kept"


def test_a_list_keeps_its_order_notes_and_unknown_features(browser: TestClient) -> None:
    ids = ["tiny/1-vasae/6", "tiny/9-gone/3", "tiny/1-plain/2", "tiny/1-vasae/6"]
    query = {"name": "mine", "feature": ids, "note": ["tiny/1-plain/2 two words", "tiny/1-vasae/6 ", "alone"]}
    record = browser.get("/lists.json", params=query).json()
    assert [entry["id"] for entry in record["entries"]] == ids[:3]
    assert [entry["note"] for entry in record["entries"]] == ["", "", "two words"]
    known = [entry["feature"] and entry["feature"]["id"] for entry in record["entries"]]
    assert known == ["tiny/1-vasae/6", None, "tiny/1-plain/2"]
    assert browser.get("/api/v1/lists", params=query).json() == record
    html = browser.get("/lists", params=query).text
    assert "not in this index" in html and "two words" in html


def test_a_feature_that_was_indexed_without_a_page_leaves_the_rest_of_a_list(tmp_path: Path) -> None:
    synthetic.publish(tmp_path, [synthetic.Dictionary("tiny", 1, without=(9,))])
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        for address in ("/api/v1/features?id=tiny/1-vasae/9", "/api/v1/features/tiny/1-vasae/9/labels"):
            refused = client.get(address)
            assert refused.status_code == 404 and "without feature 9" in refused.json()["detail"]
        query = {"feature": ["tiny/1-vasae/9", "tiny/1-vasae/6"]}
        entries = client.get("/lists.json", params=query).json()["entries"]
    assert [entry["feature"] and entry["feature"]["id"] for entry in entries] == [None, "tiny/1-vasae/6"]


def test_only_a_feature_of_the_index_is_a_link(browser: TestClient) -> None:
    html = browser.get("/lists", params={"feature": ["tiny/1-vasae/6", "tiny/9-gone/3"]}).text
    assert 'href="/tiny/1-vasae/6"' in html and 'href="/tiny/9-gone/3"' not in html


@pytest.mark.parametrize("elsewhere", ["/evil.example/0-x", r"\evil.example/0-x/1", "\t/evil.example/1"])
def test_the_address_of_another_host_is_no_feature(
    browser: TestClient, tmp_path: Path, elsewhere: str
) -> None:
    assert browser.get("/lists.json", params={"feature": [elsewhere]}).status_code == 422
    keys = ApiKeys(Settings(index=tmp_path))
    own = {"x-api-key": keys.add("ann")}
    keys.close()
    with TestClient(create_app(Settings(index=tmp_path)), headers=own) as ann:
        refused = ann.put(KEPT, json={"name": "a", "features": [{"id": elsewhere}]})
    assert refused.status_code == 422 and "features.0.id" in refused.json()["detail"]


def test_a_name_and_a_note_are_text(browser: TestClient) -> None:
    query = {"name": "</script><b>", "feature": ["tiny/1-vasae/6"], "note": ["tiny/1-vasae/6 <img src=x>"]}
    html = browser.get("/lists", params=query).text
    assert "<img" not in html and "</script><b>" not in html


def test_a_keys_list_is_kept_by_the_server_and_read_by_every_key(tmp_path: Path) -> None:
    synthetic.publish(tmp_path)
    settings = Settings(index=tmp_path)
    keys = ApiKeys(settings)
    own, other = keys.add("ann"), keys.add("bob")
    with TestClient(create_app(settings), headers={"x-api-key": own}) as ann:
        features = [{"id": "tiny/1-vasae/6", "note": "a <b>"}, {"id": "tiny/9-gone/3"}]
        sent = {"name": " cities ", "features": features}
        made = ann.put(KEPT, json=sent).raise_for_status()
        kept = KeptListSummary(**made.json())
        assert (kept.owner, kept.name, kept.n_features, kept.version) == ("ann", "cities", 2, 1)
        assert made.headers["cache-control"] == "no-store"
        assert ann.put(KEPT, json=sent).status_code == 409
        assert ann.put(KEPT, json={**sent, "version": 1}).json()["version"] == 2
        bob = TestClient(ann.app, headers={"x-api-key": other})
        assert bob.get(KEPT).json() == ann.get(KEPT, params={"owner": "ann"}).json()
        assert bob.get(KEPT, params={"owner": "bob"}).json() == {"lists": []}
        page = bob.get(f"/lists/{kept.id}")
        assert "Kept on the server by <bdi>ann</bdi>" in page.text and "not in this index" in page.text
        assert "a &lt;b&gt;" in page.text and 'id="forget"' not in page.text
        assert 'id="forget"' in ann.get(f"/lists/{kept.id}").text
        assert '"version": 2' in ann.get(f"/lists/{kept.id}").text, "which the owner's browser sends back"
        assert '"version": 0' in page.text, "of a list of bob's own the server has no version"
        record = bob.get(f"{KEPT}/{kept.id}").json()
        assert record == bob.get(f"/lists/{kept.id}.json").json()
        assert [entry["id"] for entry in record["entries"]] == [one["id"] for one in features]
        assert record["entries"][0]["feature"]["id"] == "tiny/1-vasae/6"
        assert "/lists/1" in bob.get("/lists").text and 'id="send"' in bob.get("/lists").text
        assert bob.delete(f"{KEPT}/{kept.id}").status_code == 404
        assert ann.delete(f"{KEPT}/{kept.id}").status_code == 204
        assert ann.get(f"/lists/{kept.id}.json").status_code == 404
    keys.close()


def test_without_keys_the_browser_keeps_lists(browser: TestClient) -> None:
    refused = browser.put(KEPT, json={"name": "a", "features": []})
    assert refused.status_code == 403 and "your browser keeps" in refused.json()["detail"]
    assert browser.delete(f"{KEPT}/1").status_code == 403 and browser.get(KEPT).json() == {"lists": []}
    assert 'id="send"' not in browser.get("/lists").text


def test_what_is_no_number_of_a_list_is_not_there_for_any_method(browser: TestClient) -> None:
    for method in ("GET", "DELETE", "PUT"):
        assert browser.request(method, f"{KEPT}/-1.5e-308").status_code == 404, method
