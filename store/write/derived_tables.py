"""Tables derived from the others when a build is published, so that pages read little.

Each is one `INSERT … SELECT` in Core, the same on DuckDB and PostgreSQL. `listing` holds a feature in fifty
bytes instead of a thousand, in the order of `feature`, and `by_name` the same in the order of names; the
others hold a few rows a dictionary, or one a token.
"""

from typing import Any

import sqlalchemy as sa

from store import schema

SHOWN = 20
"""Collisions and disagreements kept of each dictionary."""
LAST_PLACE = 2**31 - 1
"""The place of a name outside the vocabulary (a padding row of W_E): after all others."""

FEATURE, TOKEN, DICTIONARY = schema.feature.c, schema.token.c, schema.dictionary.c


def statements() -> list[sa.Insert]:
    """In the order in which they must run."""
    selects = {"listing": _listing(), "by_name": _by_name(), "carried": _carried()}
    selects |= {"collision": _collision(), "disagreement": _disagreement()}
    tables = {name: schema.metadata.tables[name] for name in schema.DERIVED}
    return [
        sa.insert(table).from_select(list(table.columns), selects[name]) for name, table in tables.items()
    ]


def _listing() -> sa.Select[Any]:
    by_spelling = sa.func.row_number().over(
        partition_by=TOKEN.model, order_by=(TOKEN.folded, TOKEN.shown, TOKEN.token_id)
    )
    by_count = sa.func.row_number().over(
        partition_by=TOKEN.model, order_by=(TOKEN.count.desc(), TOKEN.token_id)
    )
    place = sa.select(
        TOKEN.model, TOKEN.token_id, (by_spelling - 1).label("spelling"), (by_count - 1).label("frequency")
    ).subquery()
    reads, predicts = (
        FEATURE.reads_family - FEATURE.reads_family_null,
        FEATURE.predicts - FEATURE.predicts_null,
    )
    excess = sa.func.coalesce(reads, 0.0) + sa.func.coalesce(predicts, 0.0)
    return (
        sa.select(
            *(FEATURE.dictionary_id, FEATURE.index, schema.FEATURE_KEY, FEATURE.name_token),
            sa.cast(sa.func.coalesce(place.c.spelling, LAST_PLACE), sa.Integer),
            sa.cast(sa.func.coalesce(place.c.frequency, LAST_PLACE), sa.Integer),
            *(FEATURE.cosine, FEATURE.density, FEATURE.max_activation),
            sa.cast(excess, sa.REAL),
            *(FEATURE.live, FEATURE.supported, FEATURE.verdict),
        )
        .join(schema.dictionary, DICTIONARY.dictionary_id == FEATURE.dictionary_id)
        .outerjoin(place, sa.and_(place.c.model == DICTIONARY.model, place.c.token_id == FEATURE.name_token))
        .order_by(FEATURE.dictionary_id, FEATURE.index)
    )


def _by_name() -> sa.Select[Any]:
    own = schema.listing.c
    return sa.select(schema.listing).order_by(own.name_token, own.dictionary_id, own.index)


def _carried() -> sa.Select[Any]:
    strong = sa.case(
        (sa.and_(FEATURE.supported, FEATURE.live, FEATURE.bucket == "strong"), FEATURE.dictionary_id)
    )
    return (
        sa.select(DICTIONARY.model, FEATURE.name_token, sa.func.count(), sa.func.count(strong.distinct()))
        .join(schema.dictionary, DICTIONARY.dictionary_id == FEATURE.dictionary_id)
        .group_by(DICTIONARY.model, FEATURE.name_token)
        .order_by(DICTIONARY.model, FEATURE.name_token)
    )


def _collision() -> sa.Select[Any]:
    n_features, n_live = sa.func.count(), sa.func.sum(sa.case((FEATURE.live, 1), else_=0))
    place = sa.func.row_number().over(
        partition_by=FEATURE.dictionary_id, order_by=(n_features.desc(), FEATURE.name_token)
    )
    shared = (
        sa.select(
            FEATURE.dictionary_id,
            (place - 1).label("place"),
            FEATURE.name_token,
            n_features.label("features"),
            n_live.label("live"),
        )
        .where(FEATURE.n_same_name > 1)
        .group_by(FEATURE.dictionary_id, FEATURE.name_token)
        .subquery()
    )
    return _first(shared)


def _disagreement() -> sa.Select[Any]:
    place = sa.func.row_number().over(
        partition_by=FEATURE.dictionary_id, order_by=(FEATURE.density.desc(), FEATURE.index)
    )
    contradicted = (
        sa.select(FEATURE.dictionary_id, (place - 1).label("place"), FEATURE.index)
        .where(FEATURE.live, FEATURE.bucket == "strong", sa.not_(FEATURE.supported))
        .subquery()
    )
    return _first(contradicted)


def _first(ranked: sa.Subquery) -> sa.Select[Any]:
    return sa.select(ranked).where(ranked.c.place < SHOWN).order_by(ranked.c.dictionary_id, ranked.c.place)
