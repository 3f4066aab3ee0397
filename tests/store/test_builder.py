"""A build is published whole or not at all, by one builder at a time, and what serves is never at risk: on
both databases.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lexiscope.records import Filters
from lexiscope.settings import Settings
from store import BuildLocked, BuildWriter, NoIndex, Store, StoreError, WrongVersion, build_files
from store.postgres import schema_of
from tests.store import synthetic
from tests.store.postgres_server import Server

ROOT = Path(__file__).parent.parent.parent
SMALL = [synthetic.Dictionary("m", 0, d_sae=30)]


def run_builder(where: Settings, body: str) -> subprocess.Popen[str]:
    """A builder in a process of its own that runs `body`."""
    program = f"""
        import os, resource, signal, sys, time
        from pathlib import Path
        from lexiscope.settings import Settings
        from store import BuildWriter, StoreError
        from tests.store import synthetic
        where = Settings(index=Path({str(where.index)!r}), database_url={where.database_url!r})
    """
    source = textwrap.dedent(program) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )


def published(where: Settings, request: pytest.FixtureRequest) -> set[str]:
    """The builds that a place holds, unfinished ones with their mark."""
    if not where.database_url:
        return {path.stem for path in where.index.glob("*.duckdb")}
    server: Server = request.getfixturevalue("server")
    with server.connect(where.database_url.rpartition("/")[2]) as connection:
        rows = connection.execute(
            r"SELECT nspname FROM pg_namespace WHERE nspname ~ '^lexiscope_\d'"
        ).fetchall()
    return {str(row[0]) for row in rows}


def stored_as(where: Settings, builds_: list[str]) -> set[str]:
    return {schema_of(build) for build in builds_} if where.database_url else set(builds_)


@pytest.mark.slow
def test_a_builder_killed_in_the_middle_leaves_the_old_index_serving(
    place: Settings, request: pytest.FixtureRequest
) -> None:
    build = synthetic.publish(place)
    process = run_builder(
        place,
        """
        with BuildWriter(where) as builder:
            synthetic.add(builder, [synthetic.Dictionary("late", 0)])
            print("added", flush=True)
            time.sleep(60)
        """,
    )
    assert process.stdout is not None and process.stdout.readline() == "added\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(place.index.glob("*.building*")), "the kill came too late to test anything"
    assert {model.model for model in Store(place).home().models} == {"other", "tiny"}
    assert Store(place).build_id() == build
    with BuildWriter(place):
        assert len(list(place.index.glob("*.building.duckdb"))) == 1, (
            "the next builder clears the killed one's file away"
        )
    assert published(place, request) == stored_as(place, [build])


def test_leaving_the_block_without_publishing_leaves_nothing(
    place: Settings, request: pytest.FixtureRequest
) -> None:
    build = synthetic.publish(place, SMALL)
    with pytest.raises(RuntimeError), BuildWriter(place) as builder:
        synthetic.add(builder, [synthetic.Dictionary("late", 0, d_sae=30)])
        raise RuntimeError
    assert published(place, request) == stored_as(place, [build]) and not list(
        place.index.glob("*.building*")
    )
    assert Store(place).build_id() == build


def test_a_second_builder_is_refused_while_the_first_works(place: Settings, tmp_path: Path) -> None:
    elsewhere = place.model_copy(update={"index": tmp_path / "elsewhere"}) if place.database_url else place
    with BuildWriter(place), pytest.raises(BuildLocked, match=str(os.getpid())), BuildWriter(elsewhere):
        pass
    with BuildWriter(elsewhere):
        pass


@pytest.mark.slow
def test_a_full_disk_says_so_and_the_old_index_serves(place: Settings) -> None:
    build = synthetic.publish(place)
    process = run_builder(
        place,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            with BuildWriter(where) as builder:
                late = [synthetic.Dictionary("late", layer, d_sae=2000) for layer in range(3)]
                synthetic.add(builder, late)
                builder._sql("CHECKPOINT")
                builder.publish()
        except StoreError as error:
            print("StoreError", error, error.kept)
        """,
    )
    answer, _ = process.communicate(timeout=280)
    assert (
        answer.startswith("StoreError the index could not be written")
        and "old index is still served" in answer
    )
    assert process.returncode == 0
    assert Store(place).build_id() == build
    assert Store(place).feature("tiny", "0-vasae", 3).feature.index == 3


