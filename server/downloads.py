"""A dictionary's filtered list as one file, CSV or JSON: every number of every feature, piece by piece."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from lexiscope.records import NUMBERS, Token
from server.dependencies import OpenStore
from server.errors import error_responses
from server.page_router import API, PageRouter
from server.pages import DictionaryQuery, ModelId, SourceName
from server.responses import started
from store import ListedNumbers

router = PageRouter()

COLUMNS = ("id", "index", "relation", "words", "verdict", "name", "kind", *NUMBERS)
Pieces = Iterator[list[ListedNumbers]]


def _address(suffix: str) -> dict[str, Any]:
    return {
        "path": f"{API}/dictionaries/{{model}}/{{source}}/features.{suffix}",
        "response_class": StreamingResponse,
        "responses": error_responses(404, 503),
    }


@router.get("/{model:model}/{source}/features.csv", include_in_schema=False)
@router.get(**_address("csv"))
def features_csv(
    store: OpenStore, model: ModelId, source: SourceName, query: Annotated[DictionaryQuery, Query()]
) -> StreamingResponse:
    """All features of a dictionary that pass the filters, as CSV: words and names as they are shown (␣ ↵ ⇥),
    words separated by spaces; a number that was not measured is empty.
    """
    pieces = started(store.whole_list(model, source, query.filters()))
    name = f"{model}-{source}.csv"
    return StreamingResponse(_csv(pieces), media_type="text/csv; charset=utf-8", headers=_saved_as(name))


@router.get("/{model:model}/{source}/features.json", include_in_schema=False)
@router.get(**_address("json"))
def features_json(
    request: Request,
    store: OpenStore,
    model: ModelId,
    source: SourceName,
    query: Annotated[DictionaryQuery, Query()],
) -> StreamingResponse:
    """All features of a dictionary that pass the filters, as a JSON list."""
    pieces = started(store.whole_list(model, source, query.filters()))
    name = f"{model}-{source}.json"
    return StreamingResponse(_json(pieces), media_type="application/json", headers=_saved_as(name))


def _saved_as(name: str) -> dict[str, str]:
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-._") else "_" for char in name)
    return {"content-disposition": f'attachment; filename="{plain}"', "cache-control": "no-store"}


def _csv(pieces: Pieces) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for piece in pieces:
        for one in piece:
            row = _row(one)
            writer.writerow([_words(row[name]) if name == "words" else row[name] for name in COLUMNS])
        yield out.getvalue()
        out.seek(0)
        out.truncate()


def _words(words: Sequence[str]) -> str:
    return " ".join(words)


def _json(pieces: Pieces) -> Iterator[str]:
    yield "["
    separator = "\n"
    for piece in pieces:
        for one in piece:
            yield separator + json.dumps(_row(one), ensure_ascii=False)
            separator = ",\n"
    yield "\n]\n"


def _row(one: ListedNumbers) -> dict[str, Any]:
    ref = one.feature
    shown: list[Token] = [*ref.words, ref.name]
    *words, name = [token.shown for token in shown]
    return {
        "id": ref.id,
        "index": ref.index,
        "relation": ref.relation,
        "words": words,
        "verdict": ref.verdict,
        "name": name,
        "kind": one.kind,
        **one.numbers,
    }
