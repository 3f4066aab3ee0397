"""Tokens that a person may mean who has begun to type one."""

import heapq
from collections.abc import Iterator
from itertools import islice

from lexiscope.records import TokenList
from store.read.best_features import with_best
from store.read.open_build import OpenBuild
from store.read.vocabulary import MATCHES, SearchVocabulary, parse


def completions(build: OpenBuild, model: str | None, prefix: str, *, limit: int) -> TokenList:
    """The tokens of a model, or of all, that begin with `prefix`, case and outer space aside; without a
    prefix, the most frequent ones. A prefix that begins with a space wants tokens that do. Raises NotFound.
    """
    if model is not None:
        build.of_model(model)
    each = []
    for name in build.models if model is None else [model]:
        vocabulary = build.vocabulary(name)
        places = _places(vocabulary, prefix) if prefix else iter(range(len(vocabulary.entries)))
        each.append([(name, vocabulary.entries[place]) for place in islice(places, limit)])
    in_turn = [hit for rank in range(limit) for hits in each for hit in hits[rank : rank + 1]]
    tokens = with_best(build, in_turn[:limit])
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
    """Places that match, best tier first; one reading of `prefix` after the other."""
    for query in parse(prefix):
        spelled, folded, *others = vocabulary.matches([query])
        by_id, beginning = (others[MATCHES.index(kind) - 2] for kind in ("id", "prefix"))
        spaced = bool(query.folded) and query.shown.startswith("␣")
        for tier in (heapq.merge(spelled, folded), beginning, by_id):
            yield (place for place in tier if _begins_with_space(vocabulary, place)) if spaced else tier


def _begins_with_space(vocabulary: SearchVocabulary, place: int) -> bool:
    return vocabulary.entries[place].token.shown.startswith("␣")
