"""Sources: the buffer and the cache give the same tokens to every run, and refuse what they cannot serve."""

import json
import resource
import signal
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console

import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import passages
from tests import tiny
from trainer.activations.buffer import Filling, cropped, from_model, split
from trainer.activations.cache import Origin, cached
from trainer.activations.harvest import Harvest, HarvestError, harvest

QUIET = Console(quiet=True)
LENGTH = 48


def plan(text: Path, out: Path, **changes: Any) -> trainer.Plan:
    recipe = replace(trainer.recipe("vasae"), k=4, batch=64)
    return trainer.Plan([str(text)], [(recipe, [0])], out, 1000, 3000, 100, length=LENGTH)._replace(**changes)


@pytest.fixture
def some_passages(model: LanguageModel, text_file: Path) -> list[np.ndarray]:
    return list(cropped(passages(model, [str(text_file)], length=LENGTH), 500))


def origin(model: LanguageModel, **changes: Any) -> Origin:
    return Origin(model.id, model.fingerprint, "a text", LENGTH, 500, "none")._replace(**changes)


# --- passages into fillings ---


@given(some.lists(some.integers(2, 30)), some.integers(1, 50))
def test_splitting_loses_nothing_but_what_is_cut_and_every_part_but_the_last_is_full(
    lengths: list[int], size: int
) -> None:
    parts = [[len(p) - 1 for p in part] for part in split([np.arange(n) for n in lengths], size)]
    assert all(sum(part) == size for part in parts[:-1])
    assert sum(map(len, parts)) == len(lengths)
    assert sum(map(sum, parts)) <= sum(lengths) - len(lengths)


def read_all(fillings: Sequence[Filling]) -> list[list[int]]:
    found = []
    for filling in fillings:
        with filling.read([0], lambda n: None) as harvest:
            found.append(harvest.layout.tokens.tolist())
    return found


def test_a_text_longer_than_the_buffer_is_read_in_parts_and_then_again(
    model: LanguageModel, some_passages: list[np.ndarray]
) -> None:
    source = from_model(model, lambda: iter(some_passages), size=200)
    fillings = [next(source) for _ in range(5)]
    assert [(f.tokens, f.nth, f.epoch, f.last) for f in fillings] == [
        (200, 0, 0, False),
        (200, 1, 0, False),
        (fillings[2].tokens, 2, 0, False),
        (200, 3, 1, False),
        (200, 4, 1, False),
    ]
    tokens = read_all(fillings)
    assert tokens[3] == tokens[0] != tokens[1] == tokens[4]
    assert [len(part) for part in tokens] == [f.tokens for f in fillings]


def test_a_text_that_fits_is_read_once(model: LanguageModel, some_passages: list[np.ndarray]) -> None:
    (only,) = from_model(model, lambda: iter(some_passages), size=500)
    assert only.last and only.tokens == 500


def test_a_filling_counts_the_positions_that_it_holds(
    model: LanguageModel, some_passages: list[np.ndarray]
) -> None:
    source = from_model(model, lambda: iter(some_passages), size=200, positions="all")
    fillings = [next(source) for _ in range(3)]
    assert [len(part) for part in read_all(fillings)] == [filling.tokens for filling in fillings]


def test_a_harvest_never_holds_position_zero(model: LanguageModel, some_passages: list[np.ndarray]) -> None:
    with harvest(model, some_passages, layers=[0, 1]) as found:
        assert found.activations[0].shape == found.activations[1].shape == (500, model.d_model)
        assert model.bos not in found.layout.tokens


