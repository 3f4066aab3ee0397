"""Tokens that a person may mean who has begun to type one."""

import heapq
from collections.abc import Iterator
from itertools import islice

from lexiscope.records import TokenList
from store.read.open_build import OpenBuild
from store.read.search import hit
from store.read.vocabulary import MATCHES, SearchVocabulary, parse

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r"}
"""white space that a field of one line cannot hold, as it is written in most languages"""


def completions(build: OpenBuild, model: str, prefix: str, *, limit: int) -> TokenList:
    """The tokens that begin with `prefix`, case and outer space aside; without a prefix, the most frequent
    ones. A prefix that begins with a space wants tokens that do. Raises NotFound.
    """
    build.of_model(model)
    vocabulary = build.vocabulary(model)
    places = _places(vocabulary, prefix) if prefix else iter(range(len(vocabulary.entries)))
    tokens = [hit(model, vocabulary.entries[place]) for place in islice(places, limit)]
    return TokenList(build=build.id, model=model, prefix=prefix, tokens=tokens)


def _places(vocabulary: SearchVocabulary, prefix: str) -> Iterator[int]:
    """Places of tokens, each once: the whole spelling, beginnings, an id; by occurrences within each."""
    seen: set[int] = set()
    for found in _tiers(vocabulary, prefix):
        for place in found:
            if place not in seen:
                seen.add(place)
                yield place


def _tiers(vocabulary: SearchVocabulary, prefix: str) -> Iterator[Iterator[int]]:
    """Places that match, best tier first. `prefix` is also read with its escapes as white space."""
    unescaped = prefix
    for written, meant in ESCAPES.items():
        unescaped = unescaped.replace(written, meant)
    for text in dict.fromkeys((unescaped, prefix)):
        query = parse(text)
        if query is None:
            continue
        spelled, folded, *others = vocabulary.matches(query)
        by_id, beginning = (others[MATCHES.index(kind) - 2] for kind in ("id", "prefix"))
        spaced = bool(query.folded) and query.shown.startswith("␣")
        for tier in (heapq.merge(spelled, folded), beginning, by_id):
            yield (place for place in tier if _begins_with_space(vocabulary, place)) if spaced else tier


def _begins_with_space(vocabulary: SearchVocabulary, place: int) -> bool:
    return vocabulary.entries[place].token.shown.startswith("␣")
