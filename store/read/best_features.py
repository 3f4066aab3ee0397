"""Tokens in a list, each with the best features of its word: one of each relation."""

from collections.abc import Sequence

import sqlalchemy as sa

from lexiscope.records import FeatureRef, TokenHit
from store import schema
from store.read.listing import BY_RELATION, LISTING, TOKEN, carriers
from store.read.open_build import REF_COLUMNS, OpenBuild
from store.read.vocabulary import VocabularyEntry

RELATIONS = ("on", "after", "before", "near")


def _statement() -> sa.Select[tuple[object, ...]]:
    """The feature of largest effect for each token and relation, of those whose name holds beyond chance."""
    place = sa.func.row_number().over(
        partition_by=(TOKEN, LISTING.relation),
        order_by=(LISTING.effect.desc(), LISTING.dictionary_id, LISTING.index),
    )
    tokens = sa.bindparam("tokens", type_=sa.Integer, expanding=True)
    dictionaries = sa.bindparam("dictionaries", type_=sa.Integer, expanding=True)
    ranked = (
        sa.select(*REF_COLUMNS, TOKEN, LISTING.effect, place.label("place"))
        .where(BY_RELATION == 1, LISTING.effect > 0, LISTING.dictionary_id.in_(dictionaries))
        .add_cte(carriers(schema.by_name.c.token.in_(tokens)))
        .subquery()
    )
    return sa.select(ranked).where(ranked.c.place == 1).order_by(ranked.c.effect.desc())


BEST = _statement()


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
    """{token: the best feature of its word in each relation}. A word is shown by its commonest token, and
    features know it by that one.
    """
    if not ids:
        return {}
    vocabulary = build.vocabulary(model)
    words = {token: vocabulary.of_word(token) for token in ids}
    wanted = sorted({form for forms in words.values() for form in forms})
    dictionaries = [entry.dictionary_id for entry in build.of_model(model)]
    rows = build.rows(BEST, tokens=wanted, dictionaries=dictionaries)
    of_token: dict[int, list[FeatureRef]] = {}
    for row in rows:  # those of largest effect first
        of_token.setdefault(row.token, []).append(build.ref(row))
    best: dict[int, list[FeatureRef]] = {}
    for token, forms in words.items():
        refs = [ref for form in forms for ref in of_token.get(form, [])]
        best[token] = [
            ref for relation in RELATIONS for ref in [one for one in refs if one.relation == relation][:1]
        ]
    return best
