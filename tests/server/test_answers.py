"""Answers of a build are kept: the same bytes again, bounded in memory, and never after a change."""

import gzip
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from server.answers import OWN_BYTES, Answers, KeptAnswer
from tests.store import synthetic

PATHS = ["/api/v1/features/tiny/1-vasae/6", "/tiny/1-vasae/6.json", "/tiny/1-vasae/6", "/search?q=paris", "/"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    synthetic.publish(tmp_path)
    return tmp_path


def answer(size: int) -> KeptAnswer:
    return KeptAnswer("text/plain", size, b"x" * size)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("encodings", [("gzip", ""), ("", "gzip"), ("gzip", "gzip")])
def test_a_kept_answer_is_the_first_one_in_any_encoding(
    root: Path, path: str, encodings: tuple[str, str]
) -> None:
    with TestClient(create_app(Settings(index=root))) as client:
        kept = client.app.state.answers  # type: ignore[attr-defined]
        first, again = (client.get(path, headers={"accept-encoding": each}) for each in encodings)
        assert kept.n_bytes > OWN_BYTES and first.status_code == again.status_code == 200
        assert first.text == again.text
        for response, encoding in zip((first, again), encodings):
            assert response.headers.get("content-encoding", "") == encoding
            assert not encoding or response.headers["vary"] == "Accept-Encoding"
        for name in ("etag", "cache-control", "content-type", "content-security-policy"):
            assert first.headers[name] == again.headers[name]
        head = client.head(path, headers={"accept-encoding": encodings[1]})
        assert head.headers["content-length"] == again.headers["content-length"]


def test_another_build_label_or_address_is_another_answer(root: Path) -> None:
    with TestClient(create_app(Settings(index=root))) as client:
        page, label = "/tiny/1-vasae/6", {"label": "a label of mine"}
        assert "a label of mine" not in client.get(page).text
        assert client.post(f"/api/v1/features{page}/labels", json=label).status_code == 201
        assert "a label of mine" in client.get(page).text and client.get(f"{page}?live=true").text
        before = client.get(f"{page}.json").json()["build"]
        synthetic.publish(root)
        assert client.get(f"{page}.json").json()["build"] != before
        assert client.get(f"{page}.json?build={before}").status_code == 404


def test_what_was_not_asked_for_longest_is_forgotten_first() -> None:
    kept = Answers(20 * (100 + OWN_BYTES))
    for number in range(20):
        kept.put(str(number), answer(100))
    assert kept.get("0") is not None
    kept.put("20", answer(100))
    assert kept.get("1") is None and kept.get("0") is not None and kept.get("20") is not None
    kept.put("large", answer(2000))
    assert kept.get("large") is None, "it is larger than a tenth of all"
    for number in range(1000):
        kept.put(f"again {number}", answer(number % 900))
        assert kept.n_bytes <= 20 * (100 + OWN_BYTES)


def test_nothing_is_kept_where_no_memory_is_given(root: Path) -> None:
    with TestClient(create_app(Settings(index=root, answers_memory=0))) as client:
        for _ in range(2):
            assert client.get(PATHS[0]).status_code == 200
        assert client.app.state.answers.n_bytes == 0  # type: ignore[attr-defined]


def test_a_packed_body_is_gzip_and_a_small_one_is_sent_as_it_is() -> None:
    small = KeptAnswer("text/plain", 3, gzip.compress(b"abc"))
    assert small.response({}, packed=True).body == b"abc"
