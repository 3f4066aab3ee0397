"""The documents of one source, streamed: texts of bounded size, and conversations."""

from collections.abc import Iterator
from pathlib import Path

from lexiscope.errors import TextError
from lexiscope.foreign_json import parse_json
from lexiscope.language_model.tokenizer import whole_text
from lexiscope.text.fields import DOCUMENT_FIELDS, Conversation, document_in
from lexiscope.text.files import format_suffix, opened
from lexiscope.text.plain import pieces, plain_documents
from lexiscope.text.report import TextReport
from lexiscope.text.request import FORMATS
from lexiscope.text.rows import JSON, TABLES, Row, hub_rows, json_rows, table_rows


def documents(
    source: str, *, field: str | None = None, report: TextReport | None = None
) -> Iterator[str | Conversation]:
    """Documents of a file or of a data set on the hub. Texts of more than twice plain.BLOCK characters
    come in pieces. What has no text is counted in `report`.

    Raises TextError: no such file, empty, binary, damaged, not valid JSON, or a row without the field.
    """
    report = TextReport() if report is None else report
    empty = True
    for document in _documents(source, field, report):
        if document is None or (isinstance(document, str) and not document.strip()):
            report.empty += 1
            continue
        empty = False
        if not isinstance(document, str):
            yield document
            continue
        if "\0" in document:
            raise TextError(f"{source} is not text: it holds NUL bytes.")
        whole = whole_text(document)
        report.surrogates += whole is not document
        yield from pieces(whole)
    if empty:
        without = f" ({report.empty:,} documents without any)" if report.empty > 1 else ""
        raise TextError(f"{source} is empty: it holds no text{without}.")


def _documents(source: str, field: str | None, report: TextReport) -> Iterator[str | Conversation | None]:
    rows = _rows(source, field)
    if rows is not None:
        for where, row in rows:
            yield document_in(row, field, where)
        return
    path = Path(source)
    if field is not None:
        raise TextError(f"{source} is plain text and has no `{field}` field; leave --field out.")
    if _looks_like_json(path):
        report.notes.append(f"{path.name} looks like JSON lines but was read as plain text: name it .jsonl")
    with opened(path) as file:
        yield from plain_documents(file)


def _rows(source: str, field: str | None) -> Iterator[Row] | None:
    """The rows of a source; None for plain text."""
    path = Path(source)
    if not path.exists():
        if path.suffix or source.startswith((".", "/", "~")):
            raise TextError(f"There is no text at {source}.")
        return hub_rows(source)
    if path.is_dir():
        raise TextError(f"{source} is a folder; give a file ({FORMATS}).")
    suffix = format_suffix(path)
    if suffix in JSON or (suffix != ".txt" and suffix not in TABLES and _looks_like_json(path)):
        return json_rows(path)
    with open(path, "rb") as file:
        parquet = file.read(4) == b"PAR1"
    if parquet or suffix in TABLES:
        return table_rows(path, ".parquet" if parquet else suffix, field)
    return None


def _looks_like_json(path: Path) -> bool:
    """Whether the first line is a JSON object with a field that holds text."""
    with opened(path) as file:
        line = file.readline(1 << 20)
    if not line.startswith(b"{"):
        return False
    try:
        row = parse_json(line)
    except ValueError:
        return False
    return isinstance(row, dict) and not row.keys().isdisjoint(DOCUMENT_FIELDS)
