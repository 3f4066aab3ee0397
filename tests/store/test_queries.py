"""What a person asks the index, and what must come back."""

import base64
import json
from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lexiscope.evidence import words_of
from lexiscope.records import FeatureRef, Filters
from lexiscope.settings import Settings
from store import BadCursor, ListedNumbers, NotFound, Store
from tests.store import synthetic

SORTS = ("match", "index", "share", "cosine", "density", "max_activation", "name")
VERDICTS = (None, "specific", "none", "dead")


def shown(store: Store, query: str, model: str = "tiny") -> list[str]:
    return [hit.token.shown for hit in store.search(query, Filters(model=model)).tokens]


def walk(store: Store, query: str | None, filters: Filters) -> list[FeatureRef]:
    """Every feature of a search (or of tiny/1-vasae, when `query` is None), page by page."""
    found: list[FeatureRef] = []
    while True:
        page = (
            store.dictionary_page("tiny", "1-vasae", filters)
            if query is None
            else store.search(query, filters)
        )
        found += page.features
        assert len(page.features) <= filters.limit
        if page.next is None:
            return found
        assert len(page.features) == filters.limit, "only the last page may be short"
        filters = filters.model_copy(update={"cursor": page.next})


def test_a_feature_named_paris_is_found_without_its_case_or_space(store: Store) -> None:
    assert {"␣Paris", "Paris", "␣paris"} <= set(shown(store, "paris")[:3])
    assert {ref.name.shown for ref in store.search("paris", Filters()).features} >= {"␣Paris", "␣paris"}


def test_the_spelling_as_typed_comes_before_its_variants(store: Store) -> None:
    for typed, first in (
        (" Paris", "␣Paris"),
        ("Paris", "Paris"),
        (" paris", "␣paris"),
        ("␣Paris", "␣Paris"),
    ):
        assert shown(store, typed)[0] == first


def test_beginnings_come_after_exact_spellings_and_before_middles(store: Store) -> None:
    assert shown(store, "paris")[3] == "␣Parisian"
    found = [text.removeprefix("␣").casefold() for text in shown(store, "a")]
    tiers = [0 if text == "a" else 1 if text.startswith("a") else 2 for text in found]
    assert tiers == sorted(tiers) and tiers[0] == 0 and tiers[-1] == 2


@pytest.mark.parametrize("character", ["a", "%", "_", "7", " ", "\n"])
def test_a_name_of_one_character_is_found(store: Store, character: str) -> None:
    assert shown(store, character)[0] == {" ": "␣", "\n": "↵"}.get(character, character)


def test_wildcards_of_the_database_are_plain_characters(store: Store) -> None:
    assert set(shown(store, "%")) == {"%", "100%"}
    assert shown(store, "_") == ["_"]
    assert shown(store, "p%s") == []


def test_a_token_is_found_by_its_id_alone(store: Store) -> None:
    page = store.search("#3", Filters(model="tiny"))
    assert [hit.token.id for hit in page.tokens] == [3] and page.match == "id"
    assert all(3 in (ref.name.id, *(word.id for word in ref.words)) for ref in page.features)
    assert len(page.features) == page.tokens[0].n_features
    assert store.search("#99999999999999", Filters()).match == "none"


def test_a_partial_character_is_found_by_its_hex(store: Store) -> None:
    assert shown(store, "E2") and shown(store, "E2")[0].startswith("⟨E2⟩")


@pytest.mark.parametrize(
    ("query", "spelled"), [(r"\n", "↵"), ("0x0A", "↵"), ("0xe2 0x80", "⟨E2⟩⟨80⟩"), (r"\xe2\x80", "⟨E2⟩⟨80⟩")]
)
def test_escapes_and_bytes_are_found_as_they_are_written_elsewhere(
    store: Store, query: str, spelled: str
) -> None:
    assert shown(store, query, model="tiny")[0] == spelled
    assert store.resolve_token("tiny", query).token.shown == spelled