def test_a_reader_moves_on_to_the_new_build_without_reopening(place: Settings) -> None:
    first = synthetic.publish(place)
    store = Store(place)
    assert store.build_id() == first
    second = synthetic.publish(place, SMALL)
    assert store.build_id() == second
    assert [model.model for model in store.home().models] == ["m"]


def test_a_request_in_flight_finishes_on_the_build_it_began_on(place: Settings) -> None:
    first = synthetic.publish(place)
    store = Store(place)
    with store._reading() as build:
        second = synthetic.publish(place, SMALL)
        assert store.build_id() == second
        assert build.id == first and build.token("tiny", 0).shown == "␣Paris"


def test_a_held_store_answers_from_one_build(place: Settings) -> None:
    first = synthetic.publish(place)
    store = Store(place)
    ref = store.feature_refs(["tiny/1-vasae/6"])
    with store.held() as held:
        second = synthetic.publish(place, [synthetic.Dictionary("tiny", 1, d_sae=60)])
        assert held.build_id() == first and held.feature_refs(["tiny/1-vasae/6"]) == ref
        assert store.build_id() == second and store.feature_refs(["tiny/1-vasae/6"]) != ref


def test_only_the_new_build_and_the_one_before_are_kept(
    place: Settings, request: pytest.FixtureRequest
) -> None:
    made = [synthetic.publish(place, SMALL) for _ in range(3)]
    assert published(place, request) == stored_as(place, made[1:])


def test_keeping_others_replaces_one_dictionary_and_changes_nothing_else(place: Settings) -> None:
    synthetic.publish(place)
    old = Store(place)
    before = {source: old.feature("tiny", source, 5).feature for source in ("0-vasae", "1-plain", "2-vasae")}
    with BuildWriter(place) as builder:
        kept = builder.keep_others(replacing=[("tiny", "1-vasae")])
        assert sorted(kept.sources) == [
            ("other", "0-vasae"),
            ("tiny", "0-vasae"),
            ("tiny", "1-plain"),
            ("tiny", "2-vasae"),
        ]
        assert builder.next_dictionary_id == 5 and builder.next_passage_id > 0
        synthetic.add(builder, [synthetic.Dictionary("tiny", 1, d_sae=60)])
        builder.publish()
    new = Store(place)
    assert new.dictionary_page("tiny", "1-vasae", Filters()).summary.d_sae == 60
    assert len(new.home().models[1].layers) == 4
    for source, feature in before.items():
        unlinked = {key: [] for key in ("previous_layer", "next_layer", "previous_coactive", "next_coactive")}
        assert new.feature("tiny", source, 5).feature == feature.model_copy(update=unlinked), source
    assert new.search("#0", Filters(model="tiny")).tokens[0].n_features > 0
    assert len(new.search("#0", Filters(model="tiny")).tokens) == 1, "the vocabulary is there once"


def test_replacing_everything_keeps_nothing(place: Settings) -> None:
    synthetic.publish(place, SMALL)
    with BuildWriter(place) as builder:
        assert builder.keep_others(replacing=[("m", "0-vasae")]).sources == []
        synthetic.add(builder, [synthetic.Dictionary("new", 0, d_sae=30)])
        builder.publish()
    assert [model.model for model in Store(place).home().models] == ["new"]


def test_two_dictionaries_of_one_name_cannot_be_published(place: Settings) -> None:
    build = synthetic.publish(place)
    with BuildWriter(place) as builder:
        builder.keep_others(replacing=[])
        synthetic.add(builder, [synthetic.Dictionary("tiny", 1)])
        with pytest.raises(StoreError, match=r"twice.*tiny/1-vasae"):
            builder.publish()
    assert Store(place).build_id() == build


