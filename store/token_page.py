"""One token through the layers, and the features that carry a token's name."""

from typing import Any

import sqlalchemy as sa

from lexiscope.records import FeatureRef, TokenHit, TokenLayer, TokenPage
from store import schema
from store.build import REF_COLUMNS, Build, Dictionary
from store.listing import unsupported
from store.search import count_named

FEATURES_A_LAYER = 20
MAX_VARIANTS = 50


def token_page(build: Build, model: str, token_id: int) -> TokenPage:
    """`/tokens/{model}/{id}`: at most 20 features a dictionary, the best-evidenced first. Raises NotFound."""
    token = build.token(model, token_id)
    entries = build.of_model(model)
    carriers = features_named(build, entries, token_id, limit=FEATURES_A_LAYER)
    columns = schema.token.c
    occurrences = columns.count.label("occurrences")
    [own] = build.rows(sa.select(occurrences, columns.folded).where(columns.model == model, columns.token_id == token_id))
    alike = (columns.model == model, columns.folded == own.folded, columns.token_id != token_id)
    same = sa.select(columns.token_id, occurrences).where(*alike)
    variants = build.rows(same.order_by(columns.count.desc(), columns.token_id).limit(MAX_VARIANTS))
    named = count_named(build, {model}, [row.token_id for row in variants])
    vocabulary = build.vocabulary(model)
    return TokenPage(
        build=build.id,
        model=model,
        token=token,
        count=own.occurrences,
        layers=[_layer(entry, carriers.get(entry.dictionary_id, [])) for entry in entries],
        variants=[
            TokenHit(model=model, token=vocabulary[row.token_id], count=row.occurrences, n_features=named.get((model, row.token_id), 0))
            for row in variants
        ],
    )


def _layer(entry: Dictionary, features: list[FeatureRef]) -> TokenLayer:
    best = max((ref.cosine for ref in features), default=None)
    return TokenLayer(layer=entry.layer, source=entry.source, recipe=entry.recipe, best_cosine=best, features=features)


def features_named(build: Build, entries: list[Dictionary], token_id: int, *, limit: int) -> dict[int, list[FeatureRef]]:
    """Dictionary id → its features that carry the token: supported before unsupported, then live, then by how far the shares
    of firings that read or predict the name exceed chance."""
    feature = schema.feature.c
    reads, predicts = feature.reads_family - feature.reads_family_null, feature.predicts - feature.predicts_null
    excess = sa.func.coalesce(reads, 0.0) + sa.func.coalesce(predicts, 0.0)
    order: list[sa.ColumnElement[Any]] = [unsupported(), sa.case((feature.live, 0), else_=1), excess.desc(), feature.index]
    place = sa.func.row_number().over(partition_by=feature.dictionary_id, order_by=order).label("place")
    ids = [entry.dictionary_id for entry in entries]
    ranked = sa.select(*REF_COLUMNS, place).where(feature.dictionary_id.in_(ids), feature.name_token == token_id).subquery()
    statement = sa.select(ranked).where(ranked.c.place <= limit).order_by(ranked.c.dictionary_id, ranked.c.place)
    found: dict[int, list[FeatureRef]] = {}
    for row in build.rows(statement):
        found.setdefault(row.dictionary_id, []).append(build.ref(row))
    return found
