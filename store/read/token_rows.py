"""Rows of token look-ups: on the page of a token, as something to steer by, and as controls for that."""

import re
from collections.abc import Sequence

import sqlalchemy as sa

from lexiscope.records import FeatureRef, TokenRow
from store import schema
from store.errors import NotFound
from store.read.open_build import DictionaryEntry, OpenBuild, integer_parameter, scored

ROW_ID = re.compile(r"token-(\d{1,9})")
"""The last part of a row's id, in place of a feature's number."""
ROW = schema.token_row.c
OF_TOKEN = (
    sa.select(schema.token_row).where(ROW.token_id == integer_parameter("token")).order_by(ROW.dictionary_id)
)
DICTIONARIES_OF_TOKEN = sa.select(ROW.dictionary_id).where(ROW.token_id == integer_parameter("token"))
SIMILAR = (
    sa.select(ROW.token_id)
    .where(
        ROW.dictionary_id == integer_parameter("dictionary"),
        ROW.trained_on.between(integer_parameter("low"), integer_parameter("high")),
    )
    .order_by(ROW.token_id)
)


def rows_of_token(
    build: OpenBuild, entries: Sequence[DictionaryEntry], model: str, token_id: int
) -> dict[int, TokenRow]:
    """Dictionary id → the token's row in its look-up."""
    own, vocabulary = {entry.dictionary_id: entry for entry in entries}, build.vocabulary(model)
    return {
        row.dictionary_id: TokenRow(
            id=row_id(own[row.dictionary_id], token_id),
            trained_on=row.trained_on,
            norm=row.norm,
            neighbours=scored(vocabulary, row.neighbour_tokens, row.neighbour_cosines),
            raises=scored(vocabulary, row.pos_tokens, row.pos_values),
            own_rank=row.own_rank,
        )
        for row in build.rows(OF_TOKEN, token=token_id)
        if row.dictionary_id in own
    }


def row_id(entry: DictionaryEntry, token_id: int) -> str:
    return f"{entry.id}/token-{token_id}"


def refs_of_token(build: OpenBuild, entries: Sequence[DictionaryEntry], token_id: int) -> list[FeatureRef]:
    """The token's rows in the look-ups of some dictionaries, in their order."""
    having = {row[0] for row in build.rows(DICTIONARIES_OF_TOKEN, token=token_id)}
    return [_ref(build, entry, token_id) for entry in entries if entry.dictionary_id in having]


def row_refs(build: OpenBuild, entry: DictionaryEntry, token_ids: Sequence[int]) -> list[FeatureRef]:
    """References to rows of a dictionary's look-up, in their order. Raises NotFound for one that it lacks."""
    wanted = sa.select(ROW.token_id).where(
        ROW.dictionary_id == entry.dictionary_id, ROW.token_id.in_(list(token_ids))
    )
    there = {row[0] for row in build.rows(wanted)}
    for token_id in token_ids:
        if token_id not in there:
            raise NotFound(
                f"{entry.id} has no row for token {token_id}: it has no token look-up, or was not trained on "
                "that token"
            )
    return [_ref(build, entry, token_id) for token_id in token_ids]


def _ref(build: OpenBuild, entry: DictionaryEntry, token_id: int) -> FeatureRef:
    vocabulary = build.vocabulary(entry.model)
    token = vocabulary.entries[vocabulary.place_of[token_id]]
    return FeatureRef(
        id=row_id(entry, token_id),
        model=entry.model,
        source=entry.source,
        layer=entry.layer,
        index=token_id,
        relation="on",
        words=[token.token],
        share=1.0,
        verdict="specific",
        name=token.token,
        cosine=1.0,
        density=token.occurrences / max(entry.n_tokens, 1),
        row=True,
    )


def similar_rows(build: OpenBuild, entry: DictionaryEntry, token_id: int, *, factor: float) -> list[int]:
    """Other tokens with a row, that the look-up was fitted on as often, up to a factor."""
    [[own]] = build.rows(
        sa.select(ROW.trained_on).where(ROW.dictionary_id == entry.dictionary_id, ROW.token_id == token_id)
    )
    found = build.rows(SIMILAR, dictionary=entry.dictionary_id, low=int(own / factor), high=int(own * factor))
    return [row[0] for row in found if row[0] != token_id]
