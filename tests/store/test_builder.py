"""A build is published whole or not at all, by one builder at a time, and what serves is never at risk."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lexiscope.records import Filters
from lexiscope.settings import Settings
from store import Builder, BuilderBusy, NoIndex, Store, StoreError, WrongVersion, builds
from tests.store import synthetic

ROOT = Path(__file__).parent.parent.parent


def open_store(root: Path) -> Store:
    return Store(Settings(index=root))


def run_builder(root: Path, body: str) -> subprocess.Popen[str]:
    """A builder in a process of its own, that runs `body` after adding half an index."""
    program = f"""
        import os, resource, signal, sys, time
        from pathlib import Path
        from store import Builder, StoreError
        from tests.store import synthetic
        root = Path({str(root)!r})
    """
    source = textwrap.dedent(program) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
    )


def test_a_published_build_is_named_by_current_and_leaves_no_other_file(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path)
    assert (tmp_path / "CURRENT").read_text() == build + "\n"
    assert {path.name for path in tmp_path.iterdir()} == {"CURRENT", "LOCK", f"{build}.duckdb"}


def test_a_builder_killed_in_the_middle_leaves_the_old_index_serving(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path)
    process = run_builder(
        tmp_path,
        """
        with Builder(root) as builder:
            synthetic.add(builder, [synthetic.Dictionary("late", 0)])
            print("added", flush=True)
            time.sleep(60)
        """,
    )
    assert process.stdout is not None and process.stdout.readline() == "added\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("*.building*")), "the kill came too late to test anything"
    assert {model.model for model in open_store(tmp_path).home().models} == {"other", "tiny"}
    assert open_store(tmp_path).build_id() == build
    with Builder(tmp_path):
        assert len(list(tmp_path.glob("*.building.duckdb"))) == 1, "the next builder clears the killed one's file away"


def test_leaving_the_block_without_publishing_deletes_the_file(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path)
    with pytest.raises(RuntimeError), Builder(tmp_path) as builder:
        synthetic.add(builder, [synthetic.Dictionary("late", 0)])
        raise RuntimeError
    assert {path.name for path in tmp_path.glob("*.duckdb")} == {f"{build}.duckdb"}
    assert open_store(tmp_path).build_id() == build


def test_a_second_builder_is_refused_while_the_first_works(tmp_path: Path) -> None:
    with Builder(tmp_path), pytest.raises(BuilderBusy, match=str(os.getpid())), Builder(tmp_path):
        pass
    with Builder(tmp_path):
        pass


def test_a_full_disk_says_so_and_the_old_index_serves(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path)
    process = run_builder(
        tmp_path,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            with Builder(root) as builder:
                synthetic.add(builder, [synthetic.Dictionary("late", layer, d_sae=2000) for layer in range(3)])
                builder.publish()
        except StoreError as error:
            print("StoreError", error, error.kept)
        """,
    )
    answer, _ = process.communicate(timeout=120)
    assert answer.startswith("StoreError the index could not be written") and "old index still serves" in answer
    assert process.returncode == 0
    assert open_store(tmp_path).build_id() == build
    assert open_store(tmp_path).feature("tiny", "0-vasae", 3).feature.index == 3


def test_a_reader_moves_on_to_the_new_build_without_reopening(tmp_path: Path) -> None:
    first = synthetic.publish(tmp_path)
    store = open_store(tmp_path)
    assert store.build_id() == first
    second = synthetic.publish(tmp_path, [synthetic.Dictionary("fresh", 0)])
    assert store.build_id() == second
    assert [model.model for model in store.home().models] == ["fresh"]


def test_a_request_in_flight_finishes_on_the_build_it_began_on(tmp_path: Path) -> None:
    first = synthetic.publish(tmp_path)
    store = open_store(tmp_path)
    with store._reading() as build:
        second = synthetic.publish(tmp_path)
        assert store.build_id() == second
        assert build.id == first and build.token("tiny", 0).shown == "␣Paris"


def test_only_the_new_build_and_the_one_before_are_kept(tmp_path: Path) -> None:
    made = [synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)]) for _ in range(3)]
    assert {path.stem for path in tmp_path.glob("*.duckdb")} == set(made[1:])


