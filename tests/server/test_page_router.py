"""Adding a page: one decorator gives it a twin, a link in the header and an entry in the API reference."""

from pathlib import Path

import pytest
from fastapi import Request
from fastapi.responses import Response
from fastapi.testclient import TestClient

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server import create_app
from server.app import ROUTERS
from server.page_router import PageRouter
from server.responses import PageContent, respond


@pytest.fixture(scope="module")
def client(index: Path) -> TestClient:
    router = PageRouter()

    @router.page("/search/about", ErrorRecord, navigation="About us")
    def about(request: Request) -> Response:
        """A page of the test."""
        return respond(request, PageContent(ErrorRecord(status=200, detail="the text"), "error.html"))

    return TestClient(create_app(Settings(index=index), routers=(router, *ROUTERS)))


def test_a_page_has_a_twin_with_the_same_record(client: TestClient) -> None:
    assert "the text" in client.get("/search/about").text
    assert ErrorRecord.model_validate_json(client.get("/search/about.json").content).detail == "the text"


def test_a_page_with_a_label_is_linked_in_the_header_of_every_page(client: TestClient) -> None:
    for address in ("/", "/search/about", "/tiny/1-vasae/6", "/docs"):
        assert '<a href="/search/about">About us</a>' in client.get(address).text, address


def test_a_page_is_in_the_api_reference(client: TestClient) -> None:
    html = client.get("/docs").text
    assert "<wbr>/search<wbr>/about.json" in html and "A page of the test." in html


def test_a_page_whose_address_could_be_a_model_is_rejected() -> None:
    with pytest.raises(ValueError, match="RESERVED_MODEL_IDS"):
        PageRouter().page("/a-model/x", ErrorRecord)
