"""Tables derived from the others when a build is published, so that pages read little.

Each is one `INSERT … SELECT` in Core, the same on DuckDB and PostgreSQL. `listing` holds a feature in eighty
bytes instead of a thousand, in the order of `feature`, and `by_name` the same in the order of tokens; the
others hold a few rows a dictionary, or one a token.
"""

from typing import Any

import sqlalchemy as sa

from lexiscope.measures import WRITTEN
from store import schema

HELD = ("specific", "partial", "weak")
"""Verdicts on relations that hold beyond chance."""
WRITE_LIST = 10
"""Tokens of a write list that find the feature."""
LAST_PLACE = 2**31 - 1
"""The place of a name outside the vocabulary (a padding row of W_E): after all others."""

FEATURE, TOKEN, DICTIONARY = schema.feature.c, schema.token.c, schema.dictionary.c


def statements() -> list[sa.Insert]:
    """In the order in which they must run."""
    selects = {
        "listing": _listing(),
        "by_name": _by_name(),
        "best_by_name": _best_by_name(),
        "by_write": _by_write(),
        "carried": _carried(),
    }
    tables = {name: schema.metadata.tables[name] for name in schema.DERIVED}
    return [
        sa.insert(table).from_select(list(table.columns), selects[name]) for name, table in tables.items()
    ]


def _listing() -> sa.Select[Any]:
    by_spelling = sa.func.row_number().over(
        partition_by=TOKEN.model, order_by=(TOKEN.folded, TOKEN.shown, TOKEN.token_id)
    )
    place = sa.select(TOKEN.model, TOKEN.token_id, (by_spelling - 1).label("spelling")).subquery()
    reads, predicts = (
        FEATURE.reads_family - FEATURE.reads_family_null,
        FEATURE.predicts - FEATURE.predicts_null,
    )
    excess = sa.func.coalesce(reads, 0.0) + sa.func.coalesce(predicts, 0.0)
    lens = FEATURE.write_tokens[1].is_not(None)
    effect = sa.case((FEATURE.verdict.in_(HELD), sa.func.coalesce(FEATURE.relation_low, 0.0)), else_=0.0)
    return (
        sa.select(
            *(FEATURE.dictionary_id, FEATURE.index, schema.FEATURE_KEY),
            *(sa.func.coalesce(FEATURE.relation, ""), FEATURE.word_tokens),
            sa.cast(sa.func.coalesce(FEATURE.relation_share, 0.0), sa.REAL),
            sa.cast(effect, sa.REAL),
            FEATURE.name_token,
            sa.cast(sa.func.coalesce(place.c.spelling, LAST_PLACE), sa.Integer),
            *(FEATURE.cosine, FEATURE.density, FEATURE.max_activation),
            sa.cast(excess, sa.REAL),
            *(FEATURE.live, FEATURE.verdict),
            sa.case((lens, FEATURE.write_tokens[1:WRITTEN]), else_=FEATURE.pos_tokens[1:WRITTEN]),
            FEATURE.write_verdict,
        )
        .join(schema.dictionary, DICTIONARY.dictionary_id == FEATURE.dictionary_id)
        .outerjoin(place, sa.and_(place.c.model == DICTIONARY.model, place.c.token_id == FEATURE.name_token))
        .order_by(FEATURE.dictionary_id, FEATURE.index)
    )


def _by_name() -> sa.Select[Any]:
    own = schema.listing.c
    words = sa.select(
        own.key, sa.func.unnest(own.word_tokens).label("token"), sa.literal(1).label("by_relation")
    )
    anchors = sa.select(own.key, own.name_token, sa.literal(0)).where(
        sa.not_(sa.func.coalesce(own.name_token == sa.any_(own.word_tokens), sa.false()))
    )
    named = sa.union_all(words, anchors).subquery()
    by_count = sa.func.row_number().over(
        partition_by=TOKEN.model, order_by=(TOKEN.count.desc(), TOKEN.token_id)
    )
    place = sa.select(TOKEN.model, TOKEN.token_id, (by_count - 1).label("frequency")).subquery()
    columns = [
        sa.cast(sa.case((named.c.by_relation == 1, column), else_=0.0), sa.REAL)
        if column.name == "effect"
        else column
        for column in schema.listing.columns
    ]
    return (
        sa.select(
            named.c.token,
            named.c.by_relation,
            sa.cast(sa.func.coalesce(place.c.frequency, LAST_PLACE), sa.Integer),
            *columns,
        )
        .join(named, named.c.key == own.key)
        .join(schema.dictionary, DICTIONARY.dictionary_id == own.dictionary_id)
        .outerjoin(place, sa.and_(place.c.model == DICTIONARY.model, place.c.token_id == named.c.token))
        .order_by(named.c.token, own.dictionary_id, own.index)
    )


def _best_by_name() -> sa.Select[Any]:
    own = schema.by_name.c
    place = sa.func.row_number().over(
        partition_by=(DICTIONARY.model, own.token, own.relation),
        order_by=(own.effect.desc(), own.dictionary_id, own.index),
    )
    ranked = (
        sa.select(schema.by_name, place.label("place"))
        .join(schema.dictionary, DICTIONARY.dictionary_id == own.dictionary_id)
        .where(own.by_relation == 1, own.effect > 0)
        .subquery()
    )
    columns = [ranked.c[column.name] for column in schema.best_by_name.columns]
    return sa.select(*columns).where(ranked.c.place == 1).order_by(ranked.c.token, ranked.c.dictionary_id)


def _by_write() -> sa.Select[Any]:
    places = sa.values(sa.column("place", sa.Integer), name="places").data(
        [(place,) for place in range(1, WRITE_LIST + 1)]
    )
    place = places.c.place
    token = sa.func.coalesce(FEATURE.write_tokens[place], FEATURE.pos_tokens[place])
    value = sa.func.coalesce(FEATURE.write_values[place], FEATURE.pos_values[place])
    return (
        sa.select(token, schema.FEATURE_KEY, FEATURE.dictionary_id, place - 1, value)
        .select_from(schema.feature)
        .join(places, sa.true())
        .where(FEATURE.live, token.is_not(None))
        .order_by(token, FEATURE.dictionary_id, place, FEATURE.index)
    )


def _carried() -> sa.Select[Any]:
    own = schema.by_name.c
    return (
        sa.select(DICTIONARY.model, own.token, sa.func.count())
        .join(schema.dictionary, DICTIONARY.dictionary_id == own.dictionary_id)
        .group_by(DICTIONARY.model, own.token)
        .order_by(DICTIONARY.model, own.token)
    )
