"""A shared list is its address: the features in order, notes, and those that the index lacks."""

from fastapi.testclient import TestClient


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


def test_a_name_and_a_note_are_text(browser: TestClient) -> None:
    query = {"name": "</script><b>", "feature": ["tiny/1-vasae/6"], "note": ["tiny/1-vasae/6 <img src=x>"]}
    html = browser.get("/lists", params=query).text
    assert "<img" not in html and "</script><b>" not in html
