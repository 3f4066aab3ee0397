"""One token in every layer: the features that it names."""

from itertools import islice
from typing import Any

import sqlalchemy as sa

from lexiscope.records import FeatureRef, TokenLayer, TokenPage, TokenRow
from store import schema
from store.read.listing import LISTING, carriers, unsupported
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild, integer_parameter
from store.read.search import hit
from store.read.token_rows import rows_of_token

FEATURES_A_LAYER = 20
MAX_VARIANTS = 50


def _carriers() -> sa.Select[Any]:
    order = (unsupported(), sa.case((LISTING.live, 0), else_=1), LISTING.excess.desc(), LISTING.index)
    place = sa.func.row_number().over(partition_by=LISTING.dictionary_id, order_by=order).label("place")
    ranked = (
        sa.select(*REF_COLUMNS, place)
        .add_cte(carriers(schema.by_name.c.name_token == integer_parameter("token")))
        .subquery()
    )
    return (
        sa.select(ranked)
        .where(ranked.c.place <= integer_parameter("place"))
        .order_by(ranked.c.dictionary_id, ranked.c.place)
    )


CARRIERS = _carriers()


def token_page(build: OpenBuild, model: str, token_id: int) -> TokenPage:
    """`/tokens/{model}/{id}`: at most 20 features a dictionary, the best-evidenced first. Raises NotFound."""
    token = build.token(model, token_id)
    entries = build.of_model(model)
    vocabulary = build.vocabulary(model)
    own = vocabulary.entries[vocabulary.place_of[token_id]]
    carriers = features_named(build, entries, token_id, limit=FEATURES_A_LAYER) if own.n_features else {}
    rows = rows_of_token(build, entries, model, token_id)
    return TokenPage(
        build=build.id,
        model=model,
        token=token,
        count=own.occurrences,
        layers=[
            _layer(entry, carriers.get(entry.dictionary_id, []), rows.get(entry.dictionary_id))
            for entry in entries
        ],
        variants=[hit(model, variant) for variant in islice(vocabulary.variants(token_id), MAX_VARIANTS)],
    )


def _layer(entry: DictionaryEntry, features: list[FeatureRef], row: TokenRow | None) -> TokenLayer:
    best = max((ref.cosine for ref in features), default=None)
    return TokenLayer(
        layer=entry.layer,
        source=entry.source,
        recipe=entry.recipe,
        best_cosine=best,
        features=features,
        row=row,
    )


def features_named(
    build: OpenBuild, entries: list[DictionaryEntry], token_id: int, *, limit: int
) -> dict[int, list[FeatureRef]]:
    """Dictionary id → its features named by the token: supported before unsupported, then live, then by how
    far the shares of firings that read or predict the name exceed chance.
    """
    features: dict[int, list[FeatureRef]] = {entry.dictionary_id: [] for entry in entries}
    for row in build.rows(CARRIERS, token=token_id, place=limit):
        if row.dictionary_id in features:
            features[row.dictionary_id].append(build.ref(row))
    return features
