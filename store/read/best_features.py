"""Tokens in a list, each with the best features of its word: one of each relation."""

from collections.abc import Sequence

import sqlalchemy as sa

from lexiscope.records import FeatureRef, TokenHit
from store import schema
from store.read.listing import listed
from store.read.open_build import REF_COLUMNS, OpenBuild
from store.read.vocabulary import VocabularyEntry

RELATIONS = ("on", "after", "before", "near")


OWN = schema.best_by_name.c
BEST = sa.select(*(OWN[column.name] for column in REF_COLUMNS), OWN.token, OWN.effect).where(
    OWN.token.in_(sa.bindparam("tokens", type_=sa.Integer, expanding=True))
)
"""The best features of tokens, in whatever model a token has that id."""


def with_best(build: OpenBuild, found: Sequence[tuple[str, VocabularyEntry]]) -> list[TokenHit]:
    """Hits for tokens of models; one query a model."""
    best: dict[tuple[str, int], list[FeatureRef]] = {}
    for model in dict.fromkeys(name for name, _ in found):
        ids = [entry.token.id for name, entry in found if name == model]
        best |= {(model, token): refs for token, refs in _best(build, model, ids).items()}
    return [
        TokenHit(
            model=model,
            token=entry.token,
            count=entry.occurrences,
            n_features=entry.n_features,
            spelling=build.vocabulary(model).naming(entry),
            best=best.get((model, entry.token.id), []),
        )
        for model, entry in found
    ]


def _best(build: OpenBuild, model: str, ids: Sequence[int]) -> dict[int, list[FeatureRef]]:
    """{token: the best feature of its word in each relation}. Features know a word by its commonest token,
    which differs between texts.
    """
    if not ids:
        return {}
    vocabulary = build.vocabulary(model)
    words = {token: vocabulary.of_word(token) for token in ids}
    wanted = sorted({form for forms in words.values() for form in forms})
    of_token: dict[int, list[tuple[float, FeatureRef]]] = {}
    for row in build.rows(BEST, tokens=listed(wanted)):
        if build.dictionaries[row.dictionary_id].model == model:
            of_token.setdefault(row.token, []).append((row.effect, build.ref(row)))
    best: dict[int, list[FeatureRef]] = {}
    for token, forms in words.items():
        named = [one for form in forms for one in of_token.get(form, [])]
        refs = [ref for _, ref in sorted(named, key=lambda one: -one[0])]
        best[token] = [
            ref for relation in RELATIONS for ref in [one for one in refs if one.relation == relation][:1]
        ]
    return best
