"""A job that is killed, divided, or run on a cluster ends in the same rows as one that is not; until then the
old index serves.
"""

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from rich.console import Console

import indexer
from indexer import job, job_files
from indexer.counts.state import PassState, StateShape
from indexer.job_files import JobFolder
from indexer.text_pass.blocks import Block
from indexer.text_pass.ray_engine import BlockReader
from indexer.text_pass.text_pass import NamedEncoder, TextPass
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import ModelError
from lexiscope.evidence import NameTables
from lexiscope.language_model import LanguageModel
from lexiscope.settings import Settings
from store import build_files
from tests import tiny

TABLES = {
    "dictionary": "dictionary_id",
    "layer_summary": "dictionary_id",
    "feature": 'dictionary_id, "index"',
    "context": "dictionary_id, feature, kind, quantile, rank",
    "passage": "passage_id",
    "token": "token_id",
}
REQUEST = indexer.IndexRequest(length=48, ablate=0, block_passages=16)
KILLED = """
import sys, time, torch
from pathlib import Path
from rich.console import Console
import indexer
from indexer.text_pass import text_pass
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import load_language_model
from lexiscope.settings import Settings
read = text_pass.TextPass.read
text_pass.TextPass.read = lambda self, block: (time.sleep(0.2), read(self, block))
model, text, index, *runs = sys.argv[1:]
request = indexer.IndexRequest(length=48, ablate=0, block_passages=16, save_seconds=0)
indexer.index([(load_language_model(model, model_id="tiny"), map(load_checkpoint, map(Path, runs)))], [text],
    settings=Settings(index=Path(index)), console=Console(), request=request)
"""


def build(
    root: Path,
    model: LanguageModel,
    runs: list[Path],
    text: Path,
    request: indexer.IndexRequest = REQUEST,
    console: Console | None = None,
) -> str | None:
    groups = [(model, map(load_checkpoint, runs))]
    return indexer.index(
        groups,
        [str(text)],
        settings=Settings(index=root),
        console=console or Console(quiet=True),
        request=request,
    )


def rows(root: Path) -> dict[str, list[tuple[object, ...]]]:
    (name,) = {path.read_text().strip() for path in root.glob("CURRENT")}
    with duckdb.connect(str(root / f"{name}.duckdb"), read_only=True) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
            for table, order in TABLES.items()
        }


@pytest.fixture(scope="module")
def expected(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[object, ...]]]:
    root = tmp_path_factory.mktemp("whole")
    build(root, model, runs, text_file)
    assert not list(root.glob("work-*"))
    return rows(root)


@pytest.mark.slow
def test_a_killed_job_leaves_the_index_that_serves_and_resumes_to_the_same_rows(
    model: LanguageModel,
    model_folder: Path,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
    expected: dict[str, list[tuple[object, ...]]],
) -> None:
    build(tmp_path, model, runs, text_file, REQUEST._replace(tokens=2000))
    served = rows(tmp_path)
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(model_folder),
        str(text_file),
        str(tmp_path),
        *map(str, runs),
    ]
    job = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(6000):
        if any(tmp_path.glob("work-*/all.npz")) or job.poll() is not None:
            break
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert rows(tmp_path) == served
    (saved,) = tmp_path.glob("work-*/all.npz")
    done = len(np.load(saved)["blocks"])
    assert done > 0
    told = Console(record=True, width=200)
    build(tmp_path, model, runs, text_file, REQUEST._replace(resume=True), told)
    assert f"continuing after {done} blocks" in told.export_text()
    found = rows(tmp_path)
    for table in TABLES:
        assert found[table] == expected[table], table
    assert not list(tmp_path.glob("work-*"))


def test_shards_in_any_order_and_one_left_over_publish_the_same_rows(
    model: LanguageModel,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
    expected: dict[str, list[tuple[object, ...]]],
) -> None:
    told = Console(record=True, width=200)
    for shard in ("3/3", "1/3"):
        assert (
            build(tmp_path, model, runs, text_file, REQUEST._replace(shard=indexer.parse_shard(shard)), told)
            is None
        )
    assert not (tmp_path / "CURRENT").exists()
    assert "Missing: 2/3" in told.export_text()
    build(tmp_path, model, runs, text_file, REQUEST._replace(resume=True))
    found = rows(tmp_path)
    for table in TABLES:
        assert found[table] == expected[table], table


