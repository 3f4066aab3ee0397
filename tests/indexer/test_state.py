"""The counts of a text do not depend on how it was split, and equal those of an obvious implementation."""

import copy
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.counts.activation_statistics import EDGES, ActivationStatistics, bins, position_edges
from indexer.counts.coactivation import SampledFirings, matches
from indexer.counts.context_pools import ContextPool, draws
from indexer.counts.exact_sum import ExactSum
from indexer.counts.firings import NearbyFirings
from indexer.counts.state import PassState, StateShape, merge
from indexer.counts.text_chunk import TextChunk
from indexer.counts.token_counts import TokenCounts
from indexer.errors import IndexingError
from indexer.rows.context_rows import PassageTexts, context_table
from indexer.text_pass.blocks import Block, Shard, blocks, parse_shard
from indexer.text_pass.text_pass import NamedEncoder, PendingCodes, count_chunk
from lexiscope.errors import LexiscopeError
from lexiscope.evidence import JUDGING, FlatFirings, NameTables, flat_firings, matched_controls
from lexiscope.sparse_code import SparseCode
from lexiscope.text import batches

VOCAB, D_SAE, LENGTH, K = 12, 8, 24, 3
EDGES_OF_POSITIONS = position_edges(LENGTH)
PAIRS = torch.arange(VOCAB)[:, None] // 2 * 2 + torch.tensor([0, 1])
TABLES = NameTables(torch.nn.functional.pad(PAIRS, (0, 1), value=-1), matched_controls(torch.arange(VOCAB)))
SHAPE = StateShape(VOCAB, LENGTH, (D_SAE, D_SAE), (0, 1))
TIGHT = SHAPE._replace(max_token_counts=4, sampled_positions=20, sampled_firings=5)
"""So little room that the samples of positions, firings and token counts are cut."""


def text(seed: int, passages: int = 24) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, LENGTH + 1, passages)
    return [np.concatenate([[0], draw.integers(0, VOCAB, n - 1)]).astype(np.int32) for n in lengths]


def code(n: int, seed: int) -> SparseCode:
    """A random code with ties and paddings."""
    draw = np.random.default_rng(seed)
    values = np.sort(draw.integers(0, 6, (n, K)), 1)[:, ::-1].astype(np.float32) / 3
    indices = np.argsort(draw.random((n, D_SAE)), 1)[:, :K]
    return SparseCode(torch.from_numpy(values.copy()), torch.from_numpy(indices))


def encoder(seed: int) -> NamedEncoder:
    draw = np.random.default_rng(seed)
    return NamedEncoder(0, None, draw.integers(0, VOCAB, D_SAE), draw.integers(0, VOCAB, D_SAE))  # type: ignore[arg-type]


def count(block: Block, shape: StateShape) -> PassState:
    """What `TextPass.read` does to a block, without a model: two dictionaries, of random codes that depend on
    the block's number.
    """
    state = PassState(shape)
    for number, batch in enumerate(batches(block.passages, tokens=100)):
        if batch.tokens.shape[1] < 2:
            continue
        chunk = TextChunk([batch], block.first, EDGES_OF_POSITIONS)
        state.sampled_positions.add(chunk.hash)
        for at, counts in enumerate(state.dictionaries):
            seed = block.number * 1000 + number * 10 + at
            pending = PendingCodes([code(len(chunk), seed)], [code(len(chunk), seed + 5)])
            count_chunk(counts, encoder(at), pending, chunk, TABLES, state.sampled_positions.cutoff)
        state.relations.add(chunk, chunk.halves, TABLES.words)
        state.occurrences += np.bincount(chunk.current, minlength=VOCAB)
        judged = chunk.current[chunk.halves[chunk.row] == JUDGING]
        state.judged_occurrences += np.bincount(judged, minlength=VOCAB)
        state.position_totals += np.bincount(chunk.position_bin, minlength=len(EDGES_OF_POSITIONS) - 1)
        state.norms.add(np.random.default_rng(block.number).random(2))
    state.passages = {block.first + at: passage for at, passage in enumerate(block.passages)}
    state.n_passages, state.blocks = len(block.passages), np.array([block.number])
    if block.number == 0:
        state.covariances = {0: np.eye(2), 1: np.eye(2)}
    return state


def parts(seed: int, shape: StateShape, size: int = 4) -> list[PassState]:
    passages = text(seed)
    return [
        count(Block(number, at, passages[at : at + size]), shape)
        for number, at in enumerate(range(0, len(passages), size))
    ]


def merged(states: Sequence[PassState]) -> PassState:
    whole = PassState(states[0].shape)
    for state in states:
        whole = merge(whole, state)
    return whole


