"""Vocabularies and texts from anywhere: no token of them breaks a page or runs on it."""

import unicodedata

import pyarrow as pa
import pytest

from lexiscope import tokens
from lexiscope.settings import Settings
from server import create_app
from store import BuildWriter
from tests.server_thread import running
from tests.store import synthetic

HOSTILE = (
    b" <script>document.title='ran'</script>",
    b"\"><img src=x onerror=document.title='ran'>",
    "\u202eright to left\u202c".encode(),
    "\u05e9\u05dc\u05d5\u05dd".encode(),
    b"\x00\x07\x1b[31m\x7f",
    b"a" * 10_000,
    b"\xf0\x9f",
    b"{{ 7 * 7 }} {% raw %}",
    "\u200d\u2066e\u0301".encode(),
)
PATHS = (
    "/",
    "/search?q=a",
    *(f"/tokens/tiny/{token}" for token in range(len(HOSTILE))),
    "/tiny/0-vasae",
    "/tiny/0-vasae/anchors",
    *(f"/tiny/0-vasae/{index}" for index in range(6)),
)


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory):
    """An index whose first tokens are hostile; every name and context may hold them."""
    root = tmp_path_factory.mktemp("hostile")
    table = synthetic.token_table("tiny", size=24)
    for name, make in (("shown", tokens.shown), ("raw", bytes.hex), ("folded", tokens.folded)):
        column = [*map(make, HOSTILE), *table[name].to_pylist()[len(HOSTILE) :]]
        column = [value.replace("\0", "␀") for value in column]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
    with BuildWriter(Settings(index=root)) as builder:
        one = synthetic.Dictionary("tiny", 0, d_sae=20)
        synthetic.add(builder, [one], vocabulary=len(table), tokens={"tiny": table})
        builder.publish()
    with running(create_app(Settings(index=root))) as address:
        yield address


def test_hostile_text_breaks_no_page(chromium, hostile_site):
    context = chromium.new_context(base_url=hostile_site, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.dismiss())
    for path in PATHS:
        answer = page.goto(path)
        assert answer.status == 200, path
        assert "ran" not in page.title().split(), path
        assert page.locator("main script:not([type]), main img").count() == 0, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert page.evaluate("document.documentElement.scrollHeight") < 30_000, path
        html = answer.text()
        bad = {
            c for c in html if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t\u2068\u2069\u200d"
        }
        assert not bad, (path, bad)
        for chip in page.locator(".chip").all()[:20]:
            assert chip.evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"
    context.close()