def test_unfinished_work_is_mentioned_with_the_option_that_continues_it(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    build(tmp_path, model, runs[:1], text_file, REQUEST._replace(shard=indexer.parse_shard("1/2")))
    told = Console(record=True, width=200)
    build(tmp_path, model, runs[:1], text_file, console=told)
    said = told.export_text()
    assert "unfinished work of this very job" in said and "--resume" in said


def test_an_interrupted_job_says_how_to_go_on_and_publishes_nothing(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = TextPass.read, []

    def interrupted(self: TextPass, block: Block) -> None:
        read(self, block)
        seen.append(block.number)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TextPass, "read", interrupted)
    with pytest.raises(indexer.IndexingError, match="--resume continues"):
        build(tmp_path, model, runs[:1], text_file, REQUEST._replace(save_seconds=0))
    assert not (tmp_path / "CURRENT").exists()
    assert list(tmp_path.glob("work-*/all.npz"))


def refuse_to_read(self: TextPass, block: Block) -> None:
    raise AssertionError(f"block {block.number} is read again")


def test_a_job_waits_for_another_that_writes_a_build_and_has_saved_what_it_counted(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with ExitStack() as other:
        other.enter_context(build_files.lock(tmp_path))

        def listen(self: job.ModelJob, message: str) -> None:
            said.append(message)
            if "is writing the index" in message:
                assert self.folder.load().n_tokens > 0
                other.close()

        monkeypatch.setattr(job.ModelJob, "say", listen)
        monkeypatch.setattr(job, "WAIT_SECONDS", 0.01)
        assert build(tmp_path, model, runs[:1], text_file, REQUEST._replace(tokens=1000))
    assert any("is writing the index" in message for message in said)
    assert not list(tmp_path.glob("work-*"))


def test_a_job_that_ends_after_the_text_was_read_does_not_read_it_again(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    request = REQUEST._replace(tokens=1000)
    with monkeypatch.context() as patch:
        patch.setattr(job, "add_model", interrupted)
        with pytest.raises(indexer.IndexingError, match="--resume continues"):
            build(tmp_path / "resumed", model, runs[:1], text_file, request)
    with monkeypatch.context() as patch:
        patch.setattr(TextPass, "read", refuse_to_read)
        build(tmp_path / "resumed", model, runs[:1], text_file, request._replace(resume=True))
    build(tmp_path / "whole", model, runs[:1], text_file, request)
    assert rows(tmp_path / "resumed") == rows(tmp_path / "whole")


def test_work_of_other_settings_is_named_where_there_is_nothing_to_resume(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    build(tmp_path, model, runs[:1], text_file, REQUEST._replace(shard=indexer.parse_shard("1/2")))
    (left,) = tmp_path.glob("work-*")
    running = JobFolder(tmp_path, "running", StateShape(10, 16, (4,), (0,)), None)
    told = Console(record=True, width=1000)
    with running.lock():
        build(tmp_path, model, runs[:1], text_file, REQUEST._replace(tokens=1000, resume=True), told)
    said = told.export_text()
    assert "begun with other dictionaries, text or settings" in said
    assert str(left) in said and str(running.path) not in said
    assert left.is_dir()


def test_damaged_work_a_second_process_and_a_disk_that_fills_are_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = PassState(StateShape(10, 16, (4,), (0,)))
    saved = JobFolder(tmp_path, "key", state.shape, None)
    saved.save(state)
    with saved.lock(), pytest.raises(indexer.IndexingError, match="Another process"), saved.lock():
        pass

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_files.np, "savez", full)
    with pytest.raises(indexer.IndexingError, match=r"No space left.*still there"):
        saved.save(state)
    assert len(saved.load().blocks) == 0
    (path,) = saved.path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(indexer.IndexingError, match="is damaged"):
        saved.load()
    assert [p.name for p in saved.path.iterdir() if p.suffix == ".npz"] == ["all.npz"]


def test_passages_of_one_token_and_of_none_are_read(model: LanguageModel, runs: list[Path]) -> None:
    dictionary = load_checkpoint(runs[0]).dictionary
    names = np.arange(dictionary.d_sae)
    tables = NameTables(torch.arange(model.vocab_size)[:, None], torch.arange(model.vocab_size)[:, None])
    shape = StateShape(model.vocab_size, 48, (dictionary.d_sae,), (0,))
    reading = TextPass(model, [NamedEncoder(0, dictionary, names, names)], tables, shape)
    reading.read(Block(0, 0, [np.array([model.bos]), np.array([model.bos, 5])]))
    reading.read(Block(1, 2, [np.array([model.bos])]))
    state = reading.take_state()
    state.settle()
    assert (state.n_tokens, state.n_passages, state.blocks.tolist()) == (1, 3, [0, 1])
    assert state.dictionaries[0].statistics.count.sum() == dictionary.selection.k


def test_a_node_that_holds_another_model_at_the_path_does_not_count(
    model: LanguageModel, tmp_path: Path
) -> None:
    other = tiny.make_model(tmp_path / "other", seed=3)
    nothing = torch.full((model.vocab_size, 1), -1)
    tables, shape = NameTables(nothing, nothing), StateShape(model.vocab_size, 48, (), ())
    with pytest.raises(ModelError, match="is another model than on the machine that started this job"):
        BlockReader(str(other), model.id, model.identity, [], tables, shape, 1)
    BlockReader(model.path, model.id, model.identity, [], tables, shape, 1)


@pytest.mark.ray
def test_a_cluster_of_two_nodes_publishes_the_same_rows(
    model: LanguageModel,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
    expected: dict[str, list[tuple[object, ...]]],
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        build(tmp_path, model, runs, text_file, REQUEST._replace(engine="ray"))
    finally:
        ray.shutdown()
        cluster.shutdown()
    found = rows(tmp_path)
    for table in TABLES:
        assert found[table] == expected[table], table


def test_ray_that_is_not_installed_is_named_with_the_command_that_installs_it(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(indexer.IndexingError, match=r"pip install 'lexiscope\[ray\]'"):
        build(tmp_path, model, runs[:1], text_file, REQUEST._replace(engine="ray"))