def same(a: PassState, b: PassState) -> bool:
    one, two = a.arrays(), b.arrays()
    assert one.keys() == two.keys()
    different = [name for name in one if not np.array_equal(one[name], two[name])]
    assert not different
    return True


@pytest.mark.parametrize("shape", [SHAPE, TIGHT], ids=["roomy", "tight"])
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 50), order=st.permutations(range(6)), cut=st.integers(1, 5))
def test_any_split_of_the_text_in_any_order_counts_the_same(
    shape: StateShape, seed: int, order: list[int], cut: int
) -> None:
    whole = merged(parts(seed, shape))
    again = parts(seed, shape)
    left, right = merged([again[i] for i in order[:cut]]), merged([again[i] for i in order[cut:]])
    other = merge(right, left)
    assert same(whole, other)
    tables = []
    for state in (whole, other):
        tables += [
            context_table(counts, PassageTexts(state.passages), dictionary_id=0, first_passage=0)[0]
            for counts in state.dictionaries
        ]
    assert tables[:2] == tables[2:]


def test_contexts_of_a_kind_are_ranked_by_strength_whatever_their_quantile() -> None:
    state = merged(parts(1, SHAPE))
    table, _ = context_table(
        state.dictionaries[0], PassageTexts(state.passages), dictionary_id=0, first_passage=0
    )
    found: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row in table.select(["feature", "kind", "rank", "value"]).to_pylist():
        found.setdefault((row["feature"], row["kind"]), []).append((row["rank"], abs(row["value"])))
    assert {kind for _, kind in found} == {"top", "quantile", "near_miss"}
    for contexts in found.values():
        ranks, values = zip(*sorted(contexts), strict=True)
        assert list(ranks) == list(range(len(ranks)))
        assert list(values) == sorted(values, reverse=True)


@pytest.mark.parametrize("shape", [SHAPE, TIGHT], ids=["roomy", "tight"])
def test_a_state_survives_being_written_and_read(shape: StateShape) -> None:
    whole = merged(parts(3, shape))
    arrays = whole.arrays()
    back = PassState.from_arrays(whole.shape, {name: array.copy() for name, array in arrays.items()})
    assert same(back, whole)
    more = parts(3, shape)[-1]
    more.blocks = np.array([99])
    assert same(merge(back, copy.deepcopy(more)), merge(whole, more))


def test_states_that_share_a_block_or_are_of_other_dictionaries_are_not_merged() -> None:
    first, second, *_ = parts(0, SHAPE)
    with pytest.raises(IndexingError, match="Block 0 is in both"):
        merge(copy.deepcopy(first), first)
    second.shape = second.shape._replace(layers=(0, 2))
    with pytest.raises(IndexingError, match="other dictionaries"):
        merge(first, second)


def chunk_of(passages: list[np.ndarray]) -> TextChunk:
    (batch,) = batches(passages, tokens=10**7, window=10**6)
    return TextChunk([batch], 0, EDGES_OF_POSITIONS)


@given(seed=st.integers(0, 100))
def test_statistics_equal_counting_one_firing_at_a_time(seed: int) -> None:
    chunk = chunk_of(text(seed, 8))
    if not len(chunk):
        return
    found = flat_firings([code(len(chunk), seed)])
    logit_tokens = encoder(seed).logit_tokens
    statistics = ActivationStatistics(D_SAE, len(EDGES_OF_POSITIONS) - 1)
    statistics.add(found, chunk, logit_tokens)
    for feature in range(D_SAE):
        mine = found.feature == feature
        values = found.value[mine].astype(float)
        assert statistics.count[feature] == len(values)
        assert np.array_equal(
            statistics.histogram[feature], np.histogram(np.clip(values, EDGES[0], EDGES[-1] - 1), EDGES)[0]
        )
        assert np.array_equal(
            statistics.positions[feature],
            np.histogram(chunk.position[found.at[mine]], EDGES_OF_POSITIONS)[0],
        )
        assert (
            statistics.logit_hits[feature] == (chunk.following[found.at[mine]] == logit_tokens[feature]).sum()
        )
        if len(values) and np.ptp(values):
            assert statistics.max[feature] == found.value[mine].max()
            measures, deviation = statistics.measures(1), (values - values.mean()) / values.std()
            assert measures["std_activation"][feature] == pytest.approx(values.std())
            assert measures["skewness"][feature] == pytest.approx((deviation**3).mean(), abs=1e-6)
            assert measures["kurtosis"][feature] == pytest.approx((deviation**4).mean() - 3, abs=1e-6)


