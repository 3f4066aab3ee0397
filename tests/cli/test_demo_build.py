"""A demo has its first dictionary's pages before the others are trained, and all of them in the end."""

from pathlib import Path

import pytest
from rich.console import Console

from cli import demo_command
from cli.demo_command import Amounts, build
from lexiscope.language_model import LanguageModel
from lexiscope.progress import read_progress
from lexiscope.settings import Settings
from store import NoIndex, Store, StoreError, Unreachable

QUIET = Console(quiet=True)


def tokens_of(settings: Settings) -> dict[str, int]:
    """{source: tokens it was indexed over}"""
    store = Store(settings)
    [summary] = store.home().models
    return {
        layer.source: store.feature(layer.model, layer.source, 0).feature.n_tokens for layer in summary.layers
    }


def test_the_first_dictionary_is_indexed_alone_and_then_with_the_others(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(index=tmp_path / "index", runs=tmp_path / "runs", lenses=tmp_path / "lenses")
    amounts = Amounts(3000, 2048, 300, 3000, 0, 0, 0, 1000)
    first, rest = ("plain", 1), [("plain", 0)]
    import trainer

    at_second_training: list[dict[str, int]] = []
    train = trainer.train

    def trained(*given: object, **options: object) -> object:
        if (settings.index / "CURRENT").is_file():
            at_second_training.append(tokens_of(settings))
        return train(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "train", trained)
    build(lambda: model, model.id, first, rest, [str(text_file)], amounts, settings=settings, console=QUIET)
    [looked] = at_second_training
    found = tokens_of(settings)
    assert set(looked) == {"1-plain"} and set(found) == {"0-plain", "1-plain"}
    assert looked["1-plain"] < found["1-plain"] == found["0-plain"]
    labels = [step.label for step in read_progress(settings.index).steps]
    assert labels == ["train 1-plain", "index 1-plain", "train 0-plain", "index 2 dictionaries"]
    build(
        lambda: pytest.fail("built twice"),
        model.id, first, rest, [str(text_file)], amounts, settings=settings, console=QUIET,
    )  # fmt: skip


def test_a_build_waits_for_a_database_that_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers: list[StoreError] = [Unreachable("starting"), Unreachable("starting"), NoIndex("empty")]
    monkeypatch.setattr(Store, "build_id", lambda _: (_ for _ in ()).throw(answers.pop(0)))
    monkeypatch.setattr(demo_command, "RETRY_SECONDS", 0)
    settings = Settings(index=tmp_path)

    def begin() -> LanguageModel:
        raise KeyboardInterrupt  # the build has begun

    amounts = Amounts(0, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(KeyboardInterrupt):
        build(begin, "tiny", ("plain", 0), [], [], amounts, settings=settings, console=QUIET)
    assert not answers
    answers += [Unreachable("gone")]
    monkeypatch.setattr(demo_command, "DATABASE_SECONDS", 0)
    with pytest.raises(Unreachable, match="gone"):
        build(begin, "tiny", ("plain", 0), [], [], amounts, settings=settings, console=QUIET)
