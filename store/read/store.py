"""`Store`: the published index as everything outside this package reads it. Each method returns the record of
a page.

Every call checks which build is served (one line of a file, or one row). When another build is published, new
calls go to it, and the old build is closed when the last call that reads it ends. A new build that cannot be
read is not served: the old one is, until there is a better.
"""

import copy
import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple

import sqlalchemy as sa

from lexiscope.records import (
    AnchorPage,
    DictionaryPage,
    FeaturePage,
    FeatureRef,
    FilteredFeatures,
    Filters,
    HomePage,
    ModelSummary,
    SearchPage,
    Token,
    TokenList,
    TokenPage,
)
from lexiscope.settings import Settings
from store import schema
from store.backend import Backend
from store.duckdb_folder import FolderBackend
from store.errors import MAKE_ONE, Damaged, NoIndex, NotFound, UnreadablePointer, WrongVersion
from store.postgres import PostgresBackend
from store.read.anchor_page import anchor_page
from store.read.compare_page import ComparedDictionaries, comparable, compare_page, name_of
from store.read.completions import completions
from store.read.dictionary_page import dictionary_page
from store.read.examples import example_tokens
from store.read.export import PIECE_IDS, BuildSnapshot
from store.read.feature_page import feature_page, feature_refs
from store.read.list_counts import random_of, within
from store.read.listing import list_features
from store.read.open_build import DictionaryEntry, OpenBuild
from store.read.search import find_token, search
from store.read.token_page import features_named, features_of_word, token_page
from store.read.token_rows import direction_refs, refs_of_token, similar_rows, similar_tokens
from store.read.whole_list import ListedNumbers, whole_list
from store.read.written import Raised, WrittenBy, raised_by, written_by

MAX_CARRIERS = 20
log = logging.getLogger("lexiscope.store")


class IndexedDictionary(NamedTuple):
    """One dictionary of the index: its identity, what it reads, and the files of its weights
    and its model.
    """

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
    lens_path: str = ""
    """where its layer's Jacobian lens is kept; empty where none was fitted"""
    write_steering: float | None = None
    """as the measure; None where nothing was steered"""


class ResolvedName(NamedTuple):
    """A token, and what has to do with it in some dictionaries of a model; lists may be empty."""

    token: Token
    features: list[FeatureRef]
    """whose nearest anchor it is, those with the best evidence first"""
    firing: list[FeatureRef]
    """that fire on its word, the largest share first; then those in another relation to it"""
    rows: list[FeatureRef]
    """its rows in token look-ups, by layer"""
    written: WrittenBy
    """what raises it"""


