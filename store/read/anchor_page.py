"""The tokens that are near to the features of one dictionary, and to how many: names that are shared, and
hubs that are near to everything.
"""

from typing import Literal

import sqlalchemy as sa

from lexiscope.records import AnchorCount, AnchorPage
from store.read.listing import FEATURE
from store.read.open_build import DictionaryEntry, OpenBuild, integer_parameter


def _statement(by: Literal["features", "near"]) -> sa.Select[tuple[int, ...]]:
    """Counts a token, and two totals: tokens, and those that are the nearest anchor of several features."""
    own = FEATURE.dictionary_id == integer_parameter("dictionary")
    live = sa.case((FEATURE.live, 1), else_=0)
    one, none = sa.literal(1), sa.literal(0)
    named = sa.select(
        FEATURE.name_token.label("token"), one.label("own"), live.label("live"), live.label("near")
    )
    next_ones = sa.select(sa.func.unnest(FEATURE.next_tokens), none, none, one).where(FEATURE.live)
    each = sa.union_all(named.where(own), next_ones.where(own)).subquery()
    counts = (
        sa.select(
            each.c.token,
            *(sa.func.sum(column).label(column.name) for column in (each.c.own, each.c.live, each.c.near)),
        )
        .group_by(each.c.token)
        .subquery()
    )
    total = sa.func.count().over()
    shared = sa.func.sum(sa.case((counts.c.own > 1, 1), else_=0)).over()
    first = counts.c.own if by == "features" else counts.c.near
    return (
        sa.select(counts, total, shared)
        .order_by(first.desc(), counts.c.token)
        .limit(integer_parameter("most"))
        .offset(integer_parameter("start"))
    )


STATEMENTS = {by: _statement(by) for by in ("features", "near")}


def anchor_counts(
    build: OpenBuild, entry: DictionaryEntry, by: Literal["features", "near"], *, start: int, limit: int
) -> tuple[list[AnchorCount], int, int]:
    """(counts, tokens in all, tokens that several features have as nearest anchor), those of most features
    first; `near`: those that most live features have among their six nearest.
    """
    vocabulary = build.vocabulary(entry.model)
    rows = build.rows(STATEMENTS[by], dictionary=entry.dictionary_id, most=limit, start=start)
    counts = [
        AnchorCount(token=vocabulary.get(row[0]), n_features=row[1], n_live=row[2], n_near=row[3])
        for row in rows
    ]
    if not rows and start:  # the totals stand in rows
        return [], *anchor_counts(build, entry, by, start=0, limit=1)[1:]
    return counts, *((int(rows[0][4]), int(rows[0][5])) if rows else (0, 0))


def anchor_page(
    build: OpenBuild,
    model: str,
    source: str,
    by: Literal["features", "near"],
    *,
    start: int,
    limit: int,
) -> AnchorPage:
    """`/{model}/{source}/anchors`. Raises NotFound."""
    entry = build.dictionary(model, source)
    counts, total, _ = anchor_counts(build, entry, by, start=start, limit=limit)
    return AnchorPage(
        build=build.id, summary=entry.summary, sort=by, total=total, start=start, anchors=counts
    )
