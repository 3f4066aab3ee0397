"""What every response says to the browser, and that pages need nothing that this forbids."""

import hashlib
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from server.responses import FRONTEND, PROTECTION

ADDRESSES = [
    *(
        "/",
        "/search",
        "/search?q=paris",
        "/tokens/tiny/0",
        "/tiny/1-vasae",
        "/tiny/1-vasae/6",
        "/tiny/1-vasae/9",
    ),
    *(
        "/read",
        "/steer",
        "/docs",
        "/compare",
        "/about",
        "/lists?name=<b>&feature=tiny/1-vasae/6",
        "/nowhere",
        "/tiny/1-vasae?min_cosine=7",
        "/index.json",
        "/api/v1/models",
    ),
    *("/static/lexiscope.css", "/static/nothing", "/random", "/openapi.json"),
]
VENDORED = re.compile(r"\| `([\w.-]+)` \|.*\| `(\w{64})` \|")


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_response_forbids_inline_code_frames_and_guessed_types(
    browser: TestClient, address: str
) -> None:
    headers = browser.get(address).headers
    assert {name: headers[name] for name in PROTECTION} == PROTECTION
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy


def test_an_unexpected_error_is_protected_too(index: Path) -> None:
    app = create_app(Settings(index=index))
    app.state.store = None
    answer = TestClient(app, raise_server_exceptions=False).get("/index.json")
    assert answer.status_code == 500 and answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_page_has_an_inline_script_style_or_handler(browser: TestClient, address: str) -> None:
    html = browser.get(address).text if not address.endswith(("json", "css", "models")) else ""
    assert not re.search(r"<[^>]*\s(style|on\w+)\s*=", html)
    assert "<style" not in html and "javascript:" not in html
    for attributes, content in re.findall(r"<script([^>]*)>(.*?)</script>", html, re.S):
        assert not content or 'type="application/json"' in attributes


def test_what_can_be_compressed_is(browser: TestClient) -> None:
    for address in ("/", "/index.json", "/static/lexiscope.css", "/static/vendor/plotly-basic.min.js"):
        answer = browser.get(address, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip" and "etag" in answer.headers, address
        plain = browser.get(address, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers and plain.content == answer.content
    head = browser.head("/", headers={"accept-encoding": "gzip"})
    assert head.headers["content-encoding"] == "gzip" and not head.content


def test_vendored_files_are_those_of_the_package_that_their_table_names() -> None:
    vendor = FRONTEND / "static" / "vendor"
    listed = dict(VENDORED.findall((vendor / "README.md").read_text()))
    scripts = {path.name: path for path in Path(vendor).glob("*.js")}
    assert listed.keys() == scripts.keys() and listed
    for name, path in scripts.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
