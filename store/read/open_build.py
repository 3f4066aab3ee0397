"""One published build, opened for reading: its connections, and the small tables that every page needs, held
in memory.

Held are `dictionary` and `layer_summary` (one row a dictionary), what a dictionary's page shows beside its
list, and each model's vocabulary from the first request that shows a token of it. Everything else is
queried page by page.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import sqlalchemy as sa

from lexiscope.measures import DICTIONARY, FOUND, OFTEN
from lexiscope.records import FeatureRef, Histogram, LayerSummary, ScoredToken, Token
from store import schema
from store.backend import Backend
from store.errors import MAKE_ONE, Damaged, NotFound, WrongVersion
from store.read.vocabulary import SearchVocabulary, VocabularyEntry

SUMMARY_FROM_DICTIONARY = (
    *("model", "source", "layer", "recipe", "origin", "architecture"),
    *("d_in", "d_sae", "k", "anchor_kind", "text"),
)
SUMMED = tuple(name for name in DICTIONARY if name in schema.layer_summary.c)

Row = sa.Row[*tuple[Any, ...]]
"""A result row of any width."""

Cached = TypeVar("Cached")
Fetched = TypeVar("Fetched")


def integer_parameter(name: str) -> sa.BindParameter[int]:
    """A number that is given when a statement runs, so that the statement is built once."""
    return sa.bindparam(name, type_=sa.Integer)


REMEMBERED = 256
"""Results of searches, such as how many tokens match, that are kept."""
REF_COLUMNS = tuple(
    schema.listing.c[name]
    for name in (
        *("dictionary_id", "index", "relation", "word_tokens", "share"),
        *("verdict", "name_token", "cosine", "density", "written_tokens", "write_verdict"),
    )
)


def _found_by_rows() -> tuple[sa.Select[Any], sa.Select[Any]]:
    """The words of each model that occur OFTEN; how many of them a row of each look-up detects. A row stands
    on the b occurrences of its token and nowhere else: its F1 for a word of n occurrences is 2 b / (b + n).
    """
    token, row, own = schema.token.c, schema.token_row.c, schema.dictionary.c
    words = (
        sa.select(token.model, token.word, sa.func.sum(token.count).label("n"))
        .group_by(token.model, token.word)
        .having(sa.func.sum(token.count) >= OFTEN)
        .subquery()
    )
    best = (
        sa.select(row.dictionary_id, token.model, token.word, sa.func.max(token.count).label("n"))
        .join(schema.dictionary, own.dictionary_id == row.dictionary_id)
        .join(schema.token, sa.and_(token.model == own.model, token.token_id == row.token_id))
        .group_by(row.dictionary_id, token.model, token.word)
        .subquery()
    )
    detected = sa.case((2 * best.c.n >= FOUND * (best.c.n + words.c.n), 1), else_=0)
    found = (
        sa.select(best.c.dictionary_id, best.c.model, sa.func.sum(detected).label("n"))
        .join(words, sa.and_(words.c.model == best.c.model, words.c.word == best.c.word))
        .group_by(best.c.dictionary_id, best.c.model)
    )
    return sa.select(words.c.model, sa.func.count().label("n")).group_by(words.c.model), found


WORDS_OF_MODEL, FOUND_BY_ROWS = _found_by_rows()


@dataclass(frozen=True, kw_only=True)
class DictionaryEntry:
    """A row of `dictionary`, its JSON parsed, with its summary and the two distributions of its page."""

    dictionary_id: int
    model: str
    source: str
    layer: int
    recipe: str
    origin: str
    architecture: str
    d_in: int
    d_sae: int
    k: int
    hook_name: str
    anchor_kind: str
    model_path: str
    model_identity: str
    dictionary_identity: str
    checkpoint_path: str
    lens_path: str
    text: str
    corpus: str
    n_tokens: int
    n_passages: int
    vocab_size: int
    histogram_edges: list[float]
    position_edges: list[int]
    position_totals: list[int]
    training: dict[str, Any]
    metrics: dict[str, Any]
    causal: dict[str, Any] | None
    mean_norm: float | None
    previous_dictionary: int | None
    next_dictionary: int | None
    summary: LayerSummary
    cosine_histogram: Histogram
    density_histogram: Histogram

    @property
    def id(self) -> str:
        return f"{self.model}/{self.source}"


class OpenBuild:
    """Raises NoIndex where the build is gone, Damaged where its dictionaries cannot be read, WrongVersion
    where another version of the schema wrote it, Unreachable.
    """

    def __init__(self, backend: Backend, build: str) -> None:
        self.id = build
        self._backend = backend
        self.engine = backend.open(build)
        self.users = 0
        self.retired = False
        self._vocabularies: dict[str, SearchVocabulary] = {}
        self._cache: dict[Hashable, Any] = {}
        self._latest: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
        try:
            self._check_version()
            self.dictionaries = {entry.dictionary_id: entry for entry in self._dictionaries()}
        except (ValueError, TypeError, KeyError) as error:  # pydantic's and JSON's among them
            self.engine.dispose()
            raise Damaged(f"{backend.name(build)} is damaged: {MAKE_ONE}") from error
        except BaseException:
            self.engine.dispose()
            raise
        self.by_source = {(entry.model, entry.source): entry for entry in self.dictionaries.values()}
        self.models = sorted({entry.model for entry in self.dictionaries.values()})

    def _check_version(self) -> None:
        [row] = self.rows(sa.select(schema.meta.c.schema_version))
        if row.schema_version != schema.SCHEMA_VERSION:
            raise WrongVersion(
                f"{self._backend.name(self.id)} has schema version {row.schema_version}, this program reads "
                f"{schema.SCHEMA_VERSION}: rebuild it, {MAKE_ONE}",
                kept="Checkpoints are unchanged; only the index has to be made again.",
            )

    def _dictionaries(self) -> list[DictionaryEntry]:
        summaries = {row.dictionary_id: row for row in self.rows(sa.select(schema.layer_summary))}
        order = (schema.dictionary.c.model, schema.dictionary.c.layer, schema.dictionary.c.source)
        entries, found = [], self._found_by_rows()
        for row in self.rows(sa.select(schema.dictionary).order_by(*order)):
            own, sums = dict(row._mapping), dict(summaries[row.dictionary_id]._mapping)
            numbers = {name: sums[name] for name in SUMMED}
            from_dictionary = {name: own[name] for name in SUMMARY_FROM_DICTIONARY}
            by_verdict = {
                name: json.loads(sums[name]) for name in ("verdicts", "verdict_firings", "write_verdicts")
            }
            rows = {"finds_rows": found.get(row.dictionary_id)}
            summary = LayerSummary(**from_dictionary, **numbers, **by_verdict, **rows)
            own |= {"training": json.loads(own["training"]), "metrics": json.loads(own["metrics"])}
            own["causal"] = None if own["causal"] is None else json.loads(own["causal"])
            entries.append(
                DictionaryEntry(
                    **own,
                    summary=summary,
                    cosine_histogram=Histogram(
                        edges=sums["cosine_edges"],
                        counts=sums["cosine_counts"],
                        zeros=own["d_sae"] - sums["n_live"],
                    ),
                    density_histogram=Histogram(
                        edges=sums["density_edges"],
                        counts=sums["density_counts"],
                        zeros=own["d_sae"] - sum(sums["density_counts"]),
                    ),
                )
            )
        return entries

    def _found_by_rows(self) -> dict[int, float]:
        """The measure `finds_rows`, by dictionary_id."""
        of_model: dict[str, int] = {row.model: row.n for row in self.rows(WORDS_OF_MODEL)}
        return {row.dictionary_id: row.n / of_model[row.model] for row in self.rows(FOUND_BY_ROWS)}

    def rows(self, statement: sa.Select[Any], **values: object) -> Sequence[Row]:
        """All rows of a statement. Raises as `run`."""
        return self.run(statement, lambda result: result.all(), **values)

    def run(
        self,
        statement: sa.Select[Any],
        fetch: Callable[[sa.CursorResult[*tuple[Any, ...]]], Fetched],
        **values: object,
    ) -> Fetched:
        """What `fetch` makes of a statement's result. A dead connection is replaced once. Raises Unreachable,
        or NoIndex where the build was damaged or deleted.
        """
        for last in (False, True):
            try:
                with self.engine.connect() as connection:
                    return fetch(connection.execute(statement, values))
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, duckdb.Error) as error:
                if last or not getattr(error, "connection_invalidated", False):
                    raise self._backend.failure(error, self.id) from error
        raise AssertionError

    def cached(self, key: Hashable, make: Callable[[], Cached]) -> Cached:
        """The result of the first call with this key; a build never changes."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def remembered(self, key: Hashable, make: Callable[[], Cached]) -> Cached:
        """As `cached`, for keys that requests choose: the latest REMEMBERED are kept."""
        with self._lock:
            if key in self._latest:
                self._latest.move_to_end(key)
                return self._latest[key]
        made = make()
        with self._lock:
            self._latest[key] = made
            while len(self._latest) > REMEMBERED:
                self._latest.popitem(last=False)
        return made

    def of_model(self, model: str) -> list[DictionaryEntry]:
        """A model's dictionaries in layer order. Raises NotFound."""
        entries = [entry for entry in self.dictionaries.values() if entry.model == model]
        if not entries:
            raise NotFound(f"there is no model {model!r}: the index holds {_listed(self.models)}")
        return entries

    def chosen(
        self, model: str | None = None, source: str | None = None, layer: int | None = None
    ) -> list[DictionaryEntry]:
        """The dictionaries of a model, a source and a layer, each where it is given, in layer order. Raises
        NotFound for one that the index, or the model, lacks.
        """
        entries = list(self.dictionaries.values()) if model is None else self.of_model(model)
        whose = "the index" if model is None else model
        sources = list(dict.fromkeys(entry.source for entry in entries))
        layers = sorted({entry.layer for entry in entries})
        if source is not None and source not in sources:
            raise NotFound(f"{whose} has no dictionary {source!r}: it has {_listed(sources)}")
        if layer is not None and layer not in layers:
            listed = ", ".join(map(str, layers))
            raise NotFound(f"{whose} has no dictionary at layer {layer}: it has layers {listed}")
        return [entry for entry in entries if source in (None, entry.source) and layer in (None, entry.layer)]

    def dictionary(self, model: str, source: str) -> DictionaryEntry:
        """Raises NotFound."""
        return self.by_source.get((model, source)) or self.chosen(model, source)[0]

    def vocabulary(self, model: str) -> SearchVocabulary:
        with self._lock:
            if model not in self._vocabularies:
                own, named = schema.token.c, schema.carried.c
                joined = schema.token.outerjoin(
                    schema.carried, sa.and_(named.model == own.model, named.token_id == own.token_id)
                )
                columns = (
                    own.token_id,
                    own.shown,
                    own.raw,
                    own.folded,
                    own.word,
                    own.count,
                    sa.func.coalesce(named.n_features, 0),
                )
                rows = self.rows(sa.select(*columns).select_from(joined).where(own.model == model))
                entries = [
                    VocabularyEntry(Token(id=row[0], shown=row[1], raw=row[2]), *row[3:]) for row in rows
                ]
                self._vocabularies[model] = SearchVocabulary(model, entries)
            return self._vocabularies[model]

    def token(self, model: str, token_id: int) -> Token:
        """Raises NotFound."""
        self.of_model(model)
        vocabulary = self.vocabulary(model)
        if token_id not in vocabulary.place_of:
            lowest, highest = min(vocabulary.place_of), max(vocabulary.place_of)
            raise NotFound(f"{model} has no token {token_id}: its ids go from {lowest} to {highest}")
        return vocabulary.get(token_id)

    def ref(self, row: Row) -> FeatureRef:
        """The feature of a row that begins with REF_COLUMNS."""
        dictionary_id, index, relation, words, share, verdict, name, cosine, density = row[:9]
        writes, write_verdict = row[9:11]
        entry = self.dictionaries[dictionary_id]
        vocabulary = self.vocabulary(entry.model)
        return FeatureRef(
            id=f"{entry.id}/{index}",
            model=entry.model,
            source=entry.source,
            layer=entry.layer,
            index=index,
            relation=relation or None,
            words=vocabulary.shown(words),
            share=share if relation else None,
            verdict=verdict,
            name=vocabulary.get(name),
            cosine=cosine,
            density=density,
            writes=vocabulary.shown(writes),
            write_verdict=write_verdict,
        )


def scored(vocabulary: SearchVocabulary, ids: Sequence[int], scores: Sequence[float]) -> list[ScoredToken]:
    tokens = vocabulary.shown(ids)
    return [
        ScoredToken(id=t.id, shown=t.shown, raw=t.raw, score=s) for t, s in zip(tokens, scores, strict=True)
    ]


def _listed(names: Sequence[str]) -> str:
    """At most twelve names in a sentence."""
    return (", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")) or "none"
