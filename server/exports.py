"""All features of a dictionary, or all their contexts, as a stream of Parquet or JSON lines: the columns that
docs/columns.md describes, with the feature's id, its name and its words as they are shown.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse

from server.dependencies import OpenBuild
from server.errors import error_responses
from server.page_router import API, PageRouter
from server.pages import ModelId, SourceName
from server.responses import headers_of_build, not_modified, started
from store import BuildSnapshot, DictionaryEntry, arrow_schema

Format = Literal["parquet", "jsonl"]
MEDIA_TYPES: dict[Format, str] = {
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/x-ndjson",
}
FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}}
}

router = PageRouter()


@router.get(
    f"{API}/dictionaries/{{model}}/{{source}}/export",
    response_class=StreamingResponse,
    responses={**FILES, **error_responses(404, 503)},
)
def export(
    request: Request,
    store: OpenBuild,
    model: ModelId,
    source: SourceName,
    format: Annotated[
        Format,
        Query(description="parquet, or jsonl: a row a line"),
    ] = "parquet",
    table: Annotated[Literal["feature", "context"], Query(description="of the index")] = "feature",
) -> Response:
    """All features of a dictionary, or all their contexts, as a file."""
    if cached := not_modified(request):
        return cached
    with ExitStack() as stack:
        build = stack.enter_context(store.snapshot())
        part = build.part(model=model, source=source)
        [entry] = part.dictionaries
        pieces = _pieces(part, table, entry)
        content = started(_until_read(WRITERS[format](pieces), stack.pop_all()))
        headers = headers_of_build(request, build.id)
    name = f"{model}-{source}-{table}.{format}".encode("ascii", "replace").decode()
    headers["content-disposition"] = f'attachment; filename="{name.replace(chr(34), "_")}"'
    return StreamingResponse(content, media_type=MEDIA_TYPES[format], headers=headers)


def _pieces(part: BuildSnapshot, table: str, entry: DictionaryEntry) -> Iterator[pa.Table]:
    """At least one, so that a file without rows has its columns."""
    found = False
    for rows in part.of_dictionary(table, entry):
        yield part.readable(table, entry, rows)
        found = True
    if not found:
        yield part.readable(table, entry, arrow_schema(table).empty_table())


def _until_read(content: Iterator[bytes], opened: ExitStack) -> Iterator[bytes]:
    """The content; what is open is closed with it."""
    with opened:
        yield from content


def parquet_file(pieces: Iterator[pa.Table]) -> Iterator[bytes]:
    """One row group a piece, of which there is at least one."""
    sink = _Sink()
    first = next(pieces)
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), first.schema, compression="zstd")
    for piece in chain([first], pieces):
        writer.write_table(piece)
        yield sink.take()
    writer.close()
    yield sink.take()


def json_lines(pieces: Iterator[pa.Table]) -> Iterator[bytes]:
    for piece in pieces:
        lines = (json.dumps(row, separators=(",", ":")) for row in piece.to_pylist())
        yield "".join(f"{line}\n" for line in lines).encode()


WRITERS: dict[Format, Callable[[Iterator[pa.Table]], Iterator[bytes]]] = {
    "parquet": parquet_file,
    "jsonl": json_lines,
}


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        self._length += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._length

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
