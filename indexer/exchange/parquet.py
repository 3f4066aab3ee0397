"""The whole index, or part of it, to Parquet files and back: one file a table (docs/columns.md), and
`manifest.json`.

    OUT/manifest.json       schema version, build, dictionaries, and rows, bytes and sha256 of each file
    OUT/<table>.parquet     the rows of the table, as the store holds them
    OUT/columns.md          what every column means

Both directions go piece by piece, so that memory does not grow with the index.
"""

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

from indexer.exchange.errors import ImportRefused
from indexer.exchange.export_folder import export_folder
from indexer.exchange.merge_into_index import PublishedImport, keep_others
from lexiscope.foreign_json import parse_json
from lexiscope.settings import Settings
from store import SCHEMA_VERSION, TABLES, BuildSnapshot, BuildWriter, Store, arrow_schema, columns_document

MANIFEST = "manifest.json"
BATCH_ROWS = 16_384
"""Rows read back at once."""
OWN_IDS = {"dictionary": "dictionary_id", "passage": "passage_id"}
"""Tables whose rows are referred to, and the column of their id."""
ID_COLUMNS = {
    **dict.fromkeys(("dictionary_id", "previous_dictionary", "next_dictionary"), "dictionary"),
    **dict.fromkeys(("passage_id", "passage"), "passage"),
}
"""Columns that hold an id, and the table that it refers to."""
PATH_COLUMNS = ("model_path", "checkpoint_path", "lens_path")
"""Columns of files that the worker opens, of the machine that indexed."""
JSON_COLUMNS = ("training", "metrics", "causal", "verdicts", "verdict_firings", "write_verdicts")
COUNTS = {"verdicts": int, "write_verdicts": int, "verdict_firings": int | float}
"""columns that are objects of numbers"""

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


class ParquetExport(NamedTuple):
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
) -> ParquetExport:
    """Write the served index, or part of it, to a folder that must not exist. `started` is called with the
    number of all rows, `advance` with rows written.

    Raises ExchangeError, NotFound, NoIndex.
    """
    store = Store(settings)
    try:
        with store.snapshot() as whole:
            part = whole if model is None and source is None else whole.part(model=model, source=source)
            with export_folder(out) as folder:
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
    return ParquetExport(manifest, out)


def _write(part: BuildSnapshot, table: str, path: Path, advance: Advance) -> FileEntry:
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
    keep_paths: bool = False,
    started: Callable[[int], None] = lambda rows: None,
    advance: Advance = lambda rows: None,
) -> PublishedImport:
    """Publish an export as part of the index; other dictionaries of the served index are kept. Every file is
    checked before any is loaded. Paths of models and checkpoints are dropped, so that whoever made the export
    cannot choose what the worker opens; `keep_paths` is for an export of one's own.

    Raises ImportRefused: files that are not as the manifest describes them, another schema version, a
    dictionary that is in the index already (unless `replace`), another model under the id of one in the
    index.
    """
    manifest = read_manifest(folder)
    started(sum(entry.rows for entry in manifest.files.values()))
    identities = _identities(folder, manifest)
    with BuildWriter(settings) as writer:
        tokens = pa.concat_tables([arrow_schema("token").empty_table(), *_pieces(folder, "token")])
        models = {
            str(row["model"]): str(row["model_identity"])
            for piece in _pieces(folder, "dictionary")
            for row in piece.select(["model", "model_identity"]).to_pylist()
        }
        kept = keep_others(writer, settings, identities, tokens, models=models, replace=replace)
        ids = {table: _ids(folder, table, column) for table, column in OWN_IDS.items()}
        next_ids = {"dictionary": writer.next_dictionary_id, "passage": writer.next_passage_id}
        shift = {table: _shift(own, next_ids[table]) for table, own in ids.items()}
        for table in TABLES:
            path = folder / f"{table}.parquet"
            for piece in _pieces(folder, table):
                rows = _of_new_models(piece, kept.models) if table == "token" else piece
                rows = rows if keep_paths else _without_paths(rows)
                writer.add(table, _renumbered(path, rows, ids, shift))
                advance(len(piece))
        return PublishedImport(writer.publish(), identities, kept.note)


def _shift(own: np.ndarray, first: int) -> int:
    """What is added to ids, so that they begin at `first`; 0 where the build holds no ids yet."""
    return first - int(own.min(initial=first)) if first else 0


def _of_new_models(tokens: pa.Table, kept_models: set[str]) -> pa.Table:
    kept = pa.array(sorted(kept_models), pa.string())
    return tokens.filter(pc.invert(pc.is_in(tokens.column("model"), value_set=kept)))