def test_a_search_says_how_many_tokens_and_features_there_are(store: Store) -> None:
    filters = Filters(model="tiny", limit=50)
    page = store.search("word", filters)
    everything = walk(store, "word", filters)
    assert page.n_features == len(everything)
    found = [hit.token.id for hit in page.tokens]
    while len(found) < page.n_tokens:
        more = store.search("word", filters, tokens_from=len(found))
        assert more.tokens and more.tokens_from == len(found)
        found += [hit.token.id for hit in more.tokens]
    assert len(set(found)) == len(found) == page.n_tokens
    narrow = filters.model_copy(update={"verdict": "weak"})
    assert store.search("word", narrow).n_features == len(walk(store, "word", narrow))


def test_a_token_comes_with_the_best_feature_of_its_word_in_each_relation(store: Store) -> None:
    [hit] = store.search("#0", Filters(model="tiny")).tokens
    held = ("specific", "partial", "weak")
    word = {0, 1, 2}
    listed = [
        ref
        for ref in walk(store, "paris", Filters(model="tiny"))
        if word & {token.id for token in ref.words} and ref.verdict in held
    ]
    best = {
        relation: max(ref.share or 0 for ref in listed if ref.relation == relation)
        for relation in {str(ref.relation) for ref in listed}
    }
    assert {ref.relation: ref.share for ref in hit.best} == best


def test_a_token_that_names_nothing_is_found_and_says_so(store: Store) -> None:
    hit = store.search("7", Filters(model="tiny")).tokens[0]
    assert hit.token.shown == "7" and hit.n_features == 0


def test_a_spelling_that_names_nothing_tells_the_one_of_its_word_that_does(store: Store) -> None:
    words, seen = words_of(synthetic.spellings()), set()
    for token, word in enumerate(words.tolist()):
        [hit] = store.search(f"#{token}", Filters(model="tiny")).tokens
        forms = [
            store.search(f"#{form}", Filters(model="tiny")).tokens[0] for form in (words == word).nonzero()[0]
        ]
        naming = [form for form in forms if form.n_features]
        best = max(naming, key=lambda form: (form.count, -form.token.id), default=None)
        expected = None if hit.n_features or best is None else best.token
        assert hit.spelling == expected
        seen.add((bool(hit.n_features), expected is None))
    assert seen == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize(
    "query", ["", "zzzz", "<b>nothing</b>", "x" * 5000, "\x00", "#", "'; DROP TABLE feature; --"]
)
def test_a_search_that_finds_nothing_is_an_empty_page(store: Store, query: str) -> None:
    page = store.search(query, Filters())
    assert (page.match, page.tokens, page.features, page.next) == ("none", [], [], None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=8))
def test_any_text_can_be_searched(store: Store, query: str) -> None:
    page = store.search(query, Filters(limit=5))
    assert (page.match == "none") == (not page.tokens)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.sampled_from([None, "word", "paris", "a", "#0"]),
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    limit=st.integers(7, 200),
    verdict=st.sampled_from(VERDICTS),
    live=st.sampled_from([None, True, False]),
    min_cosine=st.sampled_from([None, 0.5]),
    relation=st.sampled_from([None, "after"]),
    min_share=st.sampled_from([None, 0.6]),
)
def test_a_walk_by_cursor_is_the_whole_list_once_in_order(
    store: Store, query: str | None, sort: str, limit: int, **rest: object
) -> None:
    filters = Filters.model_validate({"sort": sort, "limit": limit, **rest})
    found = walk(store, query, filters)
    assert len({ref.id for ref in found}) == len(found)
    entries = synthetic.USUAL if query is not None else [synthetic.Dictionary("tiny", 1)]
    everything = {
        f"{e.model}/{e.source}/{i}": store_ref(store, e, i) for e in entries for i in range(e.d_sae)
    }
    named = {hit.token.id for hit in store.search(query, Filters(limit=200)).tokens} if query else None
    if query in ("word", "a"):
        word = str(query)
        named = {
            i
            for i, raw in enumerate(synthetic.spellings())
            if word in raw.decode(errors="replace").casefold()
        }
    by_anchor = rest["relation"] is None  # a relation is one to a word that was found
    wanted = {
        ref.id
        for ref in everything.values()
        if (named is None or named & {word.id for word in ref.words} or (by_anchor and ref.name.id in named))
        and (rest["relation"] is None or ref.relation == rest["relation"])
        and (rest["min_share"] is None or (ref.share or 0) >= float(str(rest["min_share"])))
        and (rest["verdict"] is None or ref.verdict == rest["verdict"])
        and (rest["live"] is None or (ref.density > 0) == rest["live"])
        and (rest["min_cosine"] is None or ref.cosine >= float(str(rest["min_cosine"])))
    }
    assert {ref.id for ref in found} == wanted
    if sort in ("cosine", "density", "share"):
        values = [getattr(ref, sort) or 0 for ref in found]
        assert values == sorted(values, reverse=bool(rest["descending"]))


