"""Search by name: a query matches tokens, and these name features, by a relation or as the nearest anchor.

A query is text as a person types it, including a leading space; marks (␣ ↵ ⇥) are read as the characters they
stand for. Tiers of matches, best first: the spelling itself; the same but for case and outer space; other
tokens of the same word (inflections), because a word is shown by its commonest token; a token
id (`#123`, or a bare number); beginnings; the middle of a token. Within a tier frequent tokens come first,
and within a token the features of the largest share in relation to it. For features, all exact matches
are one tier: `she` typed without its space is mostly meant as a word.
"""

import heapq
import re
from collections.abc import Iterator
from itertools import groupby, islice
from typing import NamedTuple

from lexiscope import tokens
from lexiscope.records import Filters, SearchPage, Token, TokenHit
from store.errors import NotFound
from store.read import cursors
from store.read.cursors import SortKey, Value
from store.read.listing import (
    BY_RELATION,
    LISTING,
    TOKEN_PLACE,
    UNIQUE,
    FeatureList,
    ListedFeature,
    NameFilter,
    filtered_dictionaries,
    list_features,
    list_mark,
    rows_of,
)
from store.read.open_build import OpenBuild
from store.read.vocabulary import MATCHES, VocabularyEntry, parse, unmarked

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


def search(build: OpenBuild, query: str, filters: Filters) -> SearchPage:
    """`/search`. A query that is empty or matches nothing gives an empty page. Raises NotFound, BadCursor."""
    if filters.model is not None:
        build.of_model(filters.model)
    first = list(islice(matches(build, query, filters.model), filters.limit))
    if not first:
        return SearchPage(
            build=build.id, query=query, match="none", filters=filters, tokens=[], features=[], next=None
        )
    if filters.sort == "match":
        listed = _best_first(build, query, filters)
    else:
        names = NameFilter()
        for match in matches(build, query, filters.model):
            names.add(match.model, match.entry)
        listed = list_features(build, filters, names=names, query=query)
    return SearchPage.model_validate(
        {
            "build": build.id,
            "query": query,
            "match": MATCHES[first[-1].tier],
            "filters": filters,
            "tokens": [hit(match.model, match.entry) for match in first],
            "features": listed.features,
            "next": listed.next,
        }
    )


def matches(build: OpenBuild, query: str, model: str | None) -> Iterator[TokenMatch]:
    """The tokens that match, best first, each once."""
    parsed = parse(query)
    if parsed is None:
        return
    vocabularies = {name: build.vocabulary(name) for name in (build.models if model is None else [model])}
    tiers = {name: vocabulary.matches(parsed) for name, vocabulary in vocabularies.items()}
    seen: set[tuple[str, int]] = set()
    for tier in range(len(MATCHES)):
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
    mark = list_mark(filters, query)
    beyond: list[Value] | None = None
    if filters.cursor:
        kinds = [int, *(key.kind for key in BEST_FIRST)]
        beyond = cursors.decode(filters.cursor, build=build.id, mark=mark, kinds=kinds)
    entries = filtered_dictionaries(build, filters)
    wanted, found = filters.limit + 1, list[ListedFeature]()
    for tier, names, earlier in _portions(build, query, filters.model, beyond, room=NAMES * wanted):
        after = beyond[1:] if beyond is not None and tier == beyond[0] else None
        rows = rows_of(
            build,
            entries,
            filters,
            BEST_FIRST,
            beyond=after,
            names=names,
            limit=wanted - len(found),
            earlier=earlier,
        )
        found += [ListedFeature(row.feature, [tier, *row.key]) for row in rows]
        if len(found) == wanted:
            break
    shown = found[: filters.limit]
    more = cursors.encode(build=build.id, mark=mark, values=shown[-1].key) if len(found) == wanted else None
    return FeatureList([row.feature for row in shown], more)


def _portions(
    build: OpenBuild, query: str, model: str | None, beyond: list[Value] | None, *, room: int
) -> Iterator[tuple[int, NameFilter, NameFilter]]:
    """(tier, names, earlier names) of each statement: tokens that name something, from the cursor on, of one
    tier each; tokens of one place are never divided.
    """
    start = (-1, -1) if beyond is None else (int(beyond[0]), int(beyond[1]))
    naming = (match for match in matches(build, query, model) if match.entry.n_features)
    earlier = NameFilter()
    for tier, of_tier in groupby(naming, key=lambda match: MATCHES.index(MATCHES[match.tier])):
        names, ordered = NameFilter(), iter(of_tier)
        if MATCHES[tier] == "exact":
            ordered = iter(sorted(ordered, key=lambda match: match.place))
        for place, of_place in groupby(ordered, key=lambda match: match.place):
            for match in of_place:
                (names if (tier, place) >= start else earlier).add(match.model, match.entry)
            if names.n_features >= room:
                yield tier, names, earlier
                earlier.join(names)
                names, room = NameFilter(), room * GROWTH
        if names.tokens:
            yield tier, names, earlier
            earlier.join(names)


def hit(model: str, entry: VocabularyEntry) -> TokenHit:
    return TokenHit(model=model, token=entry.token, count=entry.occurrences, n_features=entry.n_features)


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
    exact = vocabulary.spelled(tokens.shown(unmarked(wanted).encode(errors="replace")))
    if exact:
        return exact[0]
    near = [match.entry.token.shown for match in islice(matches(build, wanted, model), 5)]
    hint = f": near it are {', '.join(near)}" if near else ": a token is spelled exactly, with its space"
    raise NotFound(f"{wanted!r} is not one token of {model}{hint}")
