"""What only a database server can do wrong: go away, refuse, be slow, be named badly, hold garbage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lexiscope.records import Filters
from lexiscope.settings import Settings, SettingsError
from store import BuildWriter, NoIndex, Store, StoreError, Unreachable
from store.postgres import schema_of
from tests.store import synthetic
from tests.store.postgres_server import Server, running_server

SMALL = [synthetic.Dictionary("m", 0, d_sae=30)]


@pytest.fixture
def here(server: Server, tmp_path: Path) -> Settings:
    return Settings(index=tmp_path, database_url=server.url(server.new_database()))


@pytest.fixture(scope="module")
def mortal(starts_postgres: None) -> Iterator[Server]:
    """A server of these tests' own, to be stopped."""
    yield from running_server()


def test_a_server_that_goes_away_in_the_middle_of_a_build_publishes_nothing(
    mortal: Server, tmp_path: Path
) -> None:
    place = Settings(index=tmp_path, database_url=mortal.url(mortal.new_database()))
    build = synthetic.publish(place, SMALL)
    with (
        pytest.raises(StoreError, match="could not be written to PostgreSQL") as caught,
        BuildWriter(place) as builder,
    ):
        synthetic.add(builder, [synthetic.Dictionary("late", 0, d_sae=30)])
        mortal.stop()
        builder.publish()
    assert "old index is still served" in caught.value.kept and "\n" not in str(caught.value)
    mortal.start()
    assert Store(place).build_id() == build
    assert [model.model for model in Store(place).home().models] == ["m"]


def test_a_builder_whose_server_came_back_publishes(mortal: Server, tmp_path: Path) -> None:
    place = Settings(index=tmp_path, database_url=mortal.url(mortal.new_database()))
    synthetic.publish(place, SMALL)
    with BuildWriter(place) as builder:
        synthetic.add(builder, [synthetic.Dictionary("late", 0, d_sae=30)])
        mortal.stop()
        mortal.start()
        build = builder.publish()
    assert Store(place).build_id() == build


def test_a_server_that_goes_away_while_serving_says_so_and_is_asked_again_when_back(
    mortal: Server, tmp_path: Path
) -> None:
    place = Settings(index=tmp_path, database_url=mortal.url(mortal.new_database()))
    synthetic.publish(place, SMALL)
    store = Store(place)
    before = store.feature("m", "0-vasae", 3)
    mortal.stop()
    with pytest.raises(Unreachable, match="cannot be queried") as caught:
        store.feature("m", "0-vasae", 3)
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)
    mortal.start()
    assert store.feature("m", "0-vasae", 3) == before
    assert store.search("word", Filters()).features


@pytest.mark.parametrize(
    "url", ["postgres", "mysql://host/db", "postgresql://host", "http://x/y", "sqlite:///x.db"]
)
def test_a_url_that_is_none_is_refused_with_one_that_is(url: str, tmp_path: Path) -> None:
    for ask in (
        lambda: Store(Settings(database_url=url)),
        lambda: BuildWriter(Settings(index=tmp_path, database_url=url)).__enter__(),
    ):
        with pytest.raises(SettingsError, match=r"postgresql\+psycopg://user:password@host:5432/database"):
            ask()


def test_a_wrong_password_and_a_missing_database_are_said_in_one_line(server: Server, tmp_path: Path) -> None:
    wrong = (
        (server.url("postgres", password="wr0ng"), "password authentication failed"),
        (server.url("absent"), 'database "absent" does not exist'),
        (server.url("postgres").replace(str(server.port), "1"), "refused"),
    )
    for url, says in wrong:
        place = Settings(index=tmp_path, database_url=url)
        with pytest.raises(Unreachable, match=says) as reading:
            Store(place).home()
        with pytest.raises(StoreError, match=says) as building, BuildWriter(place):
            pass
        for caught in (reading, building):
            assert (
                "\n" not in str(caught.value)
                and "wr0ng" not in str(caught.value)
                and "s3cret" not in str(caught.value)
            )


