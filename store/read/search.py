"""Search by name: a query matches tokens, and these name features, by a relation or as the nearest anchor.

A query is text as a person types it, including a leading space; marks (␣ ↵ ⇥) are read as the characters they
stand for, `\\n` is a line break and `0x0A` a byte. Tiers of matches, best first: the spelling itself; the
same but for case and outer space; other tokens of the same word (inflections), because a word is shown by its
commonest token; a token id (`#123`, or a bare number); beginnings; the middle of a token. Within a tier
frequent tokens come first, and within a token the features of the largest share in relation to it. For
features, all exact matches are one tier: `she` typed without its space is mostly meant as a word.
"""

import heapq
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, takewhile
from operator import attrgetter
from typing import NamedTuple

from lexiscope.records import Filters, SearchPage, Token
from store.errors import NotFound
from store.read import cursors
from store.read.best_features import with_best
from store.read.cursors import SortKey
from store.read.listing import (
    BY_RELATION,
    LISTING,
    TOKEN_PLACE,
    UNIQUE,
    FeatureList,
    ListedFeature,
    NameFilter,
    count_features,
    filtered_dictionaries,
    list_features,
    list_mark,
    one_page,
    rows_of,
)
from store.read.open_build import OpenBuild
from store.read.vocabulary import MATCHES, VocabularyEntry, parse

NAMES = 2
"""Names of a feature that one query may match, about; the feature is listed once."""
GROWTH = 8
"""The first statement looks at as many features as fit on the page; where filters leave too few, each further
statement looks at GROWTH times as many.
"""


class TokenMatch(NamedTuple):
    tier: int
    """index into MATCHES"""
    place: int
    """the token's rank by occurrences in its model"""
    model: str
    entry: VocabularyEntry


def search(build: OpenBuild, query: str, filters: Filters, *, tokens_from: int = 0) -> SearchPage:
    """`/search`, with the tokens after the first `tokens_from`. A query that is empty or matches nothing
    gives an empty page. Raises NotFound, BadCursor.
    """
    filtered_dictionaries(build, filters)
    shown = list(
        islice(matches(build, query, filters.model, filters.match), tokens_from, tokens_from + filters.limit)
    )
    names, n_tokens = build.remembered(
        ("names", query, filters.model, filters.match), lambda: _all_names(build, query, filters)
    )
    if not n_tokens:
        listed, n_features = FeatureList([]), 0
    else:
        listed = (
            _best_first(build, query, filters)
            if filters.sort == "match"
            else list_features(build, filters, names=names, query=query)
        )
        n_features = build.remembered(
            ("features", list_mark(filters, query)), lambda: count_features(build, filters, names)
        )
    return SearchPage.model_validate(
        {
            "build": build.id,
            "query": query,
            "match": MATCHES[shown[-1].tier] if shown else "none",
            "filters": filters,
            "n_tokens": n_tokens,
            "tokens_from": tokens_from,
            "tokens": with_best(build, [(match.model, match.entry) for match in shown]),
            "n_features": n_features,
            "features": listed.features,
            "features_from": listed.start,
            "next": listed.next,
            "previous": listed.previous,
        }
    )


def _all_names(build: OpenBuild, query: str, filters: Filters) -> tuple[NameFilter, int]:
    """All tokens that match and name something, and how many match."""
    names, n_tokens = NameFilter(), 0
    for match in matches(build, query, filters.model, filters.match):
        names.add(match.model, match.entry)
        n_tokens += 1
    return names, n_tokens


def matches(
    build: OpenBuild, query: str, model: str | None, loosest: str = "substring"
) -> Iterator[TokenMatch]:
    """The tokens that match, not looser than `loosest` of MATCHES, best first, each once."""
    parsed = parse(query)
    vocabularies = {name: build.vocabulary(name) for name in (build.models if model is None else [model])}
    tiers = {name: vocabulary.matches(parsed) for name, vocabulary in vocabularies.items()}
    seen: set[tuple[str, int]] = set()
    last = max(tier for tier, kind in enumerate(MATCHES) if kind == loosest)
    if loosest == "exact" and query.startswith("#"):
        last = MATCHES.index("id")
    for tier in range(last + 1):
        for place, name in heapq.merge(*(_with(tiers[name][tier], name) for name in tiers)):
            if (name, place) not in seen:
                seen.add((name, place))
                yield TokenMatch(tier, place, name, vocabularies[name].entries[place])


def _with(places: Iterator[int], name: str) -> Iterator[tuple[int, str]]:
    return ((place, name) for place in places)


