"""An index goes out as Parquet and comes back row for row; files that are not what was exported publish
nothing.
"""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from indexer.exchange import ExchangeError, export_parquet, import_parquet
from lexiscope.settings import Settings
from store import SCHEMA_VERSION, TABLES, NotFound, Store, StoreError, arrow_schema, columns_document
from tests.store import synthetic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(index=tmp_path_factory.mktemp("served"))
    synthetic.publish(settings.index)
    return settings


@pytest.fixture(scope="module")
def exported(served: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "whole"
    export_parquet(out, settings=served)
    return out


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def everything(settings: Settings) -> dict[str, pa.Table]:
    with Store(settings).snapshot() as snapshot:
        return {table: synthetic.whole_table(table, snapshot.rows(table)) for table in TABLES}


def agree(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed, as someone who tampers with care would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / name).read_bytes()
    manifest["files"][name] |= {
        "bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "rows": pq.ParquetFile(folder / name).metadata.num_rows,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite(folder: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = folder / f"{table}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    agree(folder, path.name)


def refused(folder: Path, served: Settings, says: str) -> None:
    """The import fails with these words, and what served still does."""
    before = (served.index / "CURRENT").read_text()
    with pytest.raises((ExchangeError, StoreError), match=says) as error:
        import_parquet(folder, settings=served)
    assert error.value.kept, "says what was kept safe"
    assert (served.index / "CURRENT").read_text() == before
    assert not list(served.index.glob("*.building*"))


def test_an_exported_index_comes_back_row_for_row(served: Settings, exported: Path, tmp_path: Path) -> None:
    fresh = Settings(index=tmp_path / "fresh")
    merged = import_parquet(exported, settings=fresh, keep_paths=True)
    assert merged.note == "" and len(merged.identities) == len(synthetic.USUAL)
    before, after = everything(served), everything(fresh)
    for table in TABLES:
        assert after[table].equals(before[table]), table
        assert after[table].num_rows > 0


def test_an_export_does_not_choose_what_the_worker_opens(copy: Path, tmp_path: Path) -> None:
    def elsewhere(rows: pa.Table) -> pa.Table:
        for name in ("model_path", "checkpoint_path", "lens_path"):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, rows.schema.field(name), pa.array(["someone/model"] * len(rows)))
        return rows

    rewrite(copy, "dictionary", elsewhere)
    settings = Settings(index=tmp_path / "index")
    import_parquet(copy, settings=settings)
    store = Store(settings)
    assert {(each.model_path, each.checkpoint_path, each.lens_path) for each in store.dictionaries()} == {
        ("", "", "")
    }
    store.close()


def test_the_export_is_what_the_manifest_says(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert sorted(manifest["dictionaries"]) == sorted(
        f"{entry.model}/{entry.source}" for entry in synthetic.USUAL
    )
    for table in TABLES:
        path = exported / f"{table}.parquet"
        entry = manifest["files"][path.name]
        assert entry["sha256"] == sha256(path.read_bytes()).hexdigest()
        assert entry["rows"] == pq.read_table(path).num_rows
        assert pq.ParquetFile(path).schema_arrow.equals(arrow_schema(table))
    assert not [path for path in exported.parent.iterdir() if path.name.startswith(".")]


def test_a_part_holds_its_own_rows_and_passages_and_no_link_outside(served: Settings, tmp_path: Path) -> None:
    export_parquet(tmp_path / "part", settings=served, model="tiny", source="1-vasae")
    [dictionary] = pq.read_table(tmp_path / "part" / "dictionary.parquet").to_pylist()
    assert (dictionary["model"], dictionary["source"]) == ("tiny", "1-vasae")
    assert dictionary["previous_dictionary"] is None and dictionary["next_dictionary"] is None
    contexts, passages = (
        pq.read_table(tmp_path / "part" / f"{name}.parquet") for name in ("context", "passage")
    )
    assert set(contexts["passage"].to_pylist()) == set(passages["passage_id"].to_pylist())
    assert set(pq.read_table(tmp_path / "part" / "token.parquet")["model"].to_pylist()) == {"tiny"}
    with pytest.raises(NotFound, match="no model 'tin'"):
        export_parquet(tmp_path / "none", settings=served, model="tin")
    assert not (tmp_path / "none").exists()


def test_a_part_is_imported_beside_what_the_index_holds(exported: Path, tmp_path: Path) -> None:
    settings = Settings(index=tmp_path / "index")
    synthetic.publish(settings.index, [synthetic.Dictionary("mine", 4), synthetic.Dictionary("mine", 5)])
    own = everything(settings)
    import_parquet(exported, settings=settings)
    with Store(settings).snapshot() as snapshot:
        assert {entry.model for entry in snapshot.dictionaries} == {"mine", "tiny", "other"}
        kept = snapshot.part(model="mine", source=None)
        for table in TABLES:
            assert synthetic.whole_table(table, kept.rows(table)).equals(own[table])
    store = Store(settings)
    feature = store.feature("tiny", "1-vasae", 3).feature
    assert feature.contexts and feature.previous_layer[0].source == "0-vasae", (
        "links and passages moved with the ids"
    )
    store.close()


def test_what_is_there_is_replaced_only_when_asked(exported: Path, tmp_path: Path) -> None:
    settings = Settings(index=tmp_path / "index")
    synthetic.publish(settings.index, [synthetic.Dictionary("tiny", 1), synthetic.Dictionary("tiny", 7)])
    refused(exported, settings, "already holds tiny/1-vasae.*--replace")
    import_parquet(exported, settings=settings, replace=True)
    with Store(settings).snapshot() as snapshot:
        assert len([e for e in snapshot.dictionaries if (e.model, e.source) == ("tiny", "1-vasae")]) == 1
        assert "tiny/7-vasae" in {e.id for e in snapshot.dictionaries}


def test_another_model_under_the_same_id_is_refused(exported: Path, tmp_path: Path) -> None:
    settings = Settings(index=tmp_path / "index")
    with_fewer = [synthetic.Dictionary("tiny", 7)]
    from store import BuildWriter

    with BuildWriter(settings) as builder:
        synthetic.add(builder, with_fewer, vocabulary=200)
        builder.publish()
    refused(exported, settings, "another vocabulary")


def test_an_export_never_writes_over_a_folder(served: Settings, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExchangeError, match="exists already"):
        export_parquet(tmp_path / "out", settings=served)
    assert not list((tmp_path / "out").iterdir())


def test_an_export_that_fails_leaves_nothing(served: Settings, tmp_path: Path) -> None:
    def full(rows: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ExchangeError, match="No space left"):
        export_parquet(tmp_path / "out", settings=served, advance=full)
    assert not list(tmp_path.iterdir())


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json does not lie in it"),
    "a broken manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "not readable JSON"),
    "an empty manifest": (
        lambda folder: (folder / "manifest.json").write_text(f'{{"schema_version": {SCHEMA_VERSION}}}'),
        "no manifest",
    ),
    "a missing file": (lambda folder: (folder / "context.parquet").unlink(), "context.parquet is missing"),
    "a truncated file": (lambda folder: os.truncate(folder / "feature.parquet", 5000), "cut short"),
    "a flipped bit": (lambda folder: flipped(folder / "passage.parquet"), "sha256"),
    "a column gone": (
        lambda folder: rewrite(folder, "token", lambda t: t.drop_columns(["raw"])),
        "not have the columns.*raw",
    ),
    "another type": (
        lambda folder: rewrite(
            folder, "token", lambda t: t.set_column(5, "count", t["count"].cast("float64"))
        ),
        "count",
    ),
    "figures that are no numbers": (
        lambda folder: rewrite(
            folder,
            "layer_summary",
            lambda t: pa.Table.from_pylist(
                [row | {"verdicts": '{"weak": "x"}'} for row in t.to_pylist()], arrow_schema("layer_summary")
            ),
        ),
        "something else than numbers",
    ),
    "no such passage": (
        lambda folder: rewrite(folder, "passage", lambda t: t.slice(1)),
        "points at a passage",
    ),
    "a dictionary fewer": (
        lambda folder: rewrite(folder, "dictionary", lambda t: t.slice(1)),
        "lists other dictionaries",
    ),
    "no summary": (
        lambda folder: rewrite(folder, "layer_summary", lambda t: t.slice(1)),
        "no row in layer_summary",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILT.values(), ids=SPOILT)
def test_files_that_are_not_what_was_exported_publish_nothing(
    spoil: Callable[[Path], object], says: str, copy: Path, tmp_path: Path
) -> None:
    index = Settings(index=tmp_path / "index")
    synthetic.publish(index.index, [synthetic.Dictionary("mine", 0)])
    spoil(copy)
    refused(copy, index, says)


def test_json_that_no_page_could_read_is_refused(copy: Path, tmp_path: Path) -> None:
    def broken(table: pa.Table) -> pa.Table:
        place = table.column_names.index("training")
        return table.set_column(place, table.schema.field(place), pa.array(["{no"] * len(table)))

    index = Settings(index=tmp_path / "index")
    synthetic.publish(index.index, [synthetic.Dictionary("mine", 0)])
    rewrite(copy, "dictionary", broken)
    refused(copy, index, "training of dictionary 0 is no JSON")


def test_an_export_of_another_version_is_refused(copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1, "an_old_key": 0}))
    index = Settings(index=tmp_path / "index")
    synthetic.publish(index.index, [synthetic.Dictionary("mine", 0)])
    refused(copy, index, f"schema version 1, this program reads {SCHEMA_VERSION}")


def test_ids_move_past_those_that_are_there(exported: Path, tmp_path: Path) -> None:
    settings = Settings(index=tmp_path / "index")
    synthetic.publish(settings.index, [synthetic.Dictionary("mine", 0)])
    import_parquet(exported, settings=settings)
    rows = everything(settings)
    assert len(pc.unique(rows["dictionary"]["dictionary_id"])) == 6
    assert len(pc.unique(rows["passage"]["passage_id"])) == len(rows["passage"])


def test_docs_columns_is_the_schema() -> None:
    assert (ROOT / "docs" / "columns.md").read_text(encoding="utf-8") == columns_document(), (
        "run lexiscope export columns docs/columns.md"
    )