def test_a_query_that_takes_too_long_is_given_up(here: Settings, server: Server) -> None:
    build = synthetic.publish(here, SMALL)
    store = Store(here.model_copy(update={"reader_timeout": 1}))
    assert store.build_id() == build
    with server.connect(here.database_url.rpartition("/")[2]) as other, other.transaction():
        other.execute(f"LOCK TABLE {schema_of(build)}.by_name")
        with pytest.raises(Unreachable, match="longer than 1 s"):
            store.search("word", Filters())
    assert store.search("word", Filters()).features


def test_a_tampered_pointer_and_a_dropped_build_say_how_to_make_an_index(
    here: Settings, server: Server
) -> None:
    build = synthetic.publish(here, SMALL)
    with server.connect(here.database_url.rpartition("/")[2]) as connection:
        connection.execute("UPDATE lexiscope.current SET build = '''; DROP TABLE x'")
        with pytest.raises(NoIndex, match="lexiscope index"):
            Store(here).home()
        connection.execute("UPDATE lexiscope.current SET build = %s", [build])
        connection.execute(f"DROP SCHEMA {schema_of(build)} CASCADE")
    with pytest.raises(NoIndex, match="lexiscope index"):
        Store(here).home()
    with BuildWriter(here) as builder:
        assert "gone" in builder.keep_others(replacing=[]).note


def schemas(server: Server, place: Settings) -> set[str]:
    with server.connect(place.database_url.rpartition("/")[2]) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'lexiscope%'")
        return {str(row[0]) for row in found}


def test_what_a_killed_builder_left_is_dropped_by_the_next(here: Settings, server: Server) -> None:
    build = synthetic.publish(here, SMALL)
    with server.connect(here.database_url.rpartition("/")[2]) as connection:
        connection.execute("CREATE SCHEMA lexiscope_20200101t000000_abcdef_building")
        connection.execute("CREATE TABLE lexiscope_20200101t000000_abcdef_building.feature (x int)")
        connection.execute("CREATE SCHEMA lexiscope_notes")
        with BuildWriter(here):
            pass
    assert schemas(server, here) == {"lexiscope", "lexiscope_notes", schema_of(build)}


def test_what_a_reader_has_open_stays_until_it_has_ended(here: Settings, server: Server) -> None:
    first = synthetic.publish(here, SMALL)
    store = Store(here)
    with store.snapshot() as snapshot:
        before = list(snapshot.rows("feature"))
        for _ in range(3):
            last = synthetic.publish(here, SMALL)
        assert list(snapshot.rows("feature")) == before and snapshot.id == first
    assert store.build_id() == last
    synthetic.publish(here, SMALL)
    assert schema_of(first) not in schemas(server, here)
    store.close()


def test_every_table_and_column_says_in_the_database_what_it_holds(here: Settings, server: Server) -> None:
    build = synthetic.publish(here, SMALL)
    with server.connect(here.database_url.rpartition("/")[2]) as connection:
        rows = connection.execute(
            "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0"
            " AND col_description(c.oid, a.attnum) IS NULL",
            [schema_of(build)],
        ).fetchall()
    assert rows == [("feature", "key")]


def test_a_reader_can_write_nothing(here: Settings) -> None:
    synthetic.publish(here, SMALL)
    with (
        Store(here)._reading() as build,
        build.engine.connect() as connection,
        pytest.raises(Exception, match="read-only transaction"),
    ):
        connection.exec_driver_sql("DELETE FROM feature")


def test_a_database_without_an_encoding_holds_the_same_text(server: Server, tmp_path: Path) -> None:
    with server.connect() as connection:
        connection.execute(
            "CREATE DATABASE plain_bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    here, there = Settings(index=tmp_path, database_url=server.url("plain_bytes")), Settings(index=tmp_path)
    synthetic.publish(here, SMALL)
    synthetic.publish(there, SMALL)
    one, other = (Store(place).feature("m", "0-vasae", 3).feature for place in (here, there))
    assert one == other
