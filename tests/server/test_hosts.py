"""What every request must be, whatever its route: to a name of this server, and not from another site."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app


def answer(index: Path, method: str, *, allowed: str = "lab.example", **headers: str) -> int:
    client = TestClient(create_app(Settings(index=index, allowed_hosts=allowed)))
    asked = client.request(method, "/api/v1/steer" if method == "POST" else "/", headers=headers)
    return asked.status_code


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("lab.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("", 421),
    ],
)
def test_only_names_of_this_server_are_answered(index: Path, host: str, status: int) -> None:
    assert answer(index, "GET", host=host) == status


def test_all_hosts_can_be_allowed(index: Path) -> None:
    assert answer(index, "GET", allowed="*", host="anything") == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://lab.example.evil", "http://localhost"]
)
def test_a_page_of_another_site_changes_nothing(index: Path, origin: str) -> None:
    assert answer(index, "POST", host="lab.example", origin=origin) == 403
    assert answer(index, "GET", host="lab.example", origin=origin) == 200


def test_an_own_page_and_a_program_are_let_through(index: Path) -> None:
    assert answer(index, "POST", host="lab.example", origin="https://lab.example") in (415, 422)
    assert answer(index, "POST", host="lab.example") in (415, 422)


def test_every_response_has_the_security_headers(index: Path) -> None:
    client = TestClient(create_app(Settings(index=index)))
    for address, host in (("/", "localhost"), ("/nowhere/at/all", "localhost"), ("/", "evil.example")):
        found = client.get(address, headers={"host": host}).headers
        assert found["x-content-type-options"] == "nosniff" and "frame-ancestors" in str(found)
