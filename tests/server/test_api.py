"""`/api/v1` gives the pages' records; its lists are made of the same features, dictionaries and tokens."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from lexiscope.records import (
    DictionaryList,
    ErrorRecord,
    FeatureBatch,
    FeatureList,
    FilteredFeatures,
    ModelSummary,
    Record,
    SearchPage,
    TokenList,
)
from lexiscope.settings import Settings
from server import create_app
from store import arrow_schema
from tests.store import synthetic


def get(browser: TestClient, address: str, record: type[Record], **query: Any) -> Any:
    """A response of /api/v1, which is exactly its record."""
    answer = browser.get(f"/api/v1{address}", params=query)
    assert answer.status_code == 200, answer.text
    assert record.model_validate_json(answer.content).model_dump(mode="json") == answer.json()
    return answer.json()


@pytest.mark.parametrize(
    ("address", "twin"),
    [
        ("/models", "/index.json"),
        ("/search?q=paris&limit=2", "/search.json?q=paris&limit=2"),
        ("/models/tiny/tokens/0", "/tokens/tiny/0.json"),
        ("/dictionaries/tiny/1-vasae?sort=name", "/tiny/1-vasae.json?sort=name"),
        ("/features/tiny/1-vasae/6", "/tiny/1-vasae/6.json"),
        ("/features/tiny/1-vasae/999", "/tiny/1-vasae/999.json"),
        ("/dictionaries/tiny/7-vasae", "/tiny/7-vasae.json"),
    ],
)
def test_a_record_is_that_of_the_page(browser: TestClient, address: str, twin: str) -> None:
    here, there = browser.get(f"/api/v1{address}"), browser.get(twin)
    assert (here.status_code, here.json()) == (there.status_code, there.json())
    assert here.headers["content-type"] == there.headers["content-type"]
    if here.status_code == 200:
        again = browser.get(f"/api/v1{address}", headers={"if-none-match": here.headers["etag"]})
        assert again.status_code == 304


def test_a_model_and_all_dictionaries_are_those_of_the_home_page(browser: TestClient) -> None:
    home = browser.get("/index.json").json()
    for entry in home["models"]:
        assert get(browser, f"/models/{entry['model']}", ModelSummary) == entry
    listed = get(browser, "/dictionaries", DictionaryList)["dictionaries"]
    assert listed == [layer for entry in home["models"] for layer in entry["layers"]]
    unknown = browser.get("/api/v1/models/nobody")
    assert unknown.status_code == 404 and "other, tiny" in ErrorRecord(**unknown.json()).detail


def test_the_features_of_a_dictionary_are_paged_and_filtered(browser: TestClient) -> None:
    address, query = "/dictionaries/tiny/1-vasae/features", {"live": True, "sort": "cosine", "limit": 70}
    ids: list[str] = []
    page = get(browser, address, FeatureList, **query)
    whole = browser.get("/tiny/1-vasae.json", params=query | {"limit": 70}).json()
    assert page["features"] == whole["features"] and page["filters"] == whole["filters"]
    while True:
        ids += [ref["id"] for ref in page["features"]]
        if page["next"] is None:
            break
        page = get(browser, address, FeatureList, **query, cursor=page["next"])
    assert len(ids) == len(set(ids)) == 180


def test_features_by_their_ids_keep_the_order_of_the_ids(browser: TestClient) -> None:
    ids = ["tiny/1-vasae/6", "other/0-vasae/3", "tiny/2-vasae/0"]
    features = get(browser, "/features", FeatureBatch, id=ids)["features"]
    assert [ref["id"] for ref in features] == ids
    page = browser.get("/tiny/1-vasae/6.json").json()["feature"]
    assert features[0]["name"] == page["name"] and features[0]["density"] == page["density"]
    for given, status, says in (
        (["tiny/1-vasae/6"] * 65, 422, "at most 64"),
        (["nonsense"], 404, "model/source/index"),
        (["x" * 501], 422, "at most 500"),
    ):
        answer = browser.get("/api/v1/features", params={"id": given})
        assert answer.status_code == status and says in ErrorRecord(**answer.json()).detail


def test_features_of_all_dictionaries_are_filtered_sorted_and_paged(browser: TestClient) -> None:
    query = {"model": "tiny", "relation": "on", "sort": "density", "descending": True, "limit": 40}
    found: list[Any] = []
    page = get(browser, "/features", FilteredFeatures, **query)
    while True:
        found += page["features"]
        if page["next"] is None:
            break
        page = get(browser, "/features", FilteredFeatures, **query, cursor=page["next"])
    densities = [ref["density"] for ref in found]
    assert densities == sorted(densities, reverse=True) and len({ref["id"] for ref in found}) == len(found)
    assert len({ref["source"] for ref in found}) > 2 and {ref["relation"] for ref in found} == {"on"}
    for given in ({"source": "0-vasea"}, {"layer": 7}):
        assert browser.get("/api/v1/features", params=given).status_code == 404
    both = browser.get("/api/v1/features", params={"id": "tiny/1-vasae/6", "sort": "density"})
    assert both.status_code == 422 and "sort" in both.json()["detail"]


@pytest.mark.parametrize(
    ("query", "match", "shown"),
    [
        ("paris", "exact", {"␣Paris", "Paris", "␣paris"}),
        ("paris", "prefix", {"␣Paris", "Paris", "␣paris", "␣Parisian"}),
        ("aris", "prefix", set()),
        ("aris", "substring", {"␣Paris", "Paris", "␣paris", "␣Parisian"}),
        ("#3", "exact", {"␣Parisian"}),
    ],
)
def test_a_search_has_a_loosest_match(browser: TestClient, query: str, match: str, shown: set[str]) -> None:
    for sort in ("match", "density"):
        page = get(browser, "/search", SearchPage, q=query, match=match, model="tiny", sort=sort, limit=200)
        assert {hit["token"]["shown"] for hit in page["tokens"]} == shown
        ids = {hit["token"]["id"] for hit in page["tokens"]}
        for ref in page["features"]:
            assert ids & {ref["name"]["id"], *(word["id"] for word in ref["words"])}
        assert bool(page["features"]) == bool(shown)


def test_an_address_that_names_the_build_may_be_kept_for_ever(browser: TestClient) -> None:
    build = browser.get("/index.json").json()["build"]
    for address in ("/api/v1/models", "/tiny/1-vasae/6.json", "/api/v1/features?id=tiny/1-vasae/6"):
        mark = "&" if "?" in address else "?"
        kept = browser.get(f"{address}{mark}build={build}")
        assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert kept.json() == browser.get(address).json()
        assert browser.get(address).headers["cache-control"] == "no-cache"
        gone = browser.get(f"{address}{mark}build=20200101T000000-abcdef")
        assert gone.status_code == 404 and build in gone.json()["detail"]


def test_an_export_without_rows_is_a_file_with_its_columns(
    browser: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "context_table", lambda *_, **__: arrow_schema("context").empty_table())
    synthetic.publish(tmp_path, [synthetic.Dictionary("tiny", 1)])
    address = "/api/v1/dictionaries/tiny/1-vasae/export?table=context"
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        found = pq.read_table(io.BytesIO(client.get(address).content))
        assert client.get(f"{address}&format=jsonl").content == b""
    usual = pq.read_table(io.BytesIO(browser.get(address).content))
    assert len(found) == 0 < len(usual) and found.schema == usual.schema


@pytest.mark.parametrize("table", ["feature", "context"])
def test_a_dictionary_is_exported_in_both_formats_alike(browser: TestClient, table: str) -> None:
    def ask(form: str) -> bytes:
        address = f"/api/v1/dictionaries/tiny/1-vasae/export?format={form}&table={table}"
        answer = browser.get(address)
        assert answer.status_code == 200, answer.text
        assert f"tiny-1-vasae-{table}.{form}" in answer.headers["content-disposition"]
        again = browser.get(address, headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
        return answer.content

    rows = pq.read_table(io.BytesIO(ask("parquet"))).to_pylist()
    assert rows == [json.loads(line) for line in ask("jsonl").splitlines()]
    assert len(rows) >= 200
    if table == "feature":
        page = browser.get("/tiny/1-vasae/6.json").json()["feature"]
        row = rows[6]
        assert (row["id"], row["name"], row["density"]) == (
            page["id"],
            page["name"]["shown"],
            page["density"],
        )
        words = page["fires"]["words"] if page["fires"] else []
        assert row["words"] == [word["shown"] for word in words]
    assert browser.get("/api/v1/dictionaries/tiny/9-vasae/export").status_code == 404


@pytest.mark.parametrize(
    ("prefix", "shown"),
    [
        ("paris", ["␣Paris", "Paris", "␣paris", "␣Parisian"]),
        ("Par", ["␣Paris", "Paris", "␣paris", "␣Parisian"]),
        (" paris", ["␣Paris", "␣paris", "␣Parisian"]),
        ("␣LON", ["␣London"]),
        ("\n", ["↵"]),
        (r"\n", ["↵"]),
        ("0x0a", ["↵"]),
        ("<0xE2>", ["⟨E2⟩⟨80⟩"]),
        (r"\xe2\x80", ["⟨E2⟩⟨80⟩"]),
        ("#3", ["␣Parisian"]),
        ("7", ["7"]),
        ("100", ["100%"]),
        ("zzz", []),
        (r"\x", []),
        ("#" + 30 * "9", []),
    ],
)
def test_tokens_are_completed_from_what_was_typed(browser: TestClient, prefix: str, shown: list[str]) -> None:
    found = get(browser, "/models/tiny/tokens", TokenList, prefix=prefix)["tokens"]
    assert [hit["token"]["shown"] for hit in found][: len(shown)] == shown
    assert (not shown and not found) or (shown and found)
    first = found[0] if found else None
    if first:
        page = browser.get(f"/api/v1/models/tiny/tokens/{first['token']['id']}").json()
        assert (page["count"], page["token"]) == (first["count"], first["token"])


def test_completions_of_all_models_take_turns_and_name_the_best_features(browser: TestClient) -> None:
    found = get(browser, "/tokens", TokenList, prefix="paris", limit=4)
    assert found["model"] is None
    assert [(hit["model"], hit["token"]["shown"]) for hit in found["tokens"][:2]] == [
        ("other", "␣Paris"),
        ("tiny", "␣Paris"),
    ]
    for hit in found["tokens"]:
        best = [(ref["relation"], ref["share"]) for ref in hit["best"]]
        assert best and len({relation for relation, _ in best}) == len(best)
        ids = [token["id"] for ref in hit["best"] for token in ref["words"]]
        assert set(ids) <= {0, 1, 2}, "features of this word"


def test_completions_are_limited_and_without_a_prefix_the_most_frequent(browser: TestClient) -> None:
    found = get(browser, "/models/tiny/tokens", TokenList, limit=3)["tokens"]
    assert [hit["token"]["id"] for hit in found] == [0, 1, 2]
    assert len(get(browser, "/models/tiny/tokens", TokenList, prefix="word", limit=100)["tokens"]) == 100
    assert browser.get("/api/v1/models/tiny/tokens?limit=101").status_code == 422
    assert browser.get("/api/v1/models/nobody/tokens").status_code == 404
