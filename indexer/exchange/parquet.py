"""The whole index, or part of it, as Parquet: one file a table (docs/columns.md) and `manifest.json`; and
back.

    OUT/manifest.json       schema version, build, dictionaries, and rows, bytes and sha256 of each file
    OUT/<table>.parquet     the rows of the table, as the store holds them
    OUT/columns.md          what every column means

Both ways go piece by piece: memory does not grow with the index.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.exchange.export_folder import UNCHANGED, ExchangeError, new_folder
from indexer.exchange.merge_into_index import Merged, merging
from lexiscope.settings import Settings
from store import SCHEMA_VERSION, TABLES, Builder, Snapshot, Store, arrow_schema, columns_document

MANIFEST = "manifest.json"
ROWS = 16_384
"""Rows read back at once."""
OWN_IDS = {"dictionary": "dictionary_id", "passage": "passage_id"}
ID_COLUMNS = {
    **dict.fromkeys(("dictionary_id", "previous_dictionary", "next_dictionary"), "dictionary"),
    **dict.fromkeys(("passage_id", "passage"), "passage"),
}
"""Columns that hold an id, and whose."""
JSON_COLUMNS = ("training", "metrics", "causal", "verdicts")

Advance = Callable[[int], None]


class FileEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """manifest.json"""

    model_config = ConfigDict(extra="forbid")
    format: Literal["lexiscope index"] = "lexiscope index"
    schema_version: int
    build: str
    created: str
    dictionaries: list[str]
    files: dict[str, FileEntry]


class Exported(NamedTuple):
    manifest: Manifest
    folder: Path


def export_parquet(
    out: Path,
    *,
    settings: Settings,
    model: str | None = None,
    source: str | None = None,
    started: Callable[[int], None] = lambda rows: None,
    advance: Advance = lambda rows: None,
) -> Exported:
    """Write the served index, or its part, to a folder that must not exist. `started` is told of all rows,
    `advance` of rows written.

    Raises ExchangeError, NotFound, NoIndex.
    """
    store = Store(settings)
    try:
        with store.snapshot() as whole:
            part = whole if model is None and source is None else whole.part(model=model, source=source)
            with new_folder(out) as folder:
                started(sum(part.count(table) for table in TABLES))
                files = {
                    f"{table}.parquet": _write(part, table, folder / f"{table}.parquet", advance)
                    for table in TABLES
                }
                manifest = Manifest(
                    schema_version=SCHEMA_VERSION,
                    build=part.id,
                    created=datetime.now(UTC).isoformat(timespec="seconds"),
                    dictionaries=[entry.id for entry in part.dictionaries],
                    files=files,
                )
                (folder / "columns.md").write_text(columns_document(), encoding="utf-8")
                (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    finally:
        store.close()
    return Exported(manifest, out)


def _write(part: Snapshot, table: str, path: Path, advance: Advance) -> FileEntry:
    rows = 0
    with pq.ParquetWriter(path, arrow_schema(table), compression="zstd") as writer:
        for piece in part.rows(table):
            writer.write_table(piece)
            rows += len(piece)
            advance(len(piece))
    return FileEntry(rows=rows, bytes=path.stat().st_size, sha256=_digest(path))


def _digest(path: Path) -> str:
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def import_parquet(
    folder: Path,
    *,
    settings: Settings,
    replace: bool = False,
    started: Callable[[int], None] = lambda rows: None,
    advance: Advance = lambda rows: None,
) -> Merged:
    """Publish an export as part of the index; other dictionaries of the served one are kept. Every file is
    checked before any is read in.

    Raises ExchangeError: files that are not as the manifest says, another schema version, a dictionary that
    is there already (unless `replace`), another model under the id of one that is.
    """
    manifest = read_manifest(folder)
    started(sum(entry.rows for entry in manifest.files.values()))
    identities = _identities(folder, manifest)
    with Builder(settings) as builder:
        spellings = (
            pa.concat_tables(_pieces(folder, "token"))
            if manifest.files["token.parquet"].rows
            else arrow_schema("token").empty_table()
        )
        kept_models, note = merging(builder, settings, identities, spellings, replace=replace)
        ids = {kind: _ids(folder, kind, column) for kind, column in OWN_IDS.items()}
        after = {"dictionary": builder.next_dictionary_id, "passage": builder.next_passage_id}
        shift = {
            kind: after[kind] - int(own.min(initial=after[kind])) if after[kind] else 0
            for kind, own in ids.items()
        }
        for table in TABLES:
            for piece in _pieces(folder, table):
                rows = piece
                if table == "token":
                    rows = piece.filter(
                        pc.invert(
                            pc.is_in(
                                piece.column("model"), value_set=pa.array(sorted(kept_models), pa.string())
                            )
                        )
                    )
                builder.add(table, _moved(folder / f"{table}.parquet", rows, ids, shift))
                advance(len(piece))
        return Merged(builder.publish(), identities, note)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export whose every file is there, whole, unchanged and of this program's schema.
    Raises ExchangeError.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ExchangeError(f"{folder} is no export: {MANIFEST} does not lie in it.", kept=UNCHANGED)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise ExchangeError(
                f"{folder} was exported with schema version {version}, this program reads {SCHEMA_VERSION}: "
                "index the dictionaries again, or import it with the version that wrote it.",
                kept=UNCHANGED,
            )
        manifest = Manifest.model_validate(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExchangeError(f"{path} is not readable JSON: {error}.", kept=UNCHANGED) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise ExchangeError(
            f"{path} is no manifest of an export: {where}: {first['msg']}.", kept=UNCHANGED
        ) from error
    if set(manifest.files) != {f"{table}.parquet" for table in TABLES}:
        odd = sorted(set(manifest.files) ^ {f"{table}.parquet" for table in TABLES})
        raise ExchangeError(f"{path} does not list one file a table: {', '.join(odd)}.", kept=UNCHANGED)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    return manifest


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ExchangeError(f"{path} is missing.", kept=UNCHANGED)
    size = path.stat().st_size
    if size != entry.bytes:
        raise ExchangeError(
            f"{path} has {size:,} bytes, {MANIFEST} says {entry.bytes:,}: it is cut short or changed.",
            kept=UNCHANGED,
        )
    if _digest(path) != entry.sha256:
        raise ExchangeError(
            f"{path} is not the file that was exported: its sha256 is not the one in {MANIFEST}.",
            kept=UNCHANGED,
        )
    try:
        found = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ExchangeError(
            f"{path} is no readable Parquet file: {str(error).splitlines()[0]}.", kept=UNCHANGED
        ) from error
    wanted = arrow_schema(path.stem)
    if not found.schema_arrow.equals(wanted):
        odd = sorted(set(_described(wanted)) ^ set(_described(found.schema_arrow)))
        raise ExchangeError(
            f"{path} does not have the columns of docs/columns.md: {'; '.join(odd[:4]) or 'their order'}.",
            kept=UNCHANGED,
        )
    if found.metadata.num_rows != entry.rows:
        raise ExchangeError(
            f"{path} has {found.metadata.num_rows:,} rows, {MANIFEST} says {entry.rows:,}.", kept=UNCHANGED
        )


def _described(schema: pa.Schema) -> list[str]:
    return [f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema]


def _pieces(folder: Path, table: str) -> Iterator[pa.Table]:
    path = folder / f"{table}.parquet"
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS):
            yield pa.Table.from_batches([batch]).cast(arrow_schema(table))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ExchangeError(
            f"{path} cannot be read: {str(error).splitlines()[0]}.", kept=UNCHANGED
        ) from error


def _identities(folder: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """(model, source) of each dictionary in the files, their JSON columns read once: what cannot be parsed
    would fail every page.
    """
    found: list[tuple[str, str]] = []
    for table in ("dictionary", "layer_summary"):
        for piece in _pieces(folder, table):
            for row in piece.to_pylist():
                for column in JSON_COLUMNS:
                    if row.get(column) is not None:
                        _check_json(folder / f"{table}.parquet", row["dictionary_id"], column, row[column])
                if table == "dictionary":
                    found.append((row["model"], row["source"]))
    if sorted("/".join(identity) for identity in found) != sorted(manifest.dictionaries):
        raise ExchangeError(
            f"{folder / MANIFEST} lists other dictionaries than dictionary.parquet holds.", kept=UNCHANGED
        )
    return found


def _check_json(path: Path, dictionary_id: int, column: str, text: str) -> None:
    try:
        good = isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        good = False
    if not good:
        raise ExchangeError(
            f"{path}: {column} of dictionary {dictionary_id} is no JSON object.", kept=UNCHANGED
        )


def _ids(folder: Path, table: str, column: str) -> np.ndarray:
    return np.concatenate(
        [
            np.zeros(0, np.int64),
            *(piece.column(column).to_numpy().astype(np.int64) for piece in _pieces(folder, table)),
        ]
    )


def _moved(path: Path, rows: pa.Table, ids: dict[str, np.ndarray], shift: dict[str, int]) -> pa.Table:
    """The rows with their ids moved past those that the build holds; every id must be one of the export's
    own.
    """
    for place, field in enumerate(rows.schema):
        kind = ID_COLUMNS.get(field.name)
        if kind is None:
            continue
        column = rows.column(place)
        met = pc.unique(column.drop_null())
        strange = met.filter(pc.invert(pc.is_in(met, value_set=pa.array(ids[kind], field.type))))
        if len(strange):
            raise ExchangeError(
                f"{path}: {field.name} {strange[0]} points at a {kind} that is not in the export.",
                kept=UNCHANGED,
            )
        try:
            rows = rows.set_column(place, field, pc.add_checked(column, pa.scalar(shift[kind], field.type)))
        except pa.ArrowInvalid as error:
            raise ExchangeError(
                f"{path}: {field.name} holds ids too large to use.", kept=UNCHANGED
            ) from error
    return rows