REFS: dict[str, FeatureRef] = {}


def store_ref(store: Store, entry: synthetic.Dictionary, index: int) -> FeatureRef:
    """Read feature by feature, in batches: the slow way to the same list."""
    key = f"{entry.model}/{entry.source}/{index}"
    if key not in REFS:
        ids = [f"{entry.model}/{entry.source}/{i}" for i in range(entry.d_sae)]
        for start in range(0, len(ids), 64):
            REFS.update({ref.id: ref for ref in store.feature_refs(ids[start : start + 64])})
    return REFS[key]


def test_a_cursor_of_another_build_is_refused(store: Store) -> None:
    cursor = store.search("word", Filters(limit=5)).next
    assert cursor is not None
    build, *rest = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    assert build == store.build_id()
    stale = base64.urlsafe_b64encode(json.dumps(["20200101T000000-abcdef", *rest]).encode()).decode()
    with pytest.raises(BadCursor, match="of another index build"):
        store.search("word", Filters(limit=5, cursor=stale))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cursor=st.text(min_size=1, max_size=30)
    | st.binary(min_size=1).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
)
def test_a_broken_cursor_is_refused_as_such(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursor):
        store.search("word", Filters(cursor=cursor))


def test_a_cursor_of_another_search_is_refused(store: Store) -> None:
    cursor = store.search("word", Filters(limit=5)).next
    for query, filters in (("a", Filters(cursor=cursor)), ("word", Filters(cursor=cursor, live=True))):
        with pytest.raises(BadCursor, match="another search"):
            store.search(query, filters)


def test_a_token_page_has_an_entry_for_every_dictionary_of_its_model(store: Store) -> None:
    page = store.token_page("tiny", 0)
    assert [(layer.layer, layer.source) for layer in page.layers] == [
        (0, "0-vasae"),
        (1, "1-plain"),
        (1, "1-vasae"),
        (2, "2-vasae"),
    ]
    refs = [ref for layer in page.layers for ref in layer.features]
    assert all(ref.name.id == 0 or {word.id for word in ref.words} & {0, 1, 2} for ref in refs)
    assert {hit.token.shown for hit in page.variants} == {"Paris", "␣paris"}
    silent = store.token_page("tiny", synthetic.SILENT)
    assert all(layer.features == [] and layer.best_cosine is None for layer in silent.layers)


def test_a_feature_page_shows_each_context_around_its_position(store: Store) -> None:
    feature = store.feature("tiny", "1-vasae", 6).feature
    assert [context.kind for context in feature.contexts] == ["top"] * 4 + ["quantile"] * 4 + [
        "near_miss"
    ] * 4
    for context in feature.contexts:
        assert len(context.values) == len(context.tokens)
        assert context.values[context.position] == (0 if context.kind == "near_miss" else context.value)
    assert feature.histogram.zeros + sum(feature.histogram.counts) == feature.n_tokens
    assert {ref.source for ref in feature.previous_layer} == {"0-vasae"} and {
        ref.source for ref in feature.next_layer
    } == {"2-vasae"}