def test_keeping_others_replaces_one_dictionary_and_changes_nothing_else(tmp_path: Path) -> None:
    synthetic.publish(tmp_path)
    old = open_store(tmp_path)
    before = {source: old.feature("tiny", source, 5).feature for source in ("0-vasae", "1-plain", "2-vasae")}
    with Builder(tmp_path) as builder:
        kept = builder.keep_others(replacing=[("tiny", "1-vasae")])
        assert sorted(kept.sources) == [("other", "0-vasae"), ("tiny", "0-vasae"), ("tiny", "1-plain"), ("tiny", "2-vasae")]
        assert builder.next_dictionary_id == 5 and builder.next_passage_id > 0
        synthetic.add(builder, [synthetic.Dictionary("tiny", 1, d_sae=60)])
        builder.publish()
    new = open_store(tmp_path)
    assert new.dictionary_page("tiny", "1-vasae", Filters()).summary.d_sae == 60
    assert len(new.home().models[1].layers) == 4
    for source, feature in before.items():
        unlinked = {key: [] for key in ("previous_layer", "next_layer", "previous_coactive", "next_coactive")}
        assert new.feature("tiny", source, 5).feature == feature.model_copy(update=unlinked), source
    assert new.search("#0", Filters(model="tiny")).tokens[0].n_features > 0
    assert len(new.search("#0", Filters(model="tiny")).tokens) == 1, "the vocabulary is there once"


def test_two_dictionaries_of_one_name_cannot_be_published(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path)
    with Builder(tmp_path) as builder:
        builder.keep_others(replacing=[])
        synthetic.add(builder, [synthetic.Dictionary("tiny", 1)])
        with pytest.raises(StoreError, match=r"twice.*tiny/1-vasae"):
            builder.publish()
    assert open_store(tmp_path).build_id() == build


def test_rows_with_wrong_columns_or_types_are_refused_by_name(tmp_path: Path) -> None:
    good = synthetic.token_table("m")
    with Builder(tmp_path) as builder:
        with pytest.raises(StoreError, match="missing: folded; unknown: spelling"):
            builder.add("token", good.rename_columns([{"folded": "spelling"}.get(name, name) for name in good.column_names]))
        with pytest.raises(StoreError, match="no table 'tokens'"):
            builder.add("tokens", good)
        with pytest.raises(StoreError, match="do not fit"):
            builder.add("token", good.set_column(1, "token_id", pa.array(["x"] * good.num_rows)))
        builder.add("token", good.select(list(reversed(good.column_names))))


def test_an_index_of_another_version_is_refused_with_the_command_that_rebuilds(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path)
    with duckdb.connect(str(builds.build_path(tmp_path, build))) as connection:
        connection.execute("UPDATE meta SET schema_version = 0")
    with pytest.raises(WrongVersion, match=r"version 0.*lexiscope index"):
        open_store(tmp_path).home()
    with Builder(tmp_path) as builder:
        assert "indexed again" in builder.keep_others(replacing=[]).note


@pytest.mark.parametrize("damage", ["nothing", "garbage in CURRENT", "no build", "truncated build"])
def test_a_missing_or_damaged_index_says_how_to_make_one(tmp_path: Path, damage: str) -> None:
    if damage != "nothing":
        build = synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)])
        path = builds.build_path(tmp_path, build)
        if damage == "garbage in CURRENT":
            (tmp_path / "CURRENT").write_text("../../etc/passwd")
        elif damage == "no build":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(NoIndex, match="lexiscope index"):
        open_store(tmp_path).home()


def test_questions_asked_while_builds_change_are_all_answered(tmp_path: Path) -> None:
    synthetic.publish(tmp_path)
    store, done = open_store(tmp_path), threading.Event()

    def ask(seed: int) -> int:
        answered = 0
        while not done.is_set() or not answered:
            assert store.feature("tiny", "1-vasae", (seed + answered) % 200).feature.layer == 1
            answered += 1
        return answered

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, seed) for seed in range(6)]
        for _ in range(3):
            synthetic.publish(tmp_path)
        done.set()
        assert all(future.result() > 0 for future in asked)
