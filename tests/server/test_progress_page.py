"""The progress page, and what other pages respond while the first index is built."""

import re
from pathlib import Path

from fastapi.testclient import TestClient

from lexiscope.progress import ProgressFile
from lexiscope.settings import Settings
from server import create_app


def client(root: Path) -> TestClient:
    return TestClient(
        create_app(Settings(index=root)), headers={"accept": "text/html"}, follow_redirects=False
    )


def test_before_the_first_index_the_home_page_leads_to_the_progress_page(tmp_path: Path) -> None:
    with (
        client(tmp_path) as server,
        ProgressFile(tmp_path, "demo", ["train 4-vasae", "index 4-vasae"]) as kept,
        kept.step("train 4-vasae"),
    ):
        home = server.get("/")
        assert (home.status_code, home.headers["location"]) == (303, "/progress")
        page = server.get("/progress")
        assert page.status_code == 200 and "train 4-vasae" in page.text and "Nothing yet" in page.text
        live = re.findall(r'role="status">\s*([^<]*?)\s*<', page.text)
        assert live == ["train 4-vasae"] and "aria-live" not in page.text, (
            "a reader hears the step, not the clock"
        )
        record = server.get("/progress.json").json()
        assert (record["state"], record["steps"][0]["state"], record["dictionaries"]) == (
            "running",
            "running",
            [],
        )
        feature = server.get("/demo/4-vasae/1")
        assert feature.status_code == 503 and feature.headers["retry-after"] == "10"
        assert 'href="/progress"' in feature.text and "is being built" in feature.text
        assert server.get("/index.json").status_code == 503


def test_without_a_build_an_empty_server_still_says_what_makes_an_index(tmp_path: Path) -> None:
    with client(tmp_path) as server:
        assert server.get("/").status_code == 503
        page = server.get("/progress")
        assert page.status_code == 200 and "Nothing is being built" in page.text


def test_a_failed_build_says_why(tmp_path: Path) -> None:
    try:
        with ProgressFile(tmp_path, "demo", ["train"]):
            raise OSError("the disk is full")
    except OSError:
        pass
    with client(tmp_path) as server:
        assert "the disk is full" in server.get("/progress").text


def test_dictionaries_that_can_be_read_are_listed(browser: TestClient) -> None:
    page = browser.get("/progress")
    assert 'href="/tiny/1-vasae"' in page.text
    assert "tiny/1-vasae" in browser.get("/api/v1/progress").json()["dictionaries"]