def test_rows_with_wrong_columns_or_types_are_refused_by_name(tmp_path: Path) -> None:
    good = synthetic.token_table("m")
    with BuildWriter(tmp_path) as builder:
        with pytest.raises(StoreError, match="missing: folded; unknown: spelling"):
            builder.add(
                "token",
                good.rename_columns([{"folded": "spelling"}.get(name, name) for name in good.column_names]),
            )
        with pytest.raises(StoreError, match="no table 'tokens'"):
            builder.add("tokens", good)
        with pytest.raises(StoreError, match="no table 'listing'"):
            builder.add("listing", good)
        with pytest.raises(StoreError, match="do not fit"):
            builder.add("token", good.set_column(1, "token_id", pa.array(["x"] * good.num_rows)))
        builder.add("token", good.select(list(reversed(good.column_names))))


def test_text_that_holds_nul_quotes_and_line_ends_comes_back(place: Settings) -> None:
    odd = ["a\0b", 'say "x"', "back\\slash\\N", "", "line\nend\r", "{1,2}", "é‽𝄞"]
    table = synthetic.token_table("m", size=30)
    spellings = pa.array([*odd, *table.column("folded").to_pylist()[len(odd) :]])
    with BuildWriter(place) as builder:
        synthetic.add(
            builder,
            [synthetic.Dictionary("m", 0, d_sae=30)],
            vocabulary=30,
            tokens={"m": table.set_column(4, "folded", spellings)},
        )
        builder.publish()
    with Store(place)._reading() as build:
        entries = sorted(build.vocabulary("m").entries, key=lambda entry: entry.token.id)
        assert [entry.folded for entry in entries[: len(odd)]] == ["a␀b", *odd[1:]]
    assert Store(place).search("a\0b", Filters()).tokens[0].token.id == 0


def test_an_index_of_another_version_is_refused_with_the_command_that_rebuilds(
    place: Settings, request: pytest.FixtureRequest
) -> None:
    build = synthetic.publish(place, SMALL)
    if place.database_url:
        server: Server = request.getfixturevalue("server")
        with server.connect(place.database_url.rpartition("/")[2]) as connection:
            connection.execute(f"UPDATE {schema_of(build)}.meta SET schema_version = 0")
    else:
        with duckdb.connect(str(build_files.build_path(place.index, build))) as writable:
            writable.execute("UPDATE meta SET schema_version = 0")
    with pytest.raises(WrongVersion, match=r"version 0.*lexiscope index"):
        Store(place).home()
    with BuildWriter(place) as builder:
        assert "indexed again" in builder.keep_others(replacing=[]).note


def test_an_empty_place_says_how_to_make_an_index(place: Settings) -> None:
    with pytest.raises(NoIndex, match="lexiscope index"):
        Store(place).home()


def garbled(root: Path, _: str) -> None:
    (root / "CURRENT").write_text("../../etc/passwd")


def gone(root: Path, build: str) -> None:
    build_files.build_path(root, build).unlink()


def truncated(root: Path, build: str) -> None:
    path = build_files.build_path(root, build)
    path.write_bytes(path.read_bytes()[:5000])


def spoiled(root: Path, build: str) -> None:
    synthetic.spoil(build_files.build_path(root, build))


Damage = Callable[[Path, str], None]


