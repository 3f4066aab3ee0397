"""A build is copied out whole, in pieces, the same from either database."""

from pathlib import Path

import pyarrow as pa
import pytest

from indexer.exchange import export_parquet, import_parquet
from lexiscope.settings import Settings
from store import TABLES, NotFound, Store, StoreError, arrow_schema, build_files
from tests.store import synthetic


def everything(settings: Settings) -> dict[str, pa.Table]:
    store = Store(settings)
    with store.snapshot() as snapshot:
        found = {table: synthetic.whole_table(table, snapshot.rows(table)) for table in TABLES}
        assert {table: len(rows) for table, rows in found.items()} == {
            table: snapshot.count(table) for table in TABLES
        }
    store.close()
    return found


def test_an_index_is_the_same_rows_after_an_export_and_an_import(place: Settings, tmp_path: Path) -> None:
    synthetic.publish(place)
    before = everything(place)
    export_parquet(tmp_path / "out", settings=place)
    fresh = Settings(index=tmp_path / "fresh")
    import_parquet(tmp_path / "out", settings=fresh, keep_paths=True)
    after = everything(fresh)
    for table in TABLES:
        assert after[table].equals(before[table]), table
        assert before[table].schema.equals(arrow_schema(table))


def test_an_export_is_imported_beside_what_the_database_holds(place: Settings, tmp_path: Path) -> None:
    source = Settings(index=tmp_path / "source")
    synthetic.publish(source)
    export_parquet(tmp_path / "out", settings=source, model="tiny")
    synthetic.publish(place, [synthetic.Dictionary("mine", 0)])
    import_parquet(tmp_path / "out", settings=place)
    store = Store(place)
    assert store.home().models[0].model == "mine" and store.feature("mine", "0-vasae", 3).feature.contexts
    feature = store.feature("tiny", "1-vasae", 3).feature
    assert feature.contexts and feature.previous_layer[0].source == "0-vasae"
    store.close()


def test_pieces_are_small_whatever_the_index(place: Settings) -> None:
    synthetic.publish(place)
    whole, ids = (
        everything(place),
        {"feature": 30, "context": 7, "passage": 3, "token": 11, "written": 2, "token_row": 5},
    )
    store = Store(place)
    with store.snapshot(piece_ids=ids) as snapshot:
        pieces = {table: list(snapshot.rows(table)) for table in TABLES}
        assert all(synthetic.whole_table(table, pieces[table]).equals(whole[table]) for table in TABLES)
        for table in ("feature", "passage", "token"):
            assert max(len(piece) for piece in pieces[table]) == ids[table]
    store.close()


def test_a_damaged_part_is_said_and_the_next_export_is_of_the_last_whole_build(tmp_path: Path) -> None:
    one = [synthetic.Dictionary("tiny", 0)]
    whole, served = (synthetic.publish(tmp_path, one) for _ in range(2))
    table = synthetic.spoil(build_files.build_path(tmp_path, served))
    store = Store(Settings(index=tmp_path))
    with pytest.raises(StoreError, match=rf"{served}.*cannot be read"), store.snapshot() as snapshot:
        for _ in snapshot.rows(table):
            pass
    with store.snapshot() as snapshot:
        assert snapshot.id == whole and list(snapshot.rows(table))
    store.close()


def test_a_part_that_does_not_exist_says_what_does(place: Settings) -> None:
    synthetic.publish(place)
    store = Store(place)
    with store.snapshot() as snapshot:
        with pytest.raises(NotFound, match="the index holds other, tiny"):
            snapshot.part(model="tin", source=None)
        with pytest.raises(NotFound, match="tiny/1-plain"):
            snapshot.part(model="tiny", source="9-plain")
    store.close()
