"""Pages, their JSON twins and their addresses under `/api/v1`: one handler, and the entries of the site's
navigation.

A page is one record, one handler and one template:

    @router.page("/search", SearchPage)
    def search(request: Request, store: OpenStore, query: …) -> Response:
        return respond(request, PageContent(store.search(…), "search.html"))

The record's class is in `lexiscope/records/`, the template in `frontend/templates/`. With
`navigation="Label"` the page is linked in the header of every page. The API reference lists the twin of every
page.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from lexiscope.records import RESERVED_MODEL_IDS
from server.errors import error_responses

Handler = Callable[..., Any]
API = "/api/v1"


class NumberConvertor(Convertor[int]):
    """`{name:number}` in a path: a whole number of at most 20 digits. Python refuses to read thousands."""

    regex = "[0-9]{1,20}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


class ModelConvertor(Convertor[str]):
    """`{model:model}` at the beginning of a path: one part that may be a model's id. Addresses of pages and
    services are then of no model, and other methods than theirs are 405.
    """

    regex = f"(?!(?:{'|'.join(sorted(RESERVED_MODEL_IDS))})(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("number", NumberConvertor())
register_url_convertor("model", ModelConvertor())


class NavigationEntry(NamedTuple):
    """A link in the header of every page."""

    path: str
    label: str


class PageRouter(APIRouter):
    """A router whose pages have JSON twins. `navigation` has the entries for the site's header."""

    def __init__(self) -> None:
        super().__init__()
        self.navigation: list[NavigationEntry] = []

    def page(
        self,
        path: str,
        record: type[BaseModel] | None,
        *,
        api: str = "",
        navigation: str = "",
        errors: tuple[int, ...] = (400, 404, 422, 503),
    ) -> Callable[[Handler], Handler]:
        """Serve a handler as HTML at `path`, and as JSON at `path` + `.json` and at `/api/v1` + `api`, which
        the API reference describes. A page whose `record` is None has neither.

        Raises ValueError if the first part of `path` could be the id of a model.
        """
        first = path.split("/")[1]
        if first and not first.startswith("{") and first not in RESERVED_MODEL_IDS:
            raise ValueError(f"{path}: add {first!r} to lexiscope.records.RESERVED_MODEL_IDS")
        if navigation:
            self.navigation.append(NavigationEntry(path, navigation))

        def add(handler: Handler) -> Handler:
            for address in () if record is None else _json_addresses(path, api):
                self.add_api_route(
                    address,
                    handler,
                    methods=["GET"],
                    response_model=record,
                    responses=error_responses(*errors),
                )
            self.add_api_route(path, handler, methods=["GET"], include_in_schema=False)
            return handler

        return add


def _json_addresses(path: str, api: str) -> list[str]:
    return [*([API + api] if api else []), twin_of(path)]


def twin_of(path: str) -> str:
    """The path of a page's JSON twin."""
    return "/index.json" if path == "/" else f"{path}.json"