def _without_paths(rows: pa.Table) -> pa.Table:
    for place, field in enumerate(rows.schema):
        if field.name in PATH_COLUMNS:
            rows = rows.set_column(place, field, pa.array([""] * len(rows), field.type))
    return rows


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export all of whose files are there, complete, unchanged and of this program's
    schema. Raises ImportRefused.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ImportRefused(f"{folder} is no export: {MANIFEST} does not lie in it.")
    try:
        raw = parse_json(path.read_bytes())
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise ImportRefused(
                f"{folder} was exported with schema version {version}, this program reads {SCHEMA_VERSION}: "
                "index the dictionaries again, or import it with the version that wrote it."
            )
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise ImportRefused(f"{path} is no manifest of an export: {where}: {first['msg']}.") from error
    except ValueError as error:
        raise ImportRefused(f"{path} is not readable JSON: {error}.") from error
    if set(manifest.files) != {f"{table}.parquet" for table in TABLES}:
        odd = sorted(set(manifest.files) ^ {f"{table}.parquet" for table in TABLES})
        raise ImportRefused(f"{path} does not list one file a table: {', '.join(odd)}.")
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    return manifest


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ImportRefused(f"{path} is missing.")
    size = path.stat().st_size
    if size != entry.bytes:
        raise ImportRefused(
            f"{path} has {size:,} bytes, {MANIFEST} says {entry.bytes:,}: it is cut short or changed."
        )
    if _digest(path) != entry.sha256:
        raise ImportRefused(
            f"{path} is not the file that was exported: its sha256 is not the one in {MANIFEST}."
        )
    try:
        parquet = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ImportRefused(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}.") from error
    wanted = arrow_schema(path.stem)
    if not parquet.schema_arrow.equals(wanted):
        odd = sorted(set(_described(wanted)) ^ set(_described(parquet.schema_arrow)))
        raise ImportRefused(
            f"{path} does not have the columns of docs/columns.md: {'; '.join(odd[:4]) or 'their order'}."
        )
    if parquet.metadata.num_rows != entry.rows:
        raise ImportRefused(f"{path} has {parquet.metadata.num_rows:,} rows, {MANIFEST} says {entry.rows:,}.")


def _described(schema: pa.Schema) -> list[str]:
    return [f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema]


def _pieces(folder: Path, table: str) -> Iterator[pa.Table]:
    path = folder / f"{table}.parquet"
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
            yield pa.Table.from_batches([batch]).cast(arrow_schema(table))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ImportRefused(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error


def _identities(folder: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """(model, source) of each dictionary in the files. Their JSON columns are parsed once: invalid JSON would
    make every page fail.
    """
    identities: list[tuple[str, str]] = []
    for table in ("dictionary", "layer_summary"):
        for piece in _pieces(folder, table):
            for row in piece.to_pylist():
                for column in JSON_COLUMNS:
                    if row.get(column) is not None:
                        _check_json(folder / f"{table}.parquet", row["dictionary_id"], column, row[column])
                if table == "dictionary":
                    identities.append((row["model"], row["source"]))
    if sorted("/".join(identity) for identity in identities) != sorted(manifest.dictionaries):
        raise ImportRefused(f"{folder / MANIFEST} lists other dictionaries than dictionary.parquet holds.")
    return identities


def _check_json(path: Path, dictionary_id: int, column: str, text: str) -> None:
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ImportRefused(f"{path}: {column} of dictionary {dictionary_id} is no JSON object.")
    kind = COUNTS.get(column)
    if kind and not all(isinstance(value, kind) for value in found.values()):
        raise ImportRefused(
            f"{path}: {column} of dictionary {dictionary_id} holds something else than numbers."
        )


def _ids(folder: Path, table: str, column: str) -> np.ndarray:
    return np.concatenate(
        [
            np.zeros(0, np.int64),
            *(piece.column(column).to_numpy().astype(np.int64) for piece in _pieces(folder, table)),
        ]
    )


def _renumbered(path: Path, rows: pa.Table, ids: dict[str, np.ndarray], shift: dict[str, int]) -> pa.Table:
    """The rows with their ids moved past those that the build holds; every id must be one of the export's
    own.
    """
    for place, field in enumerate(rows.schema):
        table = ID_COLUMNS.get(field.name)
        if table is None:
            continue
        column = rows.column(place)
        used = pc.unique(column.drop_null())
        missing = used.filter(pc.invert(pc.is_in(used, value_set=pa.array(ids[table], field.type))))
        if len(missing):
            raise ImportRefused(
                f"{path}: {field.name} {missing[0]} points at a {table} that is not in the export."
            )
        try:
            moved = pc.add_checked(column, pa.scalar(shift[table], field.type))
        except pa.ArrowInvalid as error:
            raise ImportRefused(f"{path}: {field.name} holds ids too large to use.") from error
        rows = rows.set_column(place, field, moved)
    return rows