def test_training_through_a_buffer_takes_all_steps_and_learns(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    (path,) = trainer.train(model, plan(text_file, tmp_path, buffer=300), console=QUIET)
    lines = [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3000 // 64
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (
        900 < load_checkpoint(path).details["tokens_distinct"] <= 1000
    )  # what the buffer's edge cuts off is not read


# --- the cache ---


def test_a_cache_is_filled_once_gains_missing_layers_and_equals_a_harvest(
    model: LanguageModel, some_passages: list[np.ndarray], tmp_path: Path
) -> None:
    read: list[int] = []
    first = cached(
        model, some_passages, layers=[1], origin=origin(model), folder=tmp_path, advance=read.append
    )
    assert sum(read) == 500
    (folder,) = tmp_path.iterdir()
    written = (folder / "1.bf16").stat().st_mtime_ns
    both = cached(
        model, some_passages, layers=[0, 1], origin=origin(model), folder=tmp_path, advance=read.append
    )
    assert sum(read) == 1000
    again = cached(
        model, some_passages, layers=[0, 1], origin=origin(model), folder=folder, advance=read.append
    )
    assert sum(read) == 1000 and (folder / "1.bf16").stat().st_mtime_ns == written
    with harvest(model, some_passages, layers=[0, 1]) as fresh:
        for found, layers in ((first, [1]), (both, [0, 1]), (again, [0, 1])):
            assert torch.equal(found.layout.tokens, fresh.layout.tokens)
            assert all(torch.equal(found.activations[layer], fresh.activations[layer]) for layer in layers)


def test_training_from_a_cache_equals_training_from_the_model_and_later_seeds_reuse_it(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = trainer.train(model, plan(text_file, tmp_path / "plain"), console=QUIET)
    kept = plan(text_file, tmp_path / "kept", cache=tmp_path / "cache")
    (first,) = trainer.train(model, kept, console=QUIET)
    assert torch.equal(load_checkpoint(plain).dictionary.W_dec, load_checkpoint(first).dictionary.W_dec)
    (folder,) = (tmp_path / "cache").iterdir()
    written = (folder / "0.bf16").stat().st_mtime_ns
    trainer.train(model, kept._replace(seed=1, set_name="other"), console=QUIET)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    assert (folder / "0.bf16").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "another"},
        {"length": 47},
        {"weights": "0"},
        {"tokens": 400},
        {"held_out": "other text"},
        {"precision": "bfloat16"},
    ],
)
def test_a_cache_of_other_activations_is_refused(
    model: LanguageModel, some_passages: list[np.ndarray], tmp_path: Path, changes: dict[str, Any]
) -> None:
    cached(model, some_passages, layers=[0], origin=origin(model), folder=tmp_path)
    (folder,) = tmp_path.iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HarvestError, match=f"other activations.*{next(iter(changes))}"):
        cached(model, some_passages, layers=[0], origin=origin(model, **changes), folder=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_cache_of_a_model_that_has_changed_under_its_id_is_refused_before_training(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    trainer.train(model, plan(text_file, tmp_path / "a", cache=tmp_path / "cache"), console=QUIET)
    other = load_language_model(str(tiny.make_model(tmp_path / "changed" / "tiny", seed=1)))
    assert other.id == model.id
    with pytest.raises(HarvestError, match="weights"):
        trainer.train(other, plan(text_file, tmp_path / "b", cache=tmp_path / "cache"), console=QUIET)
    assert not (tmp_path / "b").exists()


def test_a_pass_that_dies_leaves_no_layer_that_would_be_used(
    model: LanguageModel, some_passages: list[np.ndarray], tmp_path: Path
) -> None:
    class Died(Exception):
        pass

    def die(n: int) -> None:
        raise Died

    with pytest.raises(Died):
        cached(model, some_passages, layers=[0], origin=origin(model), folder=tmp_path, advance=die)
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "LOCK"}
    found = cached(model, some_passages, layers=[0], origin=origin(model), folder=tmp_path)
    assert len(found.layout.tokens) == 500


def test_a_truncated_layer_is_refused(
    model: LanguageModel, some_passages: list[np.ndarray], tmp_path: Path
) -> None:
    cached(model, some_passages, layers=[0], origin=origin(model), folder=tmp_path)
    (file,) = tmp_path.glob("*/0.bf16")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(HarvestError, match="damaged"):
        cached(model, some_passages, layers=[0], origin=origin(model), folder=tmp_path)


# --- bad input ---


class Broken:
    """A language model whose activations are all one value."""

    id, d_model, device, context_length = "broken", 4, torch.device("cpu"), 64

    def __init__(self, value: float) -> None:
        self.value = value

    def check_layers(self, layers: list[int]) -> None: ...

    def read(self, tokens: torch.Tensor, layers: list[int], *, fast: bool) -> dict[int, torch.Tensor]:
        return {layer: torch.full((*tokens.shape, 4), self.value) for layer in layers}


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "NaN"), (float("inf"), "NaN or Inf"), (1.0, "constant")]
)
def test_activations_that_cannot_be_trained_on_are_refused(value: float, says: str) -> None:
    broken: Any = Broken(value)
    with (
        pytest.raises(HarvestError, match=says),
        harvest(broken, [np.arange(20, dtype=np.int32)], layers=[0]),
    ):
        pass


@contextmanager
def full_disk(size: int = 4096):
    """No file may grow beyond `size` bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_says_so_and_leaves_no_half_cache(
    model: LanguageModel, some_passages: list[np.ndarray], tmp_path: Path
) -> None:
    def harvested() -> Harvest:
        with harvest(model, some_passages, layers=[0], folder=tmp_path) as found:
            return found

    def kept() -> Harvest:
        return cached(model, some_passages, layers=[0], origin=origin(model), folder=tmp_path / "cache")

    attempts: list[Callable[[], Harvest]] = [harvested, kept]
    for attempt in attempts:
        with full_disk(), pytest.raises(HarvestError, match="Free some disk"):
            attempt()
    assert {path.name for path in tmp_path.glob("cache/*/*")} == {"manifest.json", "LOCK"}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_activations_that_cannot_fit_on_the_disk_are_refused_before_the_model_runs(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = [
        np.broadcast_to(np.int32(1), 10**15)
    ]  # a passage that takes no memory, and petabytes of activations
    with (
        pytest.raises(HarvestError, match="do not fit"),
        harvest(model, endless, layers=[0], folder=tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_text_shorter_than_a_batch_or_than_the_buffer_asked_for_is_refused(
    model: LanguageModel, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text(tiny.text(700))
    recipe = replace(trainer.recipe("plain"), k=4, batch=900)
    for changes, says in (
        ({"runs": [(recipe, [0])]}, "fewer than a batch of 900"),
        ({"buffer": 800}, "fewer than the buffer of 800"),
    ):
        with pytest.raises(TextError, match=says):
            trainer.train(model, plan(short, tmp_path / "out", **changes), console=QUIET)
    assert not (tmp_path / "out").exists()
