"""What the rest of the house reads: `Store` answers each page's question with that page's record.

It opens the build that serves, looks at every question whether it still does (one line of a file, or one
row), and moves on when another does: new questions go to the new build, and the old one is closed when the
last question asked of it is answered.
"""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa

from lexiscope.records import (
    DictionaryPage,
    FeaturePage,
    FeatureRef,
    Filters,
    HomePage,
    ModelSummary,
    SearchPage,
    Token,
    TokenPage,
)
from lexiscope.settings import Settings
from store import build_files, schema
from store.backend import Backend
from store.duckdb_folder import FolderBackend
from store.errors import NotFound
from store.postgres import PostgresBackend
from store.read.dictionary_page import dictionary_page
from store.read.export import BuildSnapshot
from store.read.feature_page import feature_page, feature_refs
from store.read.open_build import OpenBuild
from store.read.search import find_token, search
from store.read.token_page import features_named, token_page

MAX_CARRIERS = 20


class Place(NamedTuple):
    """Where the live model finds one dictionary and what it reads."""

    model: str
    source: str
    layer: int
    recipe: str
    hook_name: str
    model_path: str
    model_identity: str
    """`LanguageModel.identity`; empty if it was not recorded"""
    dictionary_identity: str
    """`Dictionary.identity`; empty if it was not recorded"""
    checkpoint_path: str
    mean_norm: float | None = None
    """mean residual norm at its hook point, the unit of steering; None where it was not measured"""


class ResolvedName(NamedTuple):
    """The token a name meant, and the features that carry it, best-evidenced first (may be none)."""

    token: Token
    features: list[FeatureRef]


class Store:
    """The published index. Every method may raise NoIndex, WrongVersion or Unreachable; those that look for
    something, NotFound.
    """

    def __init__(self, settings: Settings) -> None:
        self._source: Backend = (
            PostgresBackend(settings) if settings.database_url else FolderBackend(settings)
        )
        self._lock = threading.Lock()
        self._build: OpenBuild | None = None

    @contextmanager
    def _reading(self) -> Iterator[OpenBuild]:
        current = self._source.current()
        with self._lock:
            build = self._opened(current)
            build.users += 1
        try:
            yield build
        finally:
            with self._lock:
                build.users -= 1
                if build.retired and not build.users:
                    build.engine.dispose()

    def _opened(self, build: str) -> OpenBuild:
        if self._build is None or self._build.id != build:
            fresh = OpenBuild(self._source, build)
            self._retire()
            self._build = fresh
        return self._build

    def _retire(self) -> None:
        if self._build is not None:
            self._build.retired = True
            if not self._build.users:
                self._build.engine.dispose()
            self._build = None

    def close(self) -> None:
        """Let go of the index; questions under way are answered first. A later question opens it again."""
        with self._lock:
            self._retire()

    def build_id(self) -> str:
        """The build that answers now."""
        with self._reading() as build:
            return build.id

    def home(self) -> HomePage:
        with self._reading() as build:
            return HomePage(
                build=build.id,
                models=[_model_summary(build, model) for model in build.models],
                example_tokens=build.example_tokens,
            )

    def search(self, query: str, filters: Filters) -> SearchPage:
        with self._reading() as build:
            return search(build, query, filters)

    def token_page(self, model: str, token_id: int) -> TokenPage:
        with self._reading() as build:
            return token_page(build, model, token_id)

    def dictionary_page(self, model: str, source: str, filters: Filters) -> DictionaryPage:
        with self._reading() as build:
            return dictionary_page(build, model, source, filters)

    def feature(self, model: str, source: str, index: int) -> FeaturePage:
        with self._reading() as build:
            return feature_page(build, model, source, index)

    def feature_refs(self, ids: Sequence[str]) -> list[FeatureRef]:
        """References for at most 64 `model/source/index` ids, in their order."""
        with self._reading() as build:
            return feature_refs(build, ids)

    @contextmanager
    def snapshot(self) -> Iterator[BuildSnapshot]:
        """The build that serves now, held open so that it can be copied out while newer ones are published."""
        with self._reading() as build:
            yield BuildSnapshot(build)

    def resolve_token(self, model: str, wanted: str | int, *, layer: int | None = None) -> ResolvedName:
        """The features that carry a token (its id, `#id`, or exact text with its space), of one layer or of
        all.
        """
        with self._reading() as build:
            entries = build.of_model(model)
            at_layer = [entry for entry in entries if layer is None or entry.layer == layer]
            if not at_layer:
                layers = ", ".join(str(number) for number in sorted({entry.layer for entry in entries}))
                raise NotFound(f"{model} has no dictionary at layer {layer}: it has layers {layers}")
            token = find_token(build, model, wanted)
            carriers = features_named(build, at_layer, token.id, limit=MAX_CARRIERS)
            ranked = [(place, ref) for refs in carriers.values() for place, ref in enumerate(refs)]
            weak = {"unsupported": 1, "dead": 2}
            ranked.sort(key=lambda item: (weak.get(item[1].verdict, 0), item[0], item[1].layer))
            return ResolvedName(token, [ref for _, ref in ranked])

    def places(self) -> list[Place]:
        """Every dictionary, with the paths of its model and checkpoint."""
        with self._reading() as build:
            return [
                Place(
                    model=entry.model,
                    source=entry.source,
                    layer=entry.layer,
                    recipe=entry.recipe,
                    hook_name=entry.hook_name,
                    model_path=entry.model_path,
                    model_identity=entry.model_identity,
                    dictionary_identity=entry.dictionary_identity,
                    checkpoint_path=entry.checkpoint_path,
                    mean_norm=entry.mean_norm,
                )
                for entry in build.dictionaries.values()
            ]

    def model_paths(self) -> dict[str, str]:
        """Model id → where its language model lies."""
        return {place.model: place.model_path for place in self.places()}

    def random_feature(self) -> FeatureRef:
        """A live feature at random (a dead one when none is live): dictionaries weighted by size."""
        with self._reading() as build:
            entries = list(build.dictionaries.values())
            if not entries:
                raise NotFound(f"the index holds no dictionary yet: {build_files.MAKE_ONE}")
            [entry] = random.choices(entries, weights=[entry.d_sae for entry in entries])
            feature, start = schema.listing.c, random.randrange(entry.d_sae)
            own = (
                sa.select(feature.index)
                .where(feature.dictionary_id == entry.dictionary_id)
                .order_by(feature.index)
                .limit(1)
            )
            for statement in (own.where(feature.live, feature.index >= start), own.where(feature.live)):
                found = build.rows(statement)
                if found:
                    return feature_refs(build, [f"{entry.id}/{found[0][0]}"])[0]
            return feature_refs(build, [f"{entry.id}/{start}"])[0]


def _model_summary(build: OpenBuild, model: str) -> ModelSummary:
    entries = build.of_model(model)
    return ModelSummary(
        model=model,
        n_features=sum(entry.d_sae for entry in entries),
        n_live=sum(entry.summary.n_live for entry in entries),
        vocab_size=entries[0].vocab_size,
        layers=[entry.summary for entry in entries],
    )
