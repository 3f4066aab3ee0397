"""One dictionary: its distributions, its most shared names, aligned features that fire on something else, and
its list of features.
"""

import sqlalchemy as sa

from lexiscope.records import Collision, DictionaryPage, FeatureRef, Filters, HubToken
from store import schema
from store.read.listing import LISTING, list_features
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild

SHOWN = 20


def dictionary_page(build: OpenBuild, model: str, source: str, filters: Filters) -> DictionaryPage:
    """`/{model}/{source}`. `filters.model`, `.source` and `.layer` are replaced by the dictionary's own.
    Raises NotFound, BadCursor.
    """
    entry = build.dictionary(model, source)
    filters = filters.model_copy(update={"model": model, "source": source, "layer": None})
    if filters.sort == "match":
        filters = filters.model_copy(update={"sort": "index", "descending": False})
    listed = list_features(build, filters)
    vocabulary = build.vocabulary(model)
    collisions, disagreements = build.cached(
        ("dictionary page", entry.dictionary_id), lambda: _notable(build, entry)
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
        collisions=collisions,
        hub_tokens=[
            HubToken(token=vocabulary.get(token_id), n_near=n_near) for token_id, n_near in entry.hubs[:SHOWN]
        ],
        disagreements=disagreements,
        filters=filters,
        features=listed.features,
        next=listed.next,
    )


def _notable(build: OpenBuild, entry: DictionaryEntry) -> tuple[list[Collision], list[FeatureRef]]:
    shared, against = schema.collision.c, schema.disagreement.c
    vocabulary = build.vocabulary(entry.model)
    collisions = build.rows(
        sa.select(schema.collision).where(shared.dictionary_id == entry.dictionary_id).order_by(shared.place)
    )
    places = build.rows(
        sa.select(against.index).where(against.dictionary_id == entry.dictionary_id).order_by(against.place)
    )
    wanted = [row[0] for row in places]
    own = sa.select(*REF_COLUMNS).where(
        LISTING.dictionary_id == entry.dictionary_id, LISTING.index.in_(wanted)
    )
    refs = {row[1]: build.ref(row) for row in build.rows(own)} if wanted else {}
    return (
        [
            Collision(token=vocabulary.get(row.name_token), n_features=row.n_features, n_live=row.n_live)
            for row in collisions
        ],
        [refs[index] for index in wanted],
    )
