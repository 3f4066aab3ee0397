"""Directions of tokens: rows of token look-ups, raw embeddings and the Jacobian lens's. On the page of a
token, as something to steer by, and as controls for that.
"""

import re
from collections.abc import Sequence

import sqlalchemy as sa

from lexiscope.records import Direction, FeatureRef, TokenRow
from store import schema
from store.errors import NotFound
from store.read.open_build import DictionaryEntry, OpenBuild, integer_parameter, scored

DIRECTION_IDS: dict[str, Direction] = {"token": "row", "embedding": "embedding", "jacobian": "jacobian"}
DIRECTION_ID = re.compile(rf"({'|'.join(DIRECTION_IDS)})-(\d{{1,9}})")
"""The last part of a direction's id, in place of a feature's number."""
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
            id=direction_id(own[row.dictionary_id], token_id),
            trained_on=row.trained_on,
            norm=row.norm,
            neighbours=scored(vocabulary, row.neighbour_tokens, row.neighbour_cosines),
            raises=scored(vocabulary, row.pos_tokens, row.pos_values),
            own_rank=row.own_rank,
        )
        for row in build.rows(OF_TOKEN, token=token_id)
        if row.dictionary_id in own
    }


def direction_id(entry: DictionaryEntry, token_id: int, kind: Direction = "row") -> str:
    word = next(word for word, of in DIRECTION_IDS.items() if of == kind)
    return f"{entry.id}/{word}-{token_id}"


def refs_of_token(build: OpenBuild, entries: Sequence[DictionaryEntry], token_id: int) -> list[FeatureRef]:
    """The token's rows in the look-ups of some dictionaries, in their order."""
    having = {row[0] for row in build.rows(DICTIONARIES_OF_TOKEN, token=token_id)}
    return [_ref(build, entry, token_id) for entry in entries if entry.dictionary_id in having]


def direction_refs(
    build: OpenBuild, entry: DictionaryEntry, token_ids: Sequence[int], kind: Direction
) -> list[FeatureRef]:
    """References to directions of tokens at a dictionary's layer, in their order. Raises NotFound for a token
    that the model lacks, a row that the look-up lacks, and where no Jacobian lens was fitted.
    """
    if kind == "row":
        return row_refs(build, entry, token_ids)
    for token_id in token_ids:
        build.token(entry.model, token_id)
    if kind == "jacobian" and not entry.lens_path:
        raise NotFound(f"{entry.id} was indexed without a Jacobian lens (--lens-prompts)")
    return [_ref(build, entry, token_id, kind) for token_id in token_ids]


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


def _ref(build: OpenBuild, entry: DictionaryEntry, token_id: int, kind: Direction = "row") -> FeatureRef:
    vocabulary = build.vocabulary(entry.model)
    token = vocabulary.entries[vocabulary.place_of[token_id]]
    return FeatureRef(
        id=direction_id(entry, token_id, kind),
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
        density=token.occurrences / max(vocabulary.n_tokens, 1),
        direction=kind,
    )


def similar_rows(build: OpenBuild, entry: DictionaryEntry, token_id: int, *, factor: float) -> list[int]:
    """Other tokens with a row, that the look-up was fitted on as often, up to a factor."""
    [[own]] = build.rows(
        sa.select(ROW.trained_on).where(ROW.dictionary_id == entry.dictionary_id, ROW.token_id == token_id)
    )
    found = build.rows(SIMILAR, dictionary=entry.dictionary_id, low=int(own / factor), high=int(own * factor))
    return [row[0] for row in found if row[0] != token_id]


def similar_tokens(build: OpenBuild, entry: DictionaryEntry, token_id: int, *, factor: float) -> list[int]:
    """Other tokens that occur as often in the indexed text, up to a factor; at least once."""
    vocabulary = build.vocabulary(entry.model)
    own = vocabulary.entries[vocabulary.place_of[token_id]].occurrences
    return [
        other.token.id
        for other in vocabulary.entries
        if other.token.id != token_id
        and other.occurrences
        and own <= factor * other.occurrences
        and other.occurrences <= factor * own
    ]