def test_a_feature_page_shows_moments_positions_causal_evidence_and_coactivation(store: Store) -> None:
    feature = store.feature("tiny", "1-vasae", 6).feature
    assert feature.moments is not None and feature.moments.mean == feature.mean_activation
    assert feature.positions.edges == synthetic.POSITION_EDGES and feature.positions.counts == [0, 1, 6, 0]
    assert feature.evidence is not None and feature.evidence.causal is not None
    assert (feature.evidence.causal.n_contexts, feature.evidence.causal.median_rank) == (6 % 4 + 1, 6)
    assert feature.evidence.input_score is not None and feature.evidence.output_score is not None
    assert [ref.index for ref in feature.previous_coactive] == [ref.index for ref in feature.previous_layer][
        ::-1
    ]
    assert {ref.source for ref in feature.next_coactive} == {"2-vasae"}
    assert store.feature("tiny", "1-vasae", 0).feature.moments is None, "one firing has no spread"
    untested = store.feature("other", "0-vasae", 6).feature.evidence
    assert untested is not None and (untested.causal, untested.input_score, untested.output_score) == (
        None,
        None,
        None,
    )


def test_a_dictionary_page_shows_its_hubs_and_how_it_was_tested(store: Store) -> None:
    page = store.dictionary_page("tiny", "1-vasae", Filters())
    counts = [hub.n_near for hub in page.hub_tokens]
    assert counts == sorted(counts, reverse=True) and counts[-1] > 1
    assert page.causal == {"contexts": 4, "strength": 0.5} and page.summary.architecture == "topk"
    assert store.dictionary_page("other", "0-vasae", Filters()).causal is None
    norms = {place.model: place.mean_norm for place in store.dictionaries()}
    assert norms == {"tiny": 4.0, "other": None}


def test_a_search_lists_the_features_of_a_word_by_size_then_those_of_the_anchor(store: Store) -> None:
    page = store.search("#0", Filters(model="tiny", limit=200))
    by_word = [0 in {word.id for word in ref.words} for ref in page.features]
    assert by_word == sorted(by_word, reverse=True) and True in by_word and False in by_word
    held = [ref for ref in page.features if ref.verdict in ("specific", "partial", "weak") and ref.words]
    shares = [ref.share for ref in held if 0 in {word.id for word in ref.words}]
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]


def test_forms_of_a_word_are_found_together(store: Store) -> None:
    tokens = [hit.token.shown for hit in store.search("paris", Filters(model="tiny")).tokens]
    assert tokens[:3] == ["␣Paris", "Paris", "␣paris"]
    page = store.token_page("tiny", 2)
    refs = [ref for layer in page.layers for ref in layer.features]
    assert any(word.id == 0 for ref in refs for word in ref.words), "Paris and paris are one word"
    assert all(ref.name.id == 2 or {word.id for word in ref.words} & {0, 1, 2} for ref in refs)
    assert len({ref.id for ref in refs}) == len(refs)
    assert {hit.token.id for hit in page.variants} == {0, 1}


def test_a_feature_has_its_relation_with_how_it_was_judged(store: Store) -> None:
    feature = store.feature("tiny", "1-vasae", 6).feature
    fires = feature.fires
    assert fires is not None and fires.relation == "before" and feature.verdict == "partial"
    assert [word.score for word in fires.words] == [0.5] and fires.judged_firings == 26
    untested = store.feature("tiny", "1-vasae", 4).feature
    assert untested.fires is None and untested.verdict == "untested"


def test_a_feature_that_never_fired_has_no_evidence(store: Store) -> None:
    dead = store.feature("tiny", "1-vasae", 9).feature
    assert dead.evidence is None and dead.verdict == "dead" and dead.contexts == []