def moments_of(values: np.ndarray) -> tuple[float, float, float]:
    """(standard deviation, skewness, excess kurtosis) of one feature with these activations, counted in
    several parts.
    """
    statistics = ActivationStatistics(1, len(EDGES_OF_POSITIONS) - 1)
    for part in np.array_split(values, 5):
        chunk = chunk_of([np.zeros(LENGTH, np.int32)] * (len(part) // (LENGTH - 1) + 1))
        nothing = np.zeros(len(part), int)
        statistics.add(FlatFirings(nothing, np.arange(len(part)), part), chunk, np.zeros(1, int))
    measures = statistics.measures(len(values))
    return tuple(float(measures[name][0]) for name in ("std_activation", "skewness", "kurtosis"))


def slow_moments(values: np.ndarray) -> tuple[float, float, float]:
    exact = values.astype(float)
    deviation = (exact - exact.mean()) / exact.std()
    return exact.std(), (deviation**3).mean(), (deviation**4).mean() - 3


@pytest.mark.parametrize("scale", [1, 1e-4, 1e4])
def test_the_shape_of_activations_does_not_depend_on_their_scale(scale: float) -> None:
    values = (np.random.default_rng(0).lognormal(0, 0.3, 2000) * scale).astype(np.float32)
    assert moments_of(values) == pytest.approx(slow_moments(values), rel=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_shape_is_given_only_where_rounding_leaves_it(sign: int) -> None:
    draw, given = np.random.default_rng(0), []
    for spread in np.geomspace(1e-6, 1, 25):
        for level in (0.03, 1.0, 700.0):
            values = (sign * level * (1 + spread * draw.random(3000))).astype(np.float32)
            (std, skewness, kurtosis), exact = moments_of(values), slow_moments(values)
            given.append(not np.isnan(kurtosis))
            assert given[-1] == (not np.isnan(skewness))
            if given[-1]:
                assert std == pytest.approx(exact[0], rel=1e-4)
                assert (skewness, kurtosis) == pytest.approx(exact[1:], abs=0.01)
                assert skewness**2 - 2.03 <= kurtosis <= len(values)
    assert given[-24:] == [True] * 24 and not any(given[:39]), "a fiftieth is enough, a thousandth is not"
    assert np.isnan(moments_of(np.full(3000, sign * 0.1, np.float32))[0]), "equal activations have no spread"


@given(st.lists(st.floats(2**-20, 2**20, width=32), min_size=1, max_size=50))
def test_a_value_is_in_the_histogram_bin_that_its_edges_say(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = np.clip(np.searchsorted(EDGES.astype(np.float32), array, side="right") - 1, 0, len(EDGES) - 2)
    assert np.array_equal(bins(array), expected)


@given(st.lists(st.floats(0, 1e24), min_size=1, max_size=30), st.randoms())
def test_exact_sums_are_sums_and_the_same_in_any_order(values: list[float], draw: object) -> None:
    one, two, shuffled = ExactSum(1), ExactSum(1), list(values)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    for value, other in zip(values, shuffled, strict=True):
        one.add(np.array([value]))
        two.add(np.array([other]))
    assert np.array_equal(one.limbs, two.limbs)
    assert one.value()[0] == pytest.approx(sum(values), rel=1e-12, abs=1e-12)


@given(seed=st.integers(0, 200), one_a_passage=st.booleans(), ties=st.booleans())
def test_a_pool_of_best_contexts_equals_sorting_everything(
    seed: int, one_a_passage: bool, ties: bool
) -> None:
    chunk = chunk_of(text(seed, 10))
    if not len(chunk):
        return
    found = flat_firings([code(len(chunk), seed)])
    if ties:
        found = found._replace(value=np.ceil(found.value))
    pool = ContextPool(D_SAE, 5, one_a_passage=one_a_passage)
    rows = pool.candidates(found, found.value, chunk)
    chosen = found.rows(rows)
    pool.add(chosen, chosen.value, chunk, NearbyFirings(found, chunk, [chosen]))
    pool.settle()
    everything = zip(
        found.feature, -found.value, chunk.passage[found.at], chunk.position[found.at], strict=True
    )
    expected: list[tuple[int, int, int]] = []
    taken: Counter[int] = Counter()
    met: set[tuple[int, int]] = set()
    for feature, _, passage, position in sorted(everything):
        if not (one_a_passage and (feature, passage) in met) and taken[feature] < 5:
            met.add((feature, passage))
            taken[feature] += 1
            expected.append((feature, passage, position))
    assert list(zip(pool.feature, pool.passage, pool.position, strict=True)) == expected


@settings(max_examples=25)
@given(seed=st.integers(0, 200), few=st.booleans())
def test_windows_hold_the_same_features_firings_nearby_and_no_others(seed: int, few: bool) -> None:
    chunk = chunk_of([np.concatenate([p, p, p, p]) for p in text(seed, 10)])
    if not len(chunk):
        return
    found = flat_firings([code(len(chunk), seed)])
    asked = found.rows(np.arange(0, len(found.feature), 9 if few else 1))
    around = NearbyFirings(found, chunk, [asked]).windows(asked)
    passage, position = chunk.passage[found.at], chunk.position[found.at]
    for row in range(0, len(asked.feature), 5):
        here = position[found.at == asked.at[row]][0]
        close = (found.feature == asked.feature[row]) & (passage == chunk.passage[asked.at[row]])
        close &= (position >= here - 32) & (position <= here + 16)
        entries = slice(around.starts[row], around.starts[row + 1])
        assert around.positions[entries].tolist() == position[close].tolist()
        assert around.values[entries] == pytest.approx(found.value[close], rel=1e-3)


def test_the_sample_is_uniform_and_the_same_wherever_a_place_is_met() -> None:
    chunk = chunk_of([np.arange(LENGTH) for _ in range(500)])
    everywhere = FlatFirings(np.full(len(chunk), 3), np.arange(len(chunk)), np.ones(len(chunk), np.float32))
    drawn = draws(everywhere, chunk)
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(np.quantile(drawn, 0.1) - 0.1) < 0.01
    assert len(np.unique(chunk.hash)) == len(chunk)
    assert np.array_equal(draws(everywhere.rows(np.arange(7)), chunk), drawn[:7])
    assert abs((chunk.level >= 2).mean() - 0.25) < 0.02


def fired_on(tokens: list[int]) -> tuple[FlatFirings, TextChunk]:
    passages = [np.array([0, *tokens[at : at + LENGTH - 1]]) for at in range(0, len(tokens), LENGTH - 1)]
    chunk = chunk_of(passages)
    n = len(chunk)
    return FlatFirings(np.zeros(n, int), np.arange(n), np.ones(n, np.float32)), chunk


def test_the_lift_token_is_the_one_that_matters_not_the_rarest() -> None:
    counts = TokenCounts(1, VOCAB)
    counts.add(*fired_on([1] * 60 + [2] * 39 + [9]))
    occurrences = np.array([0, 600, 45, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    lift = counts.lift(np.array([1]), occurrences)
    assert (lift.token[0], lift.hits[0], lift.name_hits[0], lift.counted[0]) == (2, 39, 60, 100)


def test_tokens_of_a_feature_that_fires_on_too_many_are_counted_in_a_sample() -> None:
    tokens = np.random.default_rng(0).integers(0, 1000, 20_000)
    tokens[::4] = 7
    counts = TokenCounts(1, 1000, max_counts=200)
    counts.add(*fired_on(tokens.tolist()))
    lift = counts.lift(np.array([7]), np.full(1000, 20))
    assert len(counts.keys) <= 200 and 80 < lift.counted[0] < 20_000
    assert lift.token[0] == 7 and lift.hits[0] / lift.counted[0] == pytest.approx(0.25, abs=0.1)


def test_matches_are_the_highest_jaccards_of_shared_positions() -> None:
    mine, theirs = SampledFirings(), SampledFirings()
    pairs = {0: [(1, range(10)), (2, range(5, 15))], 1: [(7, range(9)), (8, range(3, 40)), (9, range(2))]}
    for sampled, layer in ((mine, 0), (theirs, 1)):
        sampled.hashes = np.concatenate([np.array(list(where), np.uint64) for _, where in pairs[layer]])
        sampled.features = np.concatenate(
            [np.full(len(where), feature, np.int32) for feature, where in pairs[layer]]
        )
    found = matches(mine, theirs, 4)
    assert found[1] == ([7, 8], [0.9, pytest.approx(7 / 40)])
    assert found[2] == ([8, 7], [pytest.approx(10 / 37, abs=1e-4), pytest.approx(4 / 15, abs=1e-4)])
    assert found[0] == found[3] == ([], [])


def test_passages_come_in_blocks_and_shards_divide_them() -> None:
    passages = [np.array([number]) for number in range(600)]
    numbers = [(block.number, block.first, len(block.passages)) for block in blocks(passages)]
    assert numbers == [(0, 0, 256), (1, 256, 256), (2, 512, 88)]
    shards = [parse_shard(f"{number}/3") for number in (1, 2, 3)]
    assert [[block for block in range(7) if shard.holds(block)] for shard in shards] == [
        [0, 3, 6],
        [1, 4],
        [2, 5],
    ]
    assert str(Shard(2, 3)) == "2/3"
    for wrong in ("", "0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(LexiscopeError, match="--shards"):
            parse_shard(wrong)