BEST_FIRST = (
    SortKey(TOKEN_PLACE),
    SortKey(BY_RELATION, descending=True),
    SortKey(LISTING.effect, descending=True),
    SortKey(LISTING.cosine, descending=True),
    *UNIQUE,
)


def _best_first(build: OpenBuild, query: str, filters: Filters) -> FeatureList:
    """Features in the order of the tokens that name them, a few tokens at a time until the page is full."""
    mark, at = list_mark(filters, query), None
    if filters.cursor:
        kinds = [int, *(key.kind for key in BEST_FIRST)]
        at = cursors.decode(filters.cursor, build=build.id, mark=mark, kinds=kinds)
    entries = filtered_dictionaries(build, filters)
    wanted, found = filters.limit + 1, list[ListedFeature]()
    back = at is not None and at.back
    portions = _before if back else _from
    order = [key.reversed() for key in BEST_FIRST] if back else BEST_FIRST
    where = None if at is None else (int(at.values[0]), int(at.values[1]))
    for tier, names, earlier in portions(_groups(build, query, filters), where, NAMES * wanted):
        after = at.values[1:] if at is not None and tier == at.values[0] else None
        rows = rows_of(
            build,
            entries,
            filters,
            order,
            beyond=after,
            names=names,
            limit=wanted - len(found),
            earlier=earlier,
        )
        found += [ListedFeature(row.feature, [tier, *row.key]) for row in rows]
        if len(found) == wanted:
            break
    return one_page(build, found, at, filters, mark)


class _Group(NamedTuple):
    """The matches of one place of a tier, of all models, that name something; they are never divided."""

    tier: int
    place: int
    matches: list[TokenMatch]

    def add_to(self, names: NameFilter) -> None:
        for match in self.matches:
            names.add(match.model, match.entry)


Portions = Iterator[tuple[int, NameFilter, NameFilter]]
"""(tier, names, earlier names) of each statement"""


def _groups(build: OpenBuild, query: str, filters: Filters) -> Iterator[_Group]:
    matching = matches(build, query, filters.model, filters.match)
    naming = (match for match in matching if match.entry.n_features)
    for tier, of_tier in groupby(naming, key=lambda match: MATCHES.index(MATCHES[match.tier])):
        exact = MATCHES[tier] == "exact"
        for place, of_place in groupby(_by_place(of_tier) if exact else of_tier, key=attrgetter("place")):
            yield _Group(tier, place, list(of_place))


def _by_place(found: Iterable[TokenMatch]) -> list[TokenMatch]:
    return sorted(found, key=attrgetter("place"))


def _from(groups: Iterable[_Group], start: tuple[int, int] | None, room: int) -> Portions:
    """The groups from `start` (tier, place) on, in portions of one tier each."""
    earlier = NameFilter()
    for tier, of_tier in groupby(groups, key=lambda group: group.tier):
        names = NameFilter()
        for group in of_tier:
            group.add_to(earlier if start is not None and (tier, group.place) < start else names)
            if names.n_features >= room:
                yield tier, names, earlier
                earlier.join(names)
                names, room = NameFilter(), room * GROWTH
        if names.tokens:
            yield tier, names, earlier
            earlier.join(names)


def _before(groups: Iterable[_Group], end: tuple[int, int] | None, room: int) -> Portions:
    """The groups up to `end` (tier, place), the last first."""
    known = list(takewhile(lambda group: end is None or (group.tier, group.place) <= end, groups))
    while known:
        tier, names = known[-1].tier, NameFilter()
        while known and known[-1].tier == tier and names.n_features < room:
            known.pop().add_to(names)
        earlier = NameFilter()
        for group in known:
            group.add_to(earlier)
        yield tier, names, earlier
        room *= GROWTH


def find_token(build: OpenBuild, model: str, wanted: str | int) -> Token:
    """A token by id, by `#id`, or by its exact text (marks allowed). Raises NotFound, with
    similar spellings.
    """
    build.of_model(model)
    if isinstance(wanted, int):
        return build.token(model, wanted)
    vocabulary = build.vocabulary(model)
    if re.fullmatch(r"#[0-9]{1,10}", wanted) and not vocabulary.spelled(wanted):
        return build.token(model, int(wanted[1:]))
    for reading in parse(wanted):
        if exact := vocabulary.spelled(reading.shown):
            return exact[0]
    near = [match.entry.token.shown for match in islice(matches(build, wanted, model), 5)]
    hint = f": near it are {', '.join(near)}" if near else ": a token is spelled exactly, with its space"
    raise NotFound(f"{wanted!r} is not one token of {model}{hint}")