class Store:
    """The published index. Every method may raise NoIndex, WrongVersion or Unreachable, and those that look
    something up NotFound.
    """

    def __init__(self, settings: Settings) -> None:
        self._backend: Backend = (
            PostgresBackend(settings) if settings.database_url else FolderBackend(settings)
        )
        self._lock = threading.Lock()
        self._build: OpenBuild | None = None
        self._held: OpenBuild | None = None
        self._refused = ""
        """a published build that cannot be read: the one before is served until another is published"""

    @contextmanager
    def held(self) -> Iterator["Store"]:
        """This store, whose calls all read the build that is served now, while newer ones are published."""
        with self._reading() as build:
            store = copy.copy(self)
            store._held = build
            yield store

    @contextmanager
    def _reading(self) -> Iterator[OpenBuild]:
        if self._held is not None:
            yield self._held
            return
        build = self._enter()
        try:
            yield build
        except Damaged:
            self._refuse(build)
            raise
        finally:
            with self._lock:
                build.users -= 1
                if build.retired and not build.users:
                    build.engine.dispose()

    def _enter(self) -> OpenBuild:
        """The build that is served now, with one user more. Where it was replaced, and removed, between the
        two looks at it, the next one.
        """
        while True:
            current = self._current()
            try:
                with self._lock:
                    build = self._opened(current)
                    build.users += 1
                    return build
            except NoIndex:
                if self._backend.current() == current:
                    raise

    def _current(self) -> str:
        try:
            return self._backend.current()
        except UnreadablePointer as error:
            with self._lock:
                if self._build is None:
                    raise
                log.error("build %s is still served: %s", self._build.id, error)
                return self._build.id

    def _opened(self, build: str) -> OpenBuild:
        if self._build is None or build not in (self._build.id, self._refused):
            try:
                fresh = self._open(build)
            except (NoIndex, WrongVersion) as error:
                if self._build is None:
                    raise
                log.error("build %s cannot be served, %s is still: %s", build, self._build.id, error)
                if isinstance(error, Damaged | WrongVersion):  # others may pass
                    self._refused = build
                return self._build
            self._retire()
            self._build = fresh
        return self._build

    def _open(self, build: str) -> OpenBuild:
        """The build, or the one before where it is damaged and nothing else is open. Raises NoIndex,
        WrongVersion.
        """
        try:
            if build == self._refused:
                raise Damaged(f"{self._backend.name(build)} is damaged: {MAKE_ONE}")
            return OpenBuild(self._backend, build)
        except Damaged as damaged:
            for other in self._backend.before(build) if self._build is None else ():
                with suppress(NoIndex, WrongVersion):
                    found = OpenBuild(self._backend, other)
                    log.error("build %s is served: %s", other, damaged)
                    self._refused = build
                    return found
            raise

    def _refuse(self, build: OpenBuild) -> None:
        """A page met a damaged part: the next is read from the build before, where there is one."""
        with self._lock:
            if build is self._build and self._backend.before(build.id):
                self._refused = build.id
                self._retire()

    def _retire(self) -> None:
        if self._build is not None:
            self._build.retired = True
            if not self._build.users:
                self._build.engine.dispose()
            self._build = None

    def close(self) -> None:
        """Close the build when the calls in progress have ended. A later call opens it again."""
        with self._lock:
            self._retire()

    def build_id(self) -> str:
        """The id of the build that is served now."""
        with self._reading() as build:
            return build.id

    def home(self) -> HomePage:
        with self._reading() as build:
            return HomePage(
                build=build.id,
                models=[_model_summary(build, model) for model in build.models],
                example_tokens=example_tokens(build),
            )

    def search(self, query: str, filters: Filters, *, tokens_from: int = 0) -> SearchPage:
        with self._reading() as build:
            return search(build, query, filters, tokens_from=tokens_from)

    def features(self, filters: Filters) -> FilteredFeatures:
        """Features of all dictionaries that pass the filters, one page."""
        with self._reading() as build:
            found = list_features(build, filters)
            return FilteredFeatures(
                build=build.id,
                filters=filters,
                features=found.features,
                next=found.next,
                previous=found.previous,
            )

    def token_page(self, model: str, token_id: int) -> TokenPage:
        with self._reading() as build:
            return token_page(build, model, token_id)

    def completions(self, model: str | None, prefix: str, *, limit: int) -> TokenList:
        with self._reading() as build:
            return completions(build, model, prefix, limit=limit)

    def dictionary_page(self, model: str, source: str, filters: Filters) -> DictionaryPage:
        with self._reading() as build:
            return dictionary_page(build, model, source, filters)

    def identities(self) -> dict[tuple[str, str], str]:
        """{(model, source): identity of the dictionary's weights}, empty where it was not recorded."""
        with self._reading() as build:
            return {key: entry.dictionary_identity for key, entry in build.by_source.items()}

    def dictionary_entry(self, model: str, source: str) -> DictionaryEntry:
        """The row of one dictionary, with its summary."""
        with self._reading() as build:
            return build.dictionary(model, source)

    def compare(self, model: str, left: str, right: str, filters: Filters) -> ComparedDictionaries:
        with self._reading() as build:
            return compare_page(build, model, left, right, filters)

    def named_alike(self, one: FeatureRef, other: FeatureRef) -> bool:
        """Whether two features of a model have the same relation, if any, to the same first word."""
        with self._reading() as build:
            vocabulary = build.vocabulary(one.model)
            return name_of(vocabulary, one) == name_of(vocabulary, other)

    def comparable(self, model: str | None) -> tuple[str, str, str]:
        """(model, left source, right source) of two dictionaries to compare first."""
        with self._reading() as build:
            return comparable(build, model)

    def anchor_page(
        self, model: str, source: str, by: Literal["features", "near"], *, start: int, limit: int
    ) -> AnchorPage:
        with self._reading() as build:
            return anchor_page(build, model, source, by, start=start, limit=limit)

    def feature(self, model: str, source: str, index: int, filters: Filters | None = None) -> FeaturePage:
        with self._reading() as build:
            return feature_page(build, model, source, index, filters)

    def random_of(self, model: str, source: str, filters: Filters) -> int:
        """The index of a random feature among those of a dictionary that pass the filters."""
        with self._reading() as build:
            entry = build.dictionary(model, source)
            return random_of(build, entry, within(entry, filters))

    def whole_list(self, model: str, source: str, filters: Filters) -> Iterator[list[ListedNumbers]]:
        """All features of a dictionary that pass the filters, in their order and in pieces; at least one
        piece. The build is held open until the last.
        """
        with self._reading() as build:
            entry = build.dictionary(model, source)
            yield from whole_list(build, entry, within(entry, filters))

    def feature_refs(self, ids: Sequence[str]) -> list[FeatureRef]:
        """References for at most 64 `model/source/index` ids, in their order."""
        with self._reading() as build:
            return feature_refs(build, ids)

    def raised_by(self, ref: FeatureRef) -> Raised | None:
        """The token that steering a feature raised most, above its controls; None where none was."""
        with self._reading() as build:
            return raised_by(build, ref)

    def similar_rows(self, row: FeatureRef, *, factor: float, limit: int) -> list[FeatureRef]:
        """At most `limit` other directions of the same kind, of tokens that occur as often (a look-up's: that
        it was fitted on as often), up to a factor: the nearest by token id.
        """
        with self._reading() as build:
            entry = build.dictionary(row.model, row.source)
            similar = similar_rows if row.direction == "row" else similar_tokens
            tokens = similar(build, entry, row.index, factor=factor)
            nearest = sorted(tokens, key=lambda token: abs(token - row.index))[:limit]
            return direction_refs(build, entry, nearest, row.direction) if nearest else []

    @contextmanager
    def snapshot(self, *, piece_ids: Mapping[str, int] = PIECE_IDS) -> Iterator[BuildSnapshot]:
        """The build that is served now, held open so that it can be exported while newer builds are
        published. `piece_ids`: ids in the range of one query, by table.
        """
        with self._reading() as build:
            yield BuildSnapshot(build, piece_ids)

    def resolve_token(self, model: str, wanted: str | int, *, layer: int | None = None) -> ResolvedName:
        """What fires on a token and what writes it, the features whose nearest anchor it is, and its rows in
        token look-ups, in one layer or in all. The token is given by id, by `#id`, or by its exact text with
        its space.
        """
        with self._reading() as build:
            at_layer = build.chosen(model, layer=layer)
            token = find_token(build, model, wanted)
            carriers = features_named(build, at_layer, token.id, limit=MAX_CARRIERS)
            ranked = [(place, ref) for refs in carriers.values() for place, ref in enumerate(refs)]
            ranked.sort(key=lambda item: (item[1].verdict == "dead", item[0], item[1].layer))
            rows = refs_of_token(build, at_layer, token.id)
            written = written_by(build, at_layer, token.id)
            firing = features_of_word(build, at_layer, token.id, limit=MAX_CARRIERS)
            return ResolvedName(token, [ref for _, ref in ranked], firing, rows, written)

    def dictionaries(self) -> list[IndexedDictionary]:
        """Every dictionary of the index."""
        with self._reading() as build:
            return [
                IndexedDictionary(
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
                    lens_path=entry.lens_path,
                    write_steering=entry.summary.write_steering,
                )
                for entry in build.dictionaries.values()
            ]

    def model_paths(self) -> dict[str, str]:
        """Model id → path of its language model."""
        return {entry.model: entry.model_path for entry in self.dictionaries()}

    def random_feature(self) -> FeatureRef:
        """A random live feature (a dead one where none is live); dictionaries are weighted by size."""
        with self._reading() as build:
            entries = list(build.dictionaries.values())
            if not entries:
                raise NotFound(f"the index holds no dictionary yet: {MAKE_ONE}")
            [entry] = random.choices(entries, weights=[entry.d_sae for entry in entries])
            feature, start = schema.listing.c, random.randrange(entry.d_sae)
            own = (
                sa.select(feature.index)
                .where(feature.dictionary_id == entry.dictionary_id)
                .order_by(feature.index)
                .limit(1)
            )
            live, after = own.where(feature.live), feature.index >= start
            for statement in (live.where(after), live, own.where(after), own):
                rows = build.rows(statement)
                if rows:
                    return feature_refs(build, [f"{entry.id}/{rows[0][0]}"])[0]
            raise NotFound(f"{entry.id} was indexed without features")


def _model_summary(build: OpenBuild, model: str) -> ModelSummary:
    entries = build.of_model(model)
    return ModelSummary(
        model=model,
        n_features=sum(entry.d_sae for entry in entries),
        n_live=sum(entry.summary.n_live for entry in entries),
        vocab_size=entries[0].vocab_size,
        ce=next((ce for entry in entries if isinstance(ce := entry.metrics.get("ce"), int | float)), None),
        layers=[entry.summary for entry in entries],
    )
