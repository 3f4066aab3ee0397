"""Pages and their JSON twins agree, errors have one shape, and cached pages are 304."""

import re
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.records import (
    DictionaryPage,
    ErrorRecord,
    FeaturePage,
    HomePage,
    Record,
    SearchPage,
    TokenPage,
)
from lexiscope.settings import Settings
from server import create_app
from store import StoreError
from tests.store import synthetic

SURROGATE = b64encode(rb'["\ud800","x",[0,0,0],0,false]').decode().rstrip("=")
"""a cursor whose build is a lone surrogate, which UTF-8 cannot encode"""

PAGES: list[tuple[str, str, type[Record]]] = [
    ("/", "/index.json", HomePage),
    ("/search?q=paris", "/search.json?q=paris", SearchPage),
    ("/search", "/search.json", SearchPage),
    ("/tokens/tiny/0", "/tokens/tiny/0.json", TokenPage),
    (
        "/tiny/1-vasae?verdict=partial&sort=name",
        "/tiny/1-vasae.json?verdict=partial&sort=name",
        DictionaryPage,
    ),
    ("/tiny/1-vasae/6", "/tiny/1-vasae/6.json", FeaturePage),
    ("/tiny/1-vasae/9", "/tiny/1-vasae/9.json", FeaturePage),
]


@pytest.mark.parametrize(("page", "twin", "record"), PAGES)
def test_a_page_and_its_twin_are_one_record(
    browser: TestClient, page: str, twin: str, record: type[Record]
) -> None:
    html, data = browser.get(page), browser.get(twin)
    assert (html.status_code, data.status_code) == (200, 200)
    assert (
        html.headers["content-type"].startswith("text/html")
        and data.headers["content-type"] == "application/json"
    )
    assert record.model_validate_json(data.content).model_dump(mode="json") == data.json()
    assert twin.replace("&", "&amp;") in html.text, "the page links its twin"


def test_every_feature_and_token_of_the_json_is_on_the_page(browser: TestClient) -> None:
    data = browser.get("/search.json?q=paris").json()
    html = browser.get("/search?q=paris").text
    assert data["features"] and all(f'href="/{ref["id"]}"' in html for ref in data["features"])
    assert all(f'href="/tokens/{hit["model"]}/{hit["token"]["id"]}"' in html for hit in data["tokens"])


def test_numbers_on_the_feature_page_are_those_of_the_record(browser: TestClient) -> None:
    feature = browser.get("/tiny/1-vasae/6.json").json()["feature"]
    html = browser.get("/tiny/1-vasae/6").text
    for value in (feature["cosine"], feature["density"], feature["evidence"]["reads_here"]["value"]):
        assert f'value="{value}"' in html


@pytest.mark.parametrize(
    ("address", "status", "says"),
    [
        ("/tiny/1-vasae/200", 404, "200 features, 0 to 199"),
        ("/tiny/1-vasae/99999999999999999999", 404, "200 features"),
        ("/tiny/1-vasae/" + 5000 * "9", 404, "no page"),
        ("/tokens/tiny/" + 5000 * "9", 404, "no page"),
        ("/tiny/7-vasae", 404, "1-plain"),
        ("/nobody/1-vasae", 404, "other, tiny"),
        ("/tokens/tiny/300", 404, "0 to 299"),
        ("/search?layer=x", 422, "layer"),
        ("/search?verdict=maybe", 422, "maybe"),
        ("/search?limit=100000", 422, "200"),
        ("/tiny/1-vasae?min_cosine=2", 422, "min_cosine"),
        ("/search?q=a&cursor=zzz", 400, "first page"),
        ("/tiny/1-vasae?cursor=zzz", 400, "first page"),
        ("/search?q=a&model=nobody", 404, "other, tiny"),
        ("/search?q=a&source=0-vasea", 404, "it has 0-vasae"),
        ("/search?layer=7", 404, "it has layers 0, 1, 2"),
        ("/nothing", 404, "/search?q="),
        ("/search/", 404, "no slash at their end, /search"),
        ("/tiny/1-vasae?cursor=" + SURROGATE, 400, "another index build"),
        ("/search?model=" + 50_000 * "x", 422, "at most 200"),
        ("/search?q=" + 50_000 * "x", 422, "at most 1000"),
        ("/search?layer=" + 5000 * "9", 422, "layer"),
        ("/search?min_cosin=1", 422, "the nearest is 'min_cosine'"),
        ("/tiny/1-vasae?layer=1", 422, "no parameter 'layer'"),
        ("/tiny/1-vasae?model=tiny", 422, "no parameter 'model'"),
        ("/tiny/1-vasae/6?layer=1", 422, "no parameter 'layer'"),
        ("/read?text=a&source=" + 201 * "x", 422, "source.0: String should have at most 200"),
        ("/read?text=a&feature=" + 501 * "x", 422, "at most 500"),
        ("/static/nothing.js", 404, "nothing.js"),
    ],
)
def test_an_error_states_what_would_be_right_in_html_and_in_json(
    browser: TestClient, address: str, status: int, says: str
) -> None:
    html = browser.get(address)
    data = browser.get(address, headers={"accept": "application/json"})
    assert (html.status_code, data.status_code) == (status, status)
    record = ErrorRecord.model_validate_json(data.content)
    assert record.status == status and says in record.detail
    assert html.headers["content-type"].startswith("text/html") and says in unescape(html.text)
    path, _, query = address.partition("?")
    twin = browser.get(f"{path}.json" + (f"?{query}" if query else ""))
    assert twin.status_code == status
    assert set(twin.json()) == {"type", "title", "status", "detail", "kept"}
    assert twin.headers["content-type"] == data.headers["content-type"] == "application/problem+json"