def test_what_does_not_exist_is_refused_with_what_does(store: Store) -> None:
    for ask, says in (
        (lambda: store.feature("tiny", "1-vasae", 200), "200 features, 0 to 199"),
        (lambda: store.feature("tiny", "9-vasae", 0), "0-vasae, 1-plain, 1-vasae, 2-vasae"),
        (lambda: store.token_page("huge", 0), "other, tiny"),
        (lambda: store.token_page("tiny", 300), "0 to 299"),
        (lambda: store.feature_refs(["tiny/1-vasae"]), "model/source/index"),
        (lambda: store.resolve_token("tiny", "Pari"), "␣Paris"),
        (lambda: store.resolve_token("tiny", 0, layer=7), "layers 0, 1, 2"),
        (lambda: store.search("a", Filters(model="huge")), "other, tiny"),
    ):
        with pytest.raises(NotFound, match=says):
            ask()


def test_a_feature_without_a_row_is_not_found_and_skipped_by_the_list(place: Settings) -> None:
    synthetic.publish(place, [synthetic.Dictionary("tiny", 0, d_sae=40, without=(9, 39))])
    store = Store(place)
    for ask in (
        lambda: store.feature("tiny", "0-vasae", 9),
        lambda: store.feature_refs(["tiny/0-vasae/8", "tiny/0-vasae/9"]),
    ):
        with pytest.raises(NotFound, match="tiny/0-vasae was indexed without feature 9"):
            ask()
    for index, around in ((0, (None, 1, 0)), (8, (7, 10, 8)), (10, (8, 11, 9)), (38, (37, None, 37))):
        at = store.feature("tiny", "0-vasae", index).place
        assert (at.previous, at.next, at.position) == around and at.total == 38
    store.close()


def test_where_no_feature_is_live_a_random_one_has_a_row(place: Settings) -> None:
    dead_alone = tuple(index for index in range(40) if index != 19)
    synthetic.publish(place, [synthetic.Dictionary("tiny", 0, d_sae=40, without=dead_alone)])
    store = Store(place)
    assert {store.random_feature().index for _ in range(10)} == {19}
    store.close()


def test_a_name_resolves_to_the_features_of_that_anchor_the_dead_last(store: Store) -> None:
    for wanted in (" Paris", "␣Paris", 0, "#0"):
        resolved = store.resolve_token("tiny", wanted, layer=1)
        assert resolved.token.id == 0 and {ref.layer for ref in resolved.features} == {1}
        assert {ref.name.id for ref in resolved.features} == {0}
        dead = [ref.verdict == "dead" for ref in resolved.features]
        assert dead == sorted(dead)
    assert store.resolve_token("tiny", "7").features == []


def test_a_tokens_row_is_shown_in_the_dictionaries_that_were_trained_on_it(store: Store) -> None:
    there, missing = store.token_page("tiny", 3), store.token_page("tiny", 4)
    rows = {layer.source: layer.row for layer in there.layers}
    assert rows.keys() == {"0-vasae", "1-vasae", "2-vasae", "1-plain"} and rows["1-plain"] is None
    row = rows["1-vasae"]
    assert row is not None and row.trained_on == 31 and row.norm == 0.5
    assert [(near.id, near.score) for near in row.neighbours] == [(6, 0.75), (9, 0.5), (12, 0.25)]
    assert [(token.id, token.score) for token in row.raises] == [(3, 2.0)] and row.own_rank == 0
    assert all(layer.row is None for layer in missing.layers)


def test_a_random_feature_is_live(store: Store) -> None:
    assert all(store.random_feature().verdict != "dead" for _ in range(20))


