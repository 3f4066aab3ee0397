"""The indexer finds what features really do, keeps bounded pools that no split changes, and publishes all or nothing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import indexer
from indexer.firings import Firings, windows
from indexer.pools import Pool, priority
from indexer.statistics import Statistics
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import CheckpointError, LexiscopeError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.records import Filters
from lexiscope.settings import Settings
from store import Store
from tests import tiny

QUIET = Console(quiet=True)


@pytest.fixture(scope="session")
def indexed(model: LanguageModel, runs: list[Path], text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(index=tmp_path_factory.mktemp("index"))
    indexer.index([(model, [load_checkpoint(run) for run in runs])], [str(text_file)], settings=settings, console=QUIET, length=48)
    return settings


def test_an_indexed_feature_has_its_contexts_and_they_fire_where_they_say(indexed: Settings, model: LanguageModel) -> None:
    store = Store(indexed)
    page = store.dictionary_page("tiny", "1-vasae", Filters(live=True, sort="density", descending=True, limit=5))
    assert page.features
    for ref in page.features:
        feature = store.feature("tiny", "1-vasae", ref.index).feature
        top = [context for context in feature.contexts if context.kind == "top"]
        assert top and top[0].value == pytest.approx(feature.max_activation, rel=1e-3)
        assert [c.value for c in top] == sorted((c.value for c in top), reverse=True)
        assert len({c.passage for c in top}) == len(top)
        for context in feature.contexts:
            assert len(context.tokens) == len(context.values)
            if context.kind != "near_miss":
                assert context.values[context.position] == pytest.approx(context.value, rel=2e-3)
        assert sum(feature.histogram.counts) == feature.n_firings
        assert feature.histogram.zeros == feature.n_tokens - feature.n_firings
        assert feature.density == pytest.approx(feature.n_firings / feature.n_tokens, rel=1e-4)
        quantiles = [c for c in feature.contexts if c.kind == "quantile"]
        by_quantile = {q: [c.value for c in quantiles if c.quantile == q] for q in range(5)}
        for low, high in zip(range(4), range(1, 5), strict=True):
            if by_quantile[low] and by_quantile[high]:
                assert max(by_quantile[low]) <= min(by_quantile[high])


def test_every_layer_has_a_summary_and_every_token_a_page(indexed: Settings, model: LanguageModel) -> None:
    store = Store(indexed)
    (summary,) = store.home().models
    assert {layer.source for layer in summary.layers} == {"0-vasae", "1-vasae", "1-plain"}
    for layer in summary.layers:
        assert sum(layer.verdicts.values()) == layer.d_sae == model.vocab_size
        assert 0 <= layer.supported_live <= 1
    (cat,) = model.tokenise(" cat")
    assert store.token_page("tiny", cat).count > 0


def test_indexing_one_dictionary_again_keeps_the_others(indexed: Settings, model: LanguageModel, runs: list[Path], text_file: Path) -> None:
    before = Store(indexed).feature("tiny", "0-vasae", 3).feature
    indexer.index([(model, [load_checkpoint(runs[2])])], [str(text_file)], settings=indexed, console=QUIET, tokens=2000, length=48)
    store = Store(indexed)
    assert {layer.source for layer in store.home().models[0].layers} == {"0-vasae", "1-vasae", "1-plain"}
    assert store.feature("tiny", "0-vasae", 3).feature.contexts == before.contexts


def test_a_dictionary_of_another_model_and_two_of_one_name_are_refused_and_the_old_index_serves(
    indexed: Settings, runs: list[Path], model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    build = Store(indexed).build_id()
    folder = tiny.make_model(tmp_path / "other")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"n_embd": 32', '"n_embd": 16'))
    with pytest.raises(LexiscopeError):
        load_language_model(str(folder))
    run = load_checkpoint(runs[0])
    narrow = run._replace(fit=run.fit._replace(anchors=run.fit.anchors[:-1]))
    with pytest.raises(CheckpointError, match="another model"):
        indexer.index([(model, [narrow])], [str(text_file)], settings=indexed, console=QUIET)
    with pytest.raises(CheckpointError, match="no anchors"):
        indexer.index([(model, [run._replace(fit=None)])], [str(text_file)], settings=indexed, console=QUIET)
    with pytest.raises(indexer.IndexingError, match="Two dictionaries"):
        indexer.index([(model, [run, run])], [str(text_file)], settings=indexed, console=QUIET)
    assert Store(indexed).build_id() == build


def random_firings(seed: int, n: int = 300, features: int = 8) -> Firings:
    draw = np.random.default_rng(seed)
    places = draw.choice(features * 20 * 30, n, replace=False)
    feature, rest = np.divmod(np.sort(places), 20 * 30)
    passage, position = np.divmod(rest, 30)
    return Firings(feature, passage, position, draw.random(n).astype(np.float32) + 0.1)


def fill(pool: Pool, found: Firings, parts: list[np.ndarray]) -> list[tuple[int, int, int]]:
    for rows in parts:
        part = Firings(*(column[np.sort(rows)] for column in found))
        chosen = pool.candidates(part.feature, part.passage, part.value)
        around = windows(part, part.feature[chosen], part.passage[chosen], part.position[chosen])
        columns = {name: getattr(part, name)[chosen] for name in ("feature", "passage", "position", "value")}
        pool.add(**columns, key=part.value[chosen], around=around)
    columns, _ = pool.settled()
    return list(zip(*(columns[name].tolist() for name in ("feature", "passage", "position")), strict=True))


@given(seed=st.integers(0, 200), cuts=st.integers(1, 6))
def test_a_pool_keeps_the_same_contexts_however_the_corpus_is_split(seed: int, cuts: int) -> None:
    found = random_firings(seed)
    whole = fill(Pool(8, 5, one_a_passage=True), found, [np.arange(300)])
    of_passage = [np.flatnonzero(found.passage % cuts == cut) for cut in range(cuts)]
    assert fill(Pool(8, 5, one_a_passage=True), found, of_passage[::-1]) == whole


@given(seed=st.integers(0, 200))
def test_a_pool_equals_sorting_everything(seed: int) -> None:
    found = random_firings(seed)
    rows = sorted(zip(*(column.tolist() for column in found), strict=True), key=lambda r: (r[0], -r[3]))
    expected: list[tuple[int, int, int]] = []
    for feature in range(8):
        passages: set[int] = set()
        for _, passage, position, _ in (row for row in rows if row[0] == feature):
            if passage not in passages and len(passages) < 5:
                passages.add(passage)
                expected.append((feature, passage, position))
    assert fill(Pool(8, 5, one_a_passage=True), found, [np.arange(300)]) == expected


@given(seed=st.integers(0, 200))
def test_windows_hold_the_same_features_firings_nearby_and_no_others(seed: int) -> None:
    found = random_firings(seed)
    around = windows(found, found.feature, found.passage, found.position)
    for row in range(0, 300, 7):
        feature, passage, position = (int(column[row]) for column in found[:3])
        same = (
            (found.feature == feature) & (found.passage == passage) & (found.position >= position - 32) & (found.position <= position + 16)
        )
        assert around.positions[around.starts[row] : around.starts[row + 1]].tolist() == found.position[same].tolist()


def test_the_sample_is_uniform_and_the_same_in_any_order() -> None:
    feature, passage = np.zeros(10_000, int), np.arange(10_000)
    draws = priority(feature, passage, np.full(10_000, 3))
    assert abs(draws.mean() - 0.5) < 0.02 and abs(np.quantile(draws, 0.1) - 0.1) < 0.02
    assert np.array_equal(draws[::-1], priority(feature, passage[::-1], np.full(10_000, 3)))


def test_the_lift_token_is_the_one_that_matters_not_the_rarest() -> None:
    statistics = Statistics(1, 10)
    tokens = np.array([1] * 60 + [2] * 39 + [9])
    n = len(tokens)
    found = Firings(np.zeros(n, int), np.arange(n), np.zeros(n, int), np.ones(n, np.float32))
    statistics.add(found, tokens, 1000)
    occurrences = np.array([0, 600, 45, 0, 0, 0, 0, 0, 0, 1])
    lift = statistics.lift(occurrences)
    assert (lift.token[0], lift.hits[0]) == (2, 39)
