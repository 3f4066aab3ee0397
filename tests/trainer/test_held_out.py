"""What is held out of several texts is held out of each, and of a single text every tenth passage."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console

import trainer
from lexiscope.language_model import LanguageModel
from lexiscope.text import passages
from tests import tiny
from trainer.activations.passages import LayerActivations, every_nth
from trainer.plan import held_out_passages, held_out_rule, identity, training_passages, training_sources
from trainer.step import Training


def in_turn(lengths: list[int]) -> Iterator[int]:
    """The source of each passage, as texts are read: a passage of each, until it ends."""
    for place in range(max(lengths)):
        yield from (source for source, length in enumerate(lengths) if place < length)


@given(some.lists(some.integers(1, 200), min_size=1, max_size=12), some.sampled_from([2, 6, 10]))
def test_every_nth_passage_is_taken_of_the_whole_and_of_each_source(lengths: list[int], n: int) -> None:
    sources = list(in_turn(lengths))
    chosen = list(every_nth(sources, n))
    of_each = Counter(source for source, taken in zip(sources, chosen) if taken)
    assert all(of_each[source] <= -(-length // n) for source, length in enumerate(lengths))
    assert sum(chosen) <= len(sources) // n and (sum(chosen) > 0) == (len(sources) >= n)
    if len(lengths) == 1:
        assert chosen == [number % n == n - 1 for number in range(lengths[0])]


@pytest.fixture(scope="module")
def ten_texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("ten")
    for name in range(10):
        (folder / f"{name}.txt").write_text(tiny.text(1500, seed=name))
    return [str(folder / f"{name}.txt") for name in range(10)]


def plan_of(texts: list[str]) -> trainer.Plan:
    config = replace(trainer.recipe("paper-plain"), k=4, batch=4, epochs=2)
    return trainer.Plan(texts, [(config, [0])], Path(), 10**6, 0, 10**6, length=24)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_a_tenth_of_each_text_is_held_out_and_the_rest_trained_on(
    n: int, ten_texts: list[str], model: LanguageModel
) -> None:
    texts = ten_texts[:n]
    asked = plan_of(texts)
    held_out = {passage.tobytes() for passage in held_out_passages(model, asked)}
    training = [passage.tobytes() for passage in training_passages(model, asked)]
    sources = training_sources(model, asked, len(training)).tolist()
    for number, text in enumerate(texts):
        own = [passage.tobytes() for passage in passages(model, [text], length=24)]
        out = [each for each in own if each in held_out]
        assert abs(len(out) - len(own) / 10) <= 2
        assert [each for each, source in zip(training, sources) if source == number] == [
            each for each in own if each not in held_out
        ]
    if n == 1:
        assert [each in held_out for each in own] == [place % 10 == 9 for place in range(len(own))]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_a_sixth_of_each_text_validates(
    n: int, ten_texts: list[str], model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[LayerActivations]()
    over = Training.over

    def kept(self: Training, activations: LayerActivations, **where: int) -> None:
        found.append(activations)
        over(self, activations, **where)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "over", kept)
    asked = plan_of(ten_texts[:n])._replace(out=tmp_path, tokens=4000, eval_tokens=50)
    trainer.train(model, asked, console=Console(quiet=True))
    rows = found[0]
    sources = training_sources(model, asked, len(rows.numbers))[rows.numbers]
    for source in range(n):
        of_it = sources == source
        validating = int((rows.validation() & of_it).sum())
        assert abs(validating - int(of_it.sum()) / 6) <= 2
    if n == 1:
        assert torch.equal(rows.validation(), rows.numbers % 6 == 5)


def test_what_several_texts_hold_out_is_another_rule(ten_texts: list[str], model: LanguageModel) -> None:
    one, two = plan_of(ten_texts[:1]), plan_of(ten_texts[:2])
    assert held_out_rule(one) == "every 10th passage"
    assert held_out_rule(two) == "every 10th passage of each source"
    assert held_out_rule(two._replace(held_out=ten_texts[2:3])) == "other text"
    config = one.runs[0][0]
    assert "validation" not in identity(model, one, config, 0)
    assert "validation" in identity(model, two, config, 0)
