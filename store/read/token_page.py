"""One token in every layer: the features that its word names, and those whose nearest anchor it is."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

from lexiscope.records import FeatureRef, NamedRef, TokenLayer, TokenPage, TokenRow
from store import schema
from store.read.best_features import with_best
from store.read.listing import BY_RELATION, LISTING, TOKEN, carriers
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild, integer_parameter
from store.read.token_rows import rows_of_token

FEATURES_A_GROUP = 16
"""Features shown of a dictionary in one relation to the token."""
MAX_VARIANTS = 50


def _carriers(
    *conditions: sa.ColumnElement[bool],
    groups: Sequence[sa.ColumnElement[Any]],
    order: Sequence[sa.ColumnElement[Any]],
) -> sa.Select[Any]:
    place = sa.func.row_number().over(partition_by=groups, order_by=order).label("place")
    n_of_group = sa.func.count().over(partition_by=groups).label("n_of_group")
    tokens = sa.bindparam("tokens", type_=sa.Integer, expanding=True)
    ranked = (
        sa.select(*REF_COLUMNS, BY_RELATION, place, n_of_group)
        .where(*conditions)
        .add_cte(carriers(schema.by_name.c.token.in_(tokens)))
        .subquery()
    )
    return (
        sa.select(ranked)
        .where(ranked.c.place <= integer_parameter("place"))
        .order_by(ranked.c.dictionary_id, ranked.c.place, ranked.c.index)
    )


DEAD_LAST = sa.case((LISTING.live, 0), else_=1)
BY_WORD = _carriers(
    sa.or_(BY_RELATION == 1, integer_parameter("token") == TOKEN),
    groups=(LISTING.dictionary_id, sa.case((BY_RELATION == 1, LISTING.relation), else_="")),
    order=(BY_RELATION.desc(), LISTING.effect.desc(), DEAD_LAST, LISTING.cosine.desc(), LISTING.index),
)
BY_ANCHOR = _carriers(
    LISTING.name_token == integer_parameter("token"),
    groups=(LISTING.dictionary_id,),
    order=(DEAD_LAST, LISTING.excess.desc(), LISTING.index),
)


def token_page(build: OpenBuild, model: str, token_id: int) -> TokenPage:
    """`/tokens/{model}/{id}`: at most FEATURES_A_GROUP features of a dictionary in each relation to its word,
    and as many whose nearest anchor it is, by size. Raises NotFound.
    """
    token = build.token(model, token_id)
    entries = build.of_model(model)
    vocabulary = build.vocabulary(model)
    same_word = vocabulary.of_word(token_id)
    counts: dict[int, dict[str, int]] = {}
    found = _features(build, entries, BY_WORD, token_id, same_word, FEATURES_A_GROUP, counts)
    rows = rows_of_token(build, entries, model, token_id)
    spelled = vocabulary.variants(token_id)
    known = {entry.token.id for entry in spelled} | {token_id}
    others = [vocabulary.entries[vocabulary.place_of[other]] for other in same_word if other not in known]
    return TokenPage(
        build=build.id,
        model=model,
        token=token,
        count=vocabulary.entries[vocabulary.place_of[token_id]].occurrences,
        layers=[
            _layer(
                entry,
                [_named(ref, set(same_word)) for ref in found.get(entry.dictionary_id, [])],
                rows.get(entry.dictionary_id),
                token_id,
                counts.get(entry.dictionary_id, {}),
            )
            for entry in entries
        ],
        variants=with_best(build, [(model, other) for other in islice([*spelled, *others], MAX_VARIANTS)]),
    )


def _named(ref: FeatureRef, word: set[int]) -> NamedRef:
    """`word`: the ids of the tokens of the page's word."""
    by_word = bool(word & {token.id for token in ref.words})
    return NamedRef(**dict(ref), via=ref.relation if by_word and ref.relation else "anchor")


def _layer(
    entry: DictionaryEntry,
    features: list[NamedRef],
    row: TokenRow | None,
    token_id: int,
    counts: dict[str, int],
) -> TokenLayer:
    """`counts`: features by relation in all; those of one group that is listed whole are counted there."""
    listed = Counter(ref.via for ref in features)
    counts = {via: n if n < FEATURES_A_GROUP else max(counts.get(via, 0), n) for via, n in listed.items()}
    best = max((ref.cosine for ref in features if ref.name.id == token_id), default=None)
    return TokenLayer(
        layer=entry.layer,
        source=entry.source,
        recipe=entry.recipe,
        best_cosine=best,
        n_features=counts,
        features=features,
        row=row,
    )


def features_named(
    build: OpenBuild, entries: list[DictionaryEntry], token_id: int, *, limit: int
) -> dict[int, list[FeatureRef]]:
    """Dictionary id → its features whose nearest anchor is the token: live before dead, then by how far the
    shares of firings that read or predict it exceed chance.
    """
    return _features(build, entries, BY_ANCHOR, token_id, [token_id], limit)


def features_of_word(
    build: OpenBuild, entries: list[DictionaryEntry], token_id: int, *, limit: int
) -> list[FeatureRef]:
    """The live features named by the token's word and a relation to it: those on it first, each relation by
    the size of the share.
    """
    word = build.vocabulary(entries[0].model).of_word(token_id)
    found = _features(build, entries, BY_WORD, token_id, word, limit)
    named = [
        ref
        for refs in found.values()
        for ref in refs
        if ref.verdict != "dead" and {token.id for token in ref.words} & set(word)
    ]
    return sorted(named, key=lambda ref: (ref.relation != "on", ref.verdict == "untested", -(ref.share or 0)))


def _features(
    build: OpenBuild,
    entries: list[DictionaryEntry],
    statement: sa.Select[Any],
    token_id: int,
    tokens: list[int],
    limit: int,
    counts: dict[int, dict[str, int]] | None = None,
) -> dict[int, list[FeatureRef]]:
    """`counts` receives the size of each group, by the relation or `anchor`."""
    features: dict[int, dict[int, FeatureRef]] = {entry.dictionary_id: {} for entry in entries}
    for row in build.rows(statement, token=token_id, tokens=tokens, place=limit):
        if row.dictionary_id in features:
            features[row.dictionary_id].setdefault(row[1], build.ref(row))
            if counts is not None:
                via = row.relation if row.by_relation else "anchor"
                counts.setdefault(row.dictionary_id, {})[via] = row.n_of_group
    return {dictionary_id: list(found.values()) for dictionary_id, found in features.items()}
