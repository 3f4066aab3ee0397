"""What `/compare` says where nothing can be computed."""

from fastapi.testclient import TestClient


def test_without_a_worker_figures_and_names_are_still_compared(browser: TestClient) -> None:
    record = browser.get("/compare.json").json()
    assert (record["left"]["source"], record["right"]["source"]) == ("1-plain", "1-vasae"), "of one layer"
    assert record["summary"] is None and record["matches"][0]["nearest"] is None
    assert any(match["named"] for match in record["matches"])
    html = browser.get("/compare").text
    assert 'role="note"' in html and "0-vasae" in html