@pytest.mark.parametrize("damage", [garbled, gone, truncated])
def test_a_damaged_folder_says_how_to_make_an_index(tmp_path: Path, damage: Damage) -> None:
    build = synthetic.publish(tmp_path, SMALL)
    damage(tmp_path, build)
    with pytest.raises(NoIndex, match="lexiscope index"):
        Store(Settings(index=tmp_path)).home()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (garbled, "CURRENT names no build"),
        (gone, "is gone"),
        (truncated, "is damaged"),
        (spoiled, "is damaged"),
    ],
)
def test_a_build_in_place_of_a_damaged_one_keeps_the_dictionaries_of_the_last_whole_one(
    tmp_path: Path, damage: Damage, says: str
) -> None:
    whole = synthetic.publish(tmp_path, [synthetic.Dictionary("early", 0, d_sae=30)])
    served = synthetic.publish(tmp_path, [synthetic.Dictionary("late", 0)])
    damage(tmp_path, served)
    source, model = (served, "late") if damage is garbled else (whole, "early")
    with BuildWriter(tmp_path) as builder:
        note = "" if damage is spoiled else builder.note_on_others()  # a short look does not read all of it
        kept = builder.keep_others(replacing=[("m", "0-vasae")])
        assert kept.sources == [(model, "0-vasae")]
        assert says in kept.note and f"kept is of {build_files.build_path(tmp_path, source)}" in kept.note
        assert note in ("", kept.note)
        synthetic.add(builder, SMALL)
        build = builder.publish()
    store = Store(Settings(index=tmp_path))
    assert store.build_id() == build and store.feature(model, "0-vasae", 3).feature.contexts
    assert [one.model for one in store.home().models] == sorted(["m", model])
    assert {path.stem for path in tmp_path.glob("*.duckdb")} == {build, source}


@pytest.mark.parametrize("damage", [gone, truncated, spoiled])
def test_a_damaged_index_without_a_whole_build_is_made_again(tmp_path: Path, damage: Damage) -> None:
    served = synthetic.publish(tmp_path, [synthetic.Dictionary("late", 0)])
    damage(tmp_path, served)
    with BuildWriter(tmp_path) as builder:
        kept = builder.keep_others(replacing=[])
        assert kept.sources == [] and kept.note.endswith("nothing could be kept")
        synthetic.add(builder, SMALL)
        build = builder.publish()
    assert Store(Settings(index=tmp_path)).build_id() == build


def test_a_build_whose_figures_cannot_be_read_is_damaged_and_the_last_good_one_serves(
    tmp_path: Path,
) -> None:
    store = Store(Settings(index=tmp_path))
    good = synthetic.publish(tmp_path, SMALL)
    assert store.home().build == good
    bad = synthetic.publish(tmp_path, SMALL)
    with duckdb.connect(str(build_files.build_path(tmp_path, bad))) as connection:
        connection.execute("""UPDATE layer_summary SET verdicts = '{"specific": "x"}'""")
    assert store.home().build == Store(Settings(index=tmp_path)).home().build == good


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_a_garbled_pointer_is_replaced_by_the_next_build(tmp_path: Path, content: bytes) -> None:
    synthetic.publish(tmp_path, SMALL)
    (tmp_path / "CURRENT").write_bytes(content)
    with BuildWriter(tmp_path) as builder:
        assert builder.keep_others(replacing=[]).sources == [("m", "0-vasae")]
        build = builder.publish()
    assert Store(Settings(index=tmp_path)).build_id() == build


def test_a_published_folder_holds_the_build_its_name_and_the_lock(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path, SMALL)
    assert (tmp_path / "CURRENT").read_text() == build + "\n"
    assert {path.name for path in tmp_path.iterdir()} == {"CURRENT", "LOCK", f"{build}.duckdb"}


@pytest.mark.slow
def test_questions_asked_while_builds_change_are_all_answered(place: Settings) -> None:
    small = [synthetic.Dictionary("tiny", 1, d_sae=40)]
    synthetic.publish(place, small)
    store, done = Store(place), threading.Event()

    def ask(seed: int) -> int:
        answered = 0
        while not done.wait(0.01) or not answered:
            assert store.feature("tiny", "1-vasae", (seed + answered) % 40).feature.layer == 1
            answered += 1
        return answered

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, seed) for seed in range(4)]
        for _ in range(3):
            synthetic.publish(place, small)
        done.set()
        assert all(future.result() > 0 for future in asked)
