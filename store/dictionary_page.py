"""One dictionary: its distributions, its most shared names, the names its evidence contradicts, and its list of features."""

import sqlalchemy as sa

from lexiscope.records import Collision, DictionaryPage, Filters, HubToken
from store import schema
from store.build import REF_COLUMNS, Build, shown_token
from store.listing import list_features

SHOWN = 20
FEATURE = schema.feature.c


def dictionary_page(build: Build, model: str, source: str, filters: Filters) -> DictionaryPage:
    """`/{model}/{source}`. `filters.model`, `.source` and `.layer` are the dictionary's own. Raises NotFound, BadCursor."""
    entry = build.dictionary(model, source)
    filters = filters.model_copy(update={"model": model, "source": source, "layer": None})
    if filters.sort == "match":
        filters = filters.model_copy(update={"sort": "index", "descending": False})
    listed = list_features(build, filters)
    vocabulary = build.vocabulary(model)
    n_features = sa.func.count().label("n_features")
    n_live = sa.func.sum(sa.case((FEATURE.live, 1), else_=0)).label("n_live")
    shared = (
        sa.select(FEATURE.name_token, n_features, n_live)
        .where(FEATURE.dictionary_id == entry.dictionary_id, FEATURE.n_same_name > 1)
        .group_by(FEATURE.name_token)
        .order_by(n_features.desc(), FEATURE.name_token)
        .limit(SHOWN)
    )
    contradicted = (
        sa.select(*REF_COLUMNS)
        .where(FEATURE.dictionary_id == entry.dictionary_id, FEATURE.live, FEATURE.bucket == "strong", sa.not_(FEATURE.supported))
        .order_by(FEATURE.density.desc(), FEATURE.index)
        .limit(SHOWN)
    )
    return DictionaryPage(
        build=build.id,
        summary=entry.summary,
        hook_name=entry.hook_name,
        training=entry.training,
        metrics=entry.metrics,
        causal=entry.causal,
        cosine_histogram=entry.cosine_histogram,
        density_histogram=entry.density_histogram,
        collisions=[
            Collision(token=shown_token(vocabulary, row.name_token), n_features=row.n_features, n_live=int(row.n_live))
            for row in build.rows(shared)
        ],
        hub_tokens=[HubToken(token=shown_token(vocabulary, token_id), n_near=n_near) for token_id, n_near in entry.hubs[:SHOWN]],
        disagreements=[build.ref(row) for row in build.rows(contradicted)],
        filters=filters,
        features=listed.features,
        next=listed.next,
    )