def test_an_unexpected_error_has_the_same_shape(index: Path) -> None:
    app = create_app(Settings(index=index))
    app.add_api_route("/broken.json", lambda: 1 / 0)
    app.router.routes.insert(0, app.router.routes.pop())
    answer = TestClient(app, raise_server_exceptions=False).get("/broken.json")
    assert (
        answer.status_code == 500
        and "ZeroDivisionError" in ErrorRecord.model_validate_json(answer.content).detail
    )


def test_an_unreachable_database_is_503_until_it_responds_again(index: Path) -> None:
    class Gone(StoreError):
        """Whatever the store calls it."""

    def read() -> None:
        raise Gone("db at 10.0.0.3", kept="Nothing was changed.", public="the database does not answer")

    app = create_app(Settings(index=index))
    app.add_api_route("/gone", read)
    app.router.routes.insert(0, app.router.routes.pop())
    client = TestClient(app)
    data = client.get("/gone", headers={"accept": "application/json"})
    assert (
        data.status_code == 503
        and ErrorRecord.model_validate_json(data.content).kept == "Nothing was changed."
    )
    html = client.get("/gone", headers={"accept": "text/html"})
    assert (
        html.status_code == 503
        and "the database does not answer" in html.text
        and "10.0.0.3" not in html.text
        and "no-store" in html.headers["cache-control"]
    )
    assert client.get("/").status_code == 200


def test_a_script_in_a_search_is_text(browser: TestClient) -> None:
    html = browser.get("/search", params={"q": "<script>alert(1)</script>"}).text
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    named = browser.get("/search", params={"q": "<script>"})
    assert named.status_code == 200 and not re.search(r"<script>", named.text)


def test_a_search_without_results_is_a_page_with_a_hint(browser: TestClient) -> None:
    for query in ("", "?q=", "?q=zzzzz"):
        answer = browser.get(f"/search{query}")
        assert answer.status_code == 200 and 'class="empty"' in answer.text


def test_an_empty_form_field_is_not_a_filter(browser: TestClient) -> None:
    empty = browser.get("/search.json?q=paris&layer=&verdict=&live=&min_cosine=&model=").json()
    assert empty == browser.get("/search.json?q=paris").json()


def test_a_cached_page_is_304_until_the_build_changes(tmp_path: Path) -> None:
    synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)])
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        first, other = client.get("/m/0-vasae/3"), client.get("/m/0-vasae/3.json")
        assert first.headers["etag"] != other.headers["etag"]
        again = {"if-none-match": f'W/"x", {first.headers["etag"]}'}
        assert client.get("/m/0-vasae/3", headers=again).status_code == 304
        assert client.get("/m/0-vasae/4", headers=again).status_code == 200
        synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)])
        assert client.get("/m/0-vasae/3", headers=again).status_code == 200


def test_without_an_index_the_server_starts_and_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        for address in ("/", "/index.json", "/search?q=a", "/readyz", "/random", "/tiny/1-vasae/3.json"):
            answer = client.get(address)
            assert answer.status_code == 503 and "lexiscope index" in answer.text, address
        assert client.get("/docs").status_code == 200
        synthetic.publish(tmp_path)
        assert client.get("/").status_code == 200, "and needs no restart once there is one"


def test_random_redirects_to_a_feature(browser: TestClient) -> None:
    answer = browser.get("/random")
    assert answer.status_code == 302 and browser.get(answer.headers["location"]).status_code == 200


def test_the_api_reference_describes_every_twin_and_needs_no_other_host(browser: TestClient) -> None:
    html, paths = browser.get("/docs").text, browser.get("/openapi.json").json()["paths"]
    wanted = {
        "/index.json",
        "/search.json",
        "/tokens/{model}/{token_id}.json",
        "/{model}/{source}.json",
        "/{model}/{source}/{index}.json",
    }
    assert wanted <= set(paths)
    assert (
        all("<wbr>/".join(path.split("/")) in html for path in wanted)
        and "min_cosine" in html
        and 'id="ErrorRecord"' in html
    )
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)


def test_pages_need_no_other_host(browser: TestClient) -> None:
    for page, _, _ in PAGES:
        assert not re.search(r'(?:src|href)="(?:https?:)?//', browser.get(page).text), page
