"""One dictionary in the layout that Neuronpedia imports: what its own exporter, and SAEDashboard's
`neuronpedia_export.py`, write.

    OUT/config/explanation_type.jsonl, explanation_model_type.jsonl      what explanations refer to by name
    OUT/{model}/{source}/release.jsonl model.jsonl sourceset.jsonl source.jsonl
    OUT/{model}/{source}/{features,activations,explanations}/batch-N.jsonl.gz

Contexts are the tokens that a feature's page shows (32 before, 16 after), because activations are known only
there. Near misses have no place in the format and are left out. Every line of a file has the same keys: the
importer reads the columns off the first line.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

from indexer.exchange.export_folder import export_folder
from indexer.exchange.neuronpedia.export_headers import explanation_headers, source_headers
from indexer.exchange.neuronpedia.token_spellings import OUT_OF_RANGE
from indexer.rows.context_rows import QUANTILES
from lexiscope.neuronpedia import (
    DEFAULT_STRENGTH,
    EMPTY_FEATURE_FIELDS,
    EXPLANATION_MODEL,
    EXPLANATION_TYPE,
    description,
    frequency_bars,
    notes,
    short,
    short_number,
)
from lexiscope.records import CONTEXT_AFTER, CONTEXT_BEFORE
from lexiscope.settings import Settings
from lexiscope.tokens import plain
from store import BuildSnapshot, DictionaryEntry, Store

FEATURES_A_FILE = 1024
CREATOR = "clkht01d40000jv08hvalcvly"
"""The creator that Neuronpedia's and SAEDashboard's exporters fall back to; it exists in every Neuronpedia.
"""
JsonObject = dict[str, Any]


@dataclass(frozen=True)
class NeuronpediaExportRequest:
    out: Path
    """a folder that must not exist"""
    model: str
    source: str
    creator: str = CREATOR
    """the Neuronpedia user that the rows belong to"""


class NeuronpediaExport(NamedTuple):
    folder: Path
    n_features: int
    n_activations: int


def export_neuronpedia(
    request: NeuronpediaExportRequest,
    *,
    settings: Settings,
    started: Callable[[int], None] = lambda features: None,
    advance: Callable[[int], None] = lambda features: None,
) -> NeuronpediaExport:
    """Write one dictionary of the served index. `started` is called with the number of its features,
    `advance` with features written. Raises ExchangeError, NotFound, NoIndex.
    """
    store = Store(settings)
    try:
        with store.snapshot() as served:
            part = served.part(model=request.model, source=request.source)
            with export_folder(request.out) as folder:
                started(part.count("feature"))
                n_features, n_activations = _Writer(part, folder, request.creator).write(advance)
    finally:
        store.close()
    return NeuronpediaExport(request.out / request.model / request.source, n_features, n_activations)


class _Writer:
    def __init__(self, part: BuildSnapshot, out: Path, creator: str) -> None:
        self.part, self.out, self.creator = part, out, creator
        [self.entry] = part.dictionaries
        self.folder = out / self.entry.model / self.entry.source
        self.now = datetime.now(UTC).isoformat(timespec="seconds")
        self.lines = _Lines(part, self.entry, {"creatorId": creator, "createdAt": self.now})

    def write(self, advance: Callable[[int], None]) -> tuple[int, int]:
        """(features, activations) written."""
        for name in ("features", "activations", "explanations"):
            (self.folder / name).mkdir(parents=True)
        self._write_headers()
        n_features = n_activations = 0
        d_sae = self.entry.d_sae
        for number, start in enumerate(range(0, d_sae, FEATURES_A_FILE)):
            numbers = range(start, min(start + FEATURES_A_FILE, d_sae))
            rows = {row["index"]: row for row in self._rows("feature", numbers)}
            if rows:
                n_activations += self._write_batch(number, numbers, rows)
                n_features += len(rows)
                advance(len(rows))
        return n_features, n_activations

    def _write_batch(self, number: int, numbers: range, rows: dict[int, JsonObject]) -> int:
        """The number of activations written."""
        contexts = [row for row in self._rows("context", numbers) if row["kind"] != "near_miss"]
        activations = 0
        with ExitStack() as opened:
            files = {
                name: opened.enter_context(_gzip_lines(self.folder / name / f"batch-{number}.jsonl.gz"))
                for name in ("features", "activations", "explanations")
            }
            for row in rows.values():
                files["features"].write(_line(self.lines.feature(row)))
                files["explanations"].write(_line(self.lines.explanation(row)))
            for activation in self.lines.activations(contexts, rows, first=numbers.start):
                files["activations"].write(_line(activation))
                activations += 1
        return activations

    def _rows(self, table: str, features: range) -> list[JsonObject]:
        pieces = self.part.of_dictionary(table, self.entry, features=features)
        return [row for piece in pieces for row in piece.to_pylist()]

    def _write_headers(self) -> None:
        config = self.out / "config"
        config.mkdir()
        for name, line in source_headers(
            self.entry, build=self.part.id, creator=self.creator, now=self.now
        ).items():
            (self.folder / f"{name}.jsonl").write_text(_line(line), encoding="utf-8")
        for name, line in explanation_headers(creator=self.creator, now=self.now).items():
            (config / f"{name}.jsonl").write_text(_line(line), encoding="utf-8")


class _Lines:
    """Rows of the index as Neuronpedia's lines."""

    def __init__(self, part: BuildSnapshot, entry: DictionaryEntry, created: JsonObject) -> None:
        self.part, self.entry, self.created = part, entry, created
        self.identity = {"modelId": entry.model, "layer": entry.source}
        self.spelling: dict[int, str] = {}
        self.shown: dict[int, str] = {}
        for piece in part.rows("token"):
            columns = (piece.column(name).to_pylist() for name in ("token_id", "shown", "raw"))
            for token, shown, raw in zip(*columns, strict=True):
                self.spelling[token], self.shown[token] = plain(bytes.fromhex(raw), shown), shown

    def feature(self, row: JsonObject) -> JsonObject:
        middles, heights = frequency_bars(self.entry.histogram_edges, row["histogram"])
        return {
            **self.identity,
            "index": str(row["index"]),
            **self.created,
            "maxActApprox": short_number(row["max_activation"]),
            "hasVector": False,
            "vector": [],
            "vectorLabel": None,
            "vectorDefaultSteerStrength": DEFAULT_STRENGTH,
            "hookName": self.entry.hook_name,
            "topkCosSimIndices": row["neighbour_index"],
            "topkCosSimValues": short(row["neighbour_cosine"]),
            **{name: [] for name in EMPTY_FEATURE_FIELDS},
            "neg_str": self._spelled(row["neg_tokens"]),
            "neg_values": short(row["neg_values"]),
            "pos_str": self._spelled(row["pos_tokens"]),
            "pos_values": short(row["pos_values"]),
            "frac_nonzero": short_number(row["density"]),
            "freq_hist_data_bar_heights": heights,
            "freq_hist_data_bar_values": middles,
            "sourceSetName": self.entry.source.partition("-")[2],
        }

    def explanation(self, row: JsonObject) -> JsonObject:
        token = row["name_token"]
        anchor = self.shown.get(token, f"⟨unused {token}⟩")
        words = [self.shown.get(word, f"⟨unused {word}⟩") for word in row["word_tokens"]]
        return {
            "id": self._id("explanation", row["index"]),
            **self.identity,
            "index": str(row["index"]),
            "authorId": self.created["creatorId"],
            "description": description(anchor, row["relation"], words, row["relation_share"], row["verdict"]),
            "notes": notes(anchor, token, row["anchor_kind"], row["cosine"]),
            "typeName": EXPLANATION_TYPE,
            "explanationModelName": EXPLANATION_MODEL,
        }

    def activations(
        self, contexts: Sequence[JsonObject], features: dict[int, JsonObject], *, first: int
    ) -> Iterator[JsonObject]:
        """A line for each context of features numbered from `first`."""
        passages = self.part.passages(sorted({row["passage"] for row in contexts}))
        quantiles: dict[tuple[int, int], list[float]] = {}
        for row in contexts:
            if row["kind"] == "quantile":
                quantiles.setdefault((row["feature"], row["quantile"]), []).append(row["value"])
        for number, row in enumerate(contexts):
            passage, at = passages[row["passage"]], row["position"]
            start, end = max(0, at - CONTEXT_BEFORE), min(len(passage), at + CONTEXT_AFTER + 1)
            values = [0.0] * (end - start)
            for position, value in zip(row["positions"], row["values"], strict=True):
                if start <= position < end:
                    values[position - start] = short_number(value)
            feature, highest = features[row["feature"]], max(values)
            low, high, contains = -1.0, short_number(feature["max_activation"]), -1.0
            if row["kind"] == "quantile":
                span = quantiles[row["feature"], row["quantile"]]
                low, high, contains = short([min(span), max(span), feature["density"] / QUANTILES])
            yield {
                "id": self._id("activation", first, number),
                "tokens": self._spelled(passage[start:end]),
                **self.identity,
                "index": str(row["feature"]),
                "maxValue": highest,
                "maxValueTokenIndex": values.index(highest),
                "minValue": min(values),
                "values": values,
                **self.created,
                "dataIndex": str(row["passage"]),
                "dataSource": self.entry.corpus,
                "dfaValues": [],
                "dfaTargetIndex": None,
                "dfaMaxValue": None,
                "lossValues": [],
                "logitContributions": None,
                "binMin": low,
                "binMax": high,
                "binContains": contains,
                "qualifyingTokenIndex": at - start,
            }

    def _spelled(self, tokens: Sequence[int]) -> list[str]:
        return [self.spelling.get(token, OUT_OF_RANGE) for token in tokens]

    def _id(self, *parts: object) -> str:
        """The same for the same build, so that importing twice adds nothing twice."""
        key = "/".join(str(part) for part in (self.part.id, self.entry.id, *parts))
        return "lx" + sha256(key.encode()).hexdigest()[:23]


def _gzip_lines(path: Path) -> IO[str]:
    return gzip.open(path, "wt", compresslevel=5, encoding="utf-8")


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"
