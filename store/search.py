"""Search by name. A query finds tokens first, then the features those tokens name.

A query is text as a person types it, its leading space included; marks (␣ ↵ ⇥) are read back as what they stand for. Tiers,
best first: the spelling itself; the same but for case and outer space; a token id (`#123`, or a bare number); beginnings;
the middle of a token.
"""

import re
from typing import Any

import sqlalchemy as sa

from lexiscope import tokens
from lexiscope.records import Filters, SearchPage, Token, TokenHit
from store import schema
from store.build import Build
from store.errors import NotFound
from store.listing import Named, list_features

TOKEN = schema.token.c
MATCHES = ("exact", "exact", "id", "prefix", "substring")
MAX_QUERY = 200
MAX_ID = 2**31 - 1


def search(build: Build, query: str, filters: Filters) -> SearchPage:
    """`/search`. An empty query, and one that matches nothing, give an empty page. Raises NotFound, BadCursor."""
    if filters.model is not None:
        build.of_model(filters.model)
    tier = match_tier(query)
    if tier is None:
        return SearchPage(build=build.id, query=query, match="none", filters=filters, tokens=[], features=[], next=None)
    matched = sa.select(TOKEN.model, TOKEN.token_id, TOKEN.shown, TOKEN.raw, TOKEN.count.label("occurrences"), tier.label("tier"))
    matched = matched.where(TOKEN.model.in_(build.models if filters.model is None else [filters.model]), tier.is_not(None))
    subquery = matched.subquery("matched")
    columns = subquery.c
    best_first = (columns.tier, columns.occurrences.desc(), columns.model, columns.token_id)
    rows = build.rows(sa.select(subquery).order_by(*best_first).limit(filters.limit))
    named = count_named(build, {row.model for row in rows}, [row.token_id for row in rows])
    hits = [
        TokenHit(
            model=row.model,
            token=Token(id=row.token_id, shown=row.shown, raw=row.raw),
            count=row.occurrences,
            n_features=named.get((row.model, row.token_id), 0),
        )
        for row in rows
    ]
    listed = list_features(build, filters, named=Named(subquery, query)) if rows else None
    return SearchPage.model_validate(
        {
            "build": build.id,
            "query": query,
            "match": MATCHES[max(row.tier for row in rows)] if rows else "none",
            "filters": filters,
            "tokens": hits,
            "features": listed.features if listed else [],
            "next": listed.next if listed else None,
        }
    )


def unmarked(query: str) -> str:
    """The text a query stands for: ␣ typed by hand is a space."""
    for plain, mark in tokens.MARKS.items():
        query = query.replace(mark, plain)
    return query


def match_tier(query: str) -> sa.ColumnElement[int] | None:
    """How well a row of `token` matches: an index into MATCHES, NULL where it does not; None for a query that asks nothing."""
    if not query or len(query) > MAX_QUERY:
        return None
    if re.fullmatch(r"#[0-9]+", query):
        by_id: list[tuple[sa.ColumnElement[bool], int]] = [(_has_id(query[1:]), 2)]
        return sa.case((TOKEN.shown == query, 0), *by_id)
    natural = unmarked(query).encode(errors="replace")
    spelled, folded = tokens.shown(natural), tokens.folded(natural)
    whens: list[tuple[sa.ColumnElement[bool], int]] = [(TOKEN.shown == spelled, 0)]
    if not folded:  # white space alone: its fold is in every token
        return sa.case(*whens, (_begins(TOKEN.shown, spelled) & (TOKEN.folded == ""), 3))
    whens.append((TOKEN.folded == folded, 1))
    if re.fullmatch(r"[0-9]+", folded):
        whens.append((_has_id(folded), 2))
    begins = _begins(TOKEN.folded, folded) | _begins(TOKEN.shown, spelled)
    holds = _holds(TOKEN.folded, folded) | _holds(TOKEN.shown, spelled)
    return sa.case(*whens, (begins, 3), (holds, 4))


def _begins(column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
    """A literal comparison, where LIKE would read % and _ as wildcards; DuckDB and PostgreSQL both have it."""
    return sa.func.starts_with(column, text, type_=sa.Boolean)


def _holds(column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
    return sa.func.strpos(column, text, type_=sa.Integer) > 0


def _has_id(digits: str) -> sa.ColumnElement[bool]:
    return TOKEN.token_id == (int(digits) if len(digits) < 11 and int(digits) <= MAX_ID else -1)


def count_named(build: Build, models: set[str], token_ids: list[int]) -> dict[tuple[str, int], int]:
    """How many features carry each token's name, all dictionaries of a model together; tokens that name none are absent."""
    feature, dictionary = schema.feature.c, schema.dictionary.c
    ids = [entry.dictionary_id for model in models for entry in build.of_model(model)]
    statement: sa.Select[Any] = (
        sa.select(dictionary.model, feature.name_token, sa.func.count())
        .join(schema.dictionary, dictionary.dictionary_id == feature.dictionary_id)
        .where(feature.dictionary_id.in_(ids), feature.name_token.in_(token_ids))
        .group_by(dictionary.model, feature.name_token)
    )
    return {(row[0], row[1]): row[2] for row in build.rows(statement)} if token_ids else {}


def find_token(build: Build, model: str, wanted: str | int) -> Token:
    """A token by id, by `#id`, or by its exact text (marks allowed). Raises NotFound, naming near spellings."""
    build.of_model(model)
    if isinstance(wanted, int):
        return build.token(model, wanted)
    if re.fullmatch(r"#[0-9]{1,10}", wanted) and not _spelled(build, model, wanted):
        return build.token(model, int(wanted[1:]))
    found = _spelled(build, model, tokens.shown(unmarked(wanted).encode(errors="replace")))
    if found:
        return found[0]
    near = search(build, wanted, Filters.model_validate({"model": model, "limit": 5})).tokens if wanted else []
    hint = f": near it are {', '.join(hit.token.shown for hit in near)}" if near else ": a token is spelled exactly, with its space"
    raise NotFound(f"{wanted!r} is not one token of {model}{hint}")


def _spelled(build: Build, model: str, shown: str) -> list[Token]:
    statement = sa.select(TOKEN.token_id).where(TOKEN.model == model, TOKEN.shown == shown).order_by(TOKEN.token_id).limit(1)
    return [build.vocabulary(model)[row.token_id] for row in build.rows(statement)]