@pytest.mark.parametrize(
    ("page", "most"),
    [
        (lambda store: store.feature("tiny", "1-vasae", 6), 3),
        (lambda store: store.token_page("tiny", 0), 3),
        (lambda store: store.search("word", Filters()), 3),
        (lambda store: store.dictionary_page("tiny", "1-vasae", Filters(sort="cosine")), 2),
    ],
    ids=["feature", "token", "search", "dictionary"],
)
def test_a_page_costs_a_bounded_number_of_statements(
    store: Store, page: Callable[[Store], object], most: int
) -> None:
    """Counted the second time: what a build keeps in memory (vocabulary, shared anchors) is then there."""
    page(store)
    with store.snapshot() as snapshot:
        statements: list[str] = []
        engine = snapshot._build.engine
        sa.event.listen(engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
        page(store)
    assert 0 < len(statements) <= most, statements


def test_examples_are_content_words_of_specific_features_beyond_the_commonest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.snapshot() as snapshot:
        build = snapshot._build
        build._cache.pop("examples", None)
        monkeypatch.setattr("store.read.examples.COMMONEST", 10_000)
        usual = store.home().example_tokens
        assert usual, "where all words are among the commonest, these"
        entries = build.vocabulary(build.models[0]).entries
        most = sorted((entry.occurrences for entry in entries), reverse=True)[20]
        rare = {entry.token.id for entry in entries if entry.occurrences <= most}
        for name, value in (("COMMONEST", 20), ("FUNCTION_WORDS", {usual[0].shown.strip("␣")})):
            build._cache.pop("examples")
            monkeypatch.setattr(f"store.read.examples.{name}", value)
            found = store.home().example_tokens
            assert found and {token.id for token in found} <= rare and usual[0] not in found
        build._cache.pop("examples")


WANTED = Filters(sort="skewness", descending=True, where="name_rank < 30, recall > 0.1", limit=7)


def test_a_list_is_sorted_and_filtered_by_any_number(store: Store) -> None:
    numbers = {one.feature.id: one.numbers for one in whole(store, Filters())}
    found = [one.feature.id for one in whole(store, WANTED)]
    meets = [
        name
        for name, values in numbers.items()
        if (values["name_rank"] or 0) < 30 and (values["recall"] or 0) > 0.1
    ]
    assert 0 < len(found) < len(numbers) and set(found) == set(meets)
    skewness = [numbers[name]["skewness"] for name in found]
    measured = [value for value in skewness if value is not None]
    assert measured == sorted(measured, reverse=True)
    assert None not in skewness[: len(measured)], "what was not measured is last"


@pytest.mark.parametrize(
    ("query", "narrow"),
    [
        ("word", {}),
        ("paris", {"limit": 2}),
        ("a", {"verdict": "weak", "limit": 3}),
        ("word", {"sort": "cosine"}),
    ],
)
def test_a_search_goes_back_through_the_pages_that_it_went_forth(
    store: Store, query: str, narrow: dict[str, object]
) -> None:
    filters = Filters.model_validate({"limit": 7, **narrow})
    forth = [store.search(query, filters)]
    while forth[-1].next:
        forth.append(store.search(query, filters.model_copy(update={"cursor": forth[-1].next})))
    assert len(forth) > 2 and forth[0].previous is None
    starts = [sum(len(page.features) for page in forth[:number]) for number in range(len(forth))]
    assert [page.features_from for page in forth] == starts
    page = forth[-1]
    for expected in reversed(forth[:-1]):
        assert page.previous is not None
        page = store.search(query, filters.model_copy(update={"cursor": page.previous}))
        assert (page.features, page.features_from) == (expected.features, expected.features_from)
    assert page.previous is None
    assert store.search(query, filters.model_copy(update={"cursor": page.next})).features == forth[1].features


def test_pages_go_forth_and_back_and_say_where_they_are(store: Store) -> None:
    everything = [one.feature.index for one in whole(store, WANTED)]
    pages, filters = [], WANTED
    while True:
        page = store.dictionary_page("tiny", "1-vasae", filters)
        pages.append([ref.index for ref in page.features])
        assert everything[page.start : page.start + len(page.features)] == pages[-1]
        assert page.counts.total == len(everything)
        if page.next is None:
            break
        filters = filters.model_copy(update={"cursor": page.next})
    assert [index for shown in pages for index in shown] == everything
    for shown in pages[-2::-1]:
        assert page.previous is not None
        page = store.dictionary_page("tiny", "1-vasae", WANTED.model_copy(update={"cursor": page.previous}))
        assert [ref.index for ref in page.features] == shown
    assert page.previous is None and page.start == 0


def test_a_feature_knows_its_neighbours_in_the_list_it_was_opened_from(store: Store) -> None:
    everything = [one.feature.index for one in whole(store, WANTED)]
    for position in (0, 5, len(everything) - 1):
        place = store.feature("tiny", "1-vasae", everything[position], WANTED).place
        assert (place.position, place.total) == (position, len(everything))
        assert place.previous == (everything[position - 1] if position else None)
        assert place.next == (everything[position + 1] if position + 1 < len(everything) else None)
    place = store.feature("tiny", "1-vasae", 199).place
    assert (place.previous, place.next, place.position, place.total) == (198, None, 199, 200)


def test_counts_say_what_another_choice_would_give(store: Store) -> None:
    counts = store.dictionary_page("tiny", "1-vasae", Filters(verdict="weak", relation="after")).counts
    for verdict, n in counts.verdict.items():
        other = Filters.model_validate({"verdict": verdict, "relation": "after"})
        assert len(whole(store, other)) == n
    assert counts.total == counts.verdict["weak"] == counts.relation["after"]
    holds = store.dictionary_page("tiny", "1-vasae", Filters(holds=True)).counts
    assert holds.total == holds.verdict["specific"] + holds.verdict["partial"]


def test_anchors_are_counted_as_a_slow_count_does(store: Store) -> None:
    page = store.anchor_page("tiny", "1-vasae", "near", start=0, limit=1000)
    assert len(page.anchors) == page.total
    features = [store.feature("tiny", "1-vasae", index).feature for index in range(200)]
    names = Counter(feature.name.id for feature in features)
    live = [feature for feature in features if feature.live]
    near = Counter(token.id for feature in live for token in (feature.name, *feature.next_names))
    assert {a.token.id: a.n_features for a in page.anchors if a.n_features} == names
    assert {a.token.id: a.n_near for a in page.anchors if a.n_near} == near
    some = store.anchor_page("tiny", "1-vasae", "near", start=5, limit=3)
    assert some.anchors == page.anchors[5:8]
    beyond = store.anchor_page("tiny", "1-vasae", "near", start=5000, limit=3)
    assert beyond.anchors == [] and beyond.total == page.total


def whole(store: Store, filters: Filters) -> list[ListedNumbers]:
    return [one for piece in store.whole_list("tiny", "1-vasae", filters) for one in piece]


def test_rows_of_a_look_up_find_words_of_which_they_are_the_commonest_spelling(store: Store) -> None:
    vocabulary = synthetic.token_table("tiny").to_pylist()
    having = set(synthetic.token_row_table(0, synthetic.Dictionary("tiny", 0))["token_id"].to_pylist())
    words = {row["word"] for row in vocabulary}
    found, often = 0, 0
    for word in words:
        counts = {row["token_id"]: row["count"] for row in vocabulary if row["word"] == word}
        if (total := sum(counts.values())) >= 10:
            often += 1
            # a row fires on all occurrences of its token: precision 1, recall its share of the word
            recalls = [count / total for token, count in counts.items() if token in having]
            found += any(2 * recall / (1 + recall) >= 0.5 for recall in recalls)
    model = next(one for one in store.home().models if one.model == "tiny")
    shares = {layer.source: layer.finds_rows for layer in model.layers}
    assert 0 < found < often
    assert shares["1-vasae"] == pytest.approx(found / often) and shares["1-plain"] is None
