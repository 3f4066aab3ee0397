"""One dictionary in the layout that Neuronpedia imports: what its own exporter, and SAEDashboard's
`neuronpedia_export.py`, write.

    OUT/config/explanation_type.jsonl, explanation_model_type.jsonl      what the explanations' typeName and model refer to
    OUT/{model}/{source}/release.jsonl model.jsonl sourceset.jsonl source.jsonl
    OUT/{model}/{source}/{features,activations,explanations}/batch-N.jsonl.gz

Contexts are the stretch a page of ours shows (32 tokens before, 16 after), because activations are known
there and nowhere else. Near misses have no place in the format and stay behind. Every line of a file has the
same keys: the importer reads them off the first.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from indexer.counts.firings import AFTER, BEFORE
from indexer.exchange.export_folder import new_folder
from indexer.exchange.neuronpedia.token_spellings import plain
from lexiscope.records import VERDICT_WORDS
from lexiscope.settings import Settings
from store import Snapshot, Store

FEATURES_A_FILE = 1024
CREATOR = "clkht01d40000jv08hvalcvly"
"""The creator that Neuronpedia's and SAEDashboard's exporters fall back to; it exists in every Neuronpedia.
"""
EXPLANATION_TYPE, EXPLANATION_MODEL = "lexiscope_vocabulary-name", "lexiscope_no-language-model"
QUANTILES = 5


class Written(NamedTuple):
    folder: Path
    n_features: int
    n_activations: int


def export_neuronpedia(
    out: Path,
    *,
    settings: Settings,
    model: str,
    source: str,
    creator: str = CREATOR,
    started: Callable[[int], None] = lambda features: None,
    advance: Callable[[int], None] = lambda features: None,
) -> Written:
    """Write one dictionary of the served index to a folder that must not exist. Raises ExchangeError,
    NotFound, NoIndex.
    """
    store = Store(settings)
    try:
        with store.snapshot() as whole:
            part = whole.part(model=model, source=source)
            with new_folder(out) as folder:
                started(part.count("feature"))
                return _Export(part, folder, creator).write(advance)._replace(folder=out / model / source)
    finally:
        store.close()


class _Export:
    def __init__(self, part: Snapshot, out: Path, creator: str) -> None:
        self.part, self.out = part, out
        [self.entry] = part.dictionaries
        self.folder = out / self.entry.model / self.entry.source
        self.set_name = self.entry.source.partition("-")[2]
        self.now = datetime.now(UTC).isoformat(timespec="seconds")
        self.of = {"modelId": self.entry.model, "layer": self.entry.source}
        self.made = {"creatorId": creator, "createdAt": self.now}
        self.creator = creator
        self.spelling: dict[int, str] = {}
        self.shown: dict[int, str] = {}
        for piece in part.rows("token"):
            for token, shown, raw in zip(
                *(piece.column(name).to_pylist() for name in ("token_id", "shown", "raw")), strict=True
            ):
                self.spelling[token], self.shown[token] = plain(bytes.fromhex(raw), shown), shown
        edges = np.asarray(self.entry.histogram_edges)
        self.centres = [_short(centre) for centre in np.sqrt(edges[:-1] * edges[1:])]

    def write(self, advance: Callable[[int], None]) -> Written:
        self._write_headers()
        n_features = n_activations = 0
        for name in ("features", "activations", "explanations"):
            (self.folder / name).mkdir(parents=True)
        for number, start in enumerate(range(0, self.entry.d_sae, FEATURES_A_FILE)):
            asked = range(start, min(start + FEATURES_A_FILE, self.entry.d_sae))
            rows = self._rows("feature", asked)
            if not rows:
                continue
            with ExitStack() as files:
                features, activations, explanations = (
                    files.enter_context(_lines(self.folder / name / f"batch-{number}.jsonl.gz"))
                    for name in ("features", "activations", "explanations")
                )
                maxima = {row["index"]: row for row in rows}
                for row in rows:
                    _put(features, self._feature(row))
                    _put(explanations, self._explanation(row))
                for activation in self._activations(asked, maxima):
                    _put(activations, activation)
                    n_activations += 1
            n_features += len(rows)
            advance(len(rows))
        return Written(self.folder, n_features, n_activations)

    def _rows(self, table: str, features: range) -> list[dict[str, Any]]:
        return [
            row
            for piece in self.part.of_dictionary(table, self.entry, features=features)
            for row in piece.to_pylist()
        ]

    def _feature(self, row: dict[str, Any]) -> dict[str, Any]:
        filled = np.flatnonzero(row["histogram"])
        bins = slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 0)
        empty = (
            "neuron_alignment_indices",
            "neuron_alignment_values",
            "neuron_alignment_l1",
            "correlated_neurons_indices",
        )
        empty += (
            "correlated_neurons_pearson",
            "correlated_neurons_l1",
            "correlated_features_indices",
            "correlated_features_pearson",
        )
        empty += (
            "correlated_features_l1",
            "logits_hist_data_bar_heights",
            "logits_hist_data_bar_values",
            "decoder_weights_dist",
        )
        return {
            **self.of,
            "index": str(row["index"]),
            **self.made,
            "maxActApprox": _short(row["max_activation"]),
            "hasVector": False,
            "vector": [],
            "vectorLabel": None,
            "vectorDefaultSteerStrength": 10,
            "hookName": self.entry.hook_name,
            "topkCosSimIndices": row["neighbour_index"],
            "topkCosSimValues": [_short(value) for value in row["neighbour_cosine"]],
            **{name: [] for name in empty},
            "neg_str": self._spelled(row["neg_tokens"]),
            "neg_values": [_short(value) for value in row["neg_values"]],
            "pos_str": self._spelled(row["pos_tokens"]),
            "pos_values": [_short(value) for value in row["pos_values"]],
            "frac_nonzero": _short(row["density"]),
            "freq_hist_data_bar_heights": row["histogram"][bins],
            "freq_hist_data_bar_values": self.centres[bins],
            "sourceSetName": self.set_name,
        }

    def _explanation(self, row: dict[str, Any]) -> dict[str, Any]:
        name = self.shown.get(row["name_token"], f"⟨unused {row['name_token']}⟩")
        return {
            "id": self._id("explanation", row["index"]),
            **self.of,
            "index": str(row["index"]),
            "authorId": self.creator,
            "description": f"{name} · {VERDICT_WORDS[row['verdict']]}",
            "notes": f"A token of the vocabulary (id {row['name_token']}), at cosine {row['cosine']:.2f} of its anchor "
            f"({row['anchor_kind']}); no language model wrote it.",
            "typeName": EXPLANATION_TYPE,
            "explanationModelName": EXPLANATION_MODEL,
        }

    def _activations(self, features: range, rows: dict[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        contexts = [row for row in self._rows("context", features) if row["kind"] != "near_miss"]
        passages = self.part.passages(sorted({row["passage"] for row in contexts}))
        spans: dict[tuple[int, int], list[float]] = {}
        for row in contexts:
            if row["kind"] == "quantile":
                spans.setdefault((row["feature"], row["quantile"]), []).append(row["value"])
        for number, row in enumerate(contexts):
            passage, at = passages[row["passage"]], row["position"]
            start, end = max(0, at - BEFORE), min(len(passage), at + AFTER + 1)
            values = [0.0] * (end - start)
            for position, value in zip(row["positions"], row["values"], strict=True):
                if start <= position < end:
                    values[position - start] = _short(value)
            highest = max(values)
            feature = rows[row["feature"]]
            low, high, contains = -1.0, _short(feature["max_activation"]), -1.0
            if row["kind"] == "quantile":
                span = spans[row["feature"], row["quantile"]]
                low, high, contains = (
                    _short(min(span)),
                    _short(max(span)),
                    _short(feature["density"] / QUANTILES),
                )
            yield {
                "id": self._id("activation", features.start, number),
                "tokens": self._spelled(passage[start:end]),
                **self.of,
                "index": str(row["feature"]),
                "maxValue": highest,
                "maxValueTokenIndex": values.index(highest),
                "minValue": min(values),
                "values": values,
                **self.made,
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
        return [self.spelling.get(token, "<|outofrange|>") for token in tokens]

    def _id(self, *parts: Any) -> str:
        """The same for the same build, so that importing twice adds nothing twice."""
        key = "/".join(str(part) for part in (self.part.id, self.entry.id, *parts))
        return "lx" + sha256(key.encode()).hexdigest()[:23]

    def _write_headers(self) -> None:
        entry, public = self.entry, {"visibility": "PUBLIC"}
        self.folder.mkdir(parents=True)
        release = f"lexiscope-{entry.model}-{self.set_name}"
        about = f"Lexiscope {self.set_name}: features of {entry.model} named by its own vocabulary ({entry.recipe}, {entry.architecture})"
        noted = (
            f"Names are tokens: nearest {entry.anchor_kind} anchor of each decoder row, with evidence; no language model wrote them. "
            f"Contexts were picked by activation; quantiles are fifths of the firings. Index build {self.part.id}."
        )
        named = {"creatorName": "Lexiscope"}
        self._header(
            "release",
            {
                **{
                    "name": release,
                    "description": about,
                    "descriptionShort": about,
                    "urls": [],
                    "creatorNameShort": "Lexiscope",
                },
                **{
                    "isNewUi": False,
                    "featured": False,
                    "creatorEmail": None,
                    "defaultSourceSetName": None,
                    "defaultSourceId": None,
                },
                **{"defaultUmapSourceIds": [], **named, **self.made, **public},
            },
        )
        self._header(
            "model",
            {
                **{
                    "id": entry.model,
                    "instruct": entry.model.endswith("-it"),
                    "displayNameShort": entry.model,
                    "displayName": entry.model,
                },
                **{
                    "tlensId": None,
                    "dimension": entry.d_in,
                    "defaultSourceSetName": None,
                    "defaultSourceId": None,
                    "website": None,
                },
                **{
                    "inferenceEnabled": False,
                    "layers": 0,
                    "neuronsPerLayer": 0,
                    "owner": "",
                    "updatedAt": self.now,
                    **self.made,
                    **public,
                },
            },
        )
        self._header(
            "sourceset",
            {
                **{
                    "modelId": entry.model,
                    "name": self.set_name,
                    "description": about,
                    "type": "",
                    "urls": [],
                    "creatorEmail": None,
                },
                **{
                    "hasDashboards": True,
                    "releaseName": release,
                    "defaultOfModelId": None,
                    "defaultRange": 1,
                    "defaultShowBreaks": True,
                },
                **{
                    "showDfa": False,
                    "showCorrelated": False,
                    "showHeadAttribution": False,
                    "showUmap": False,
                },
                **named,
                **self.made,
                **public,
            },
        )
        per_prompt = round(entry.n_tokens / entry.n_passages) if entry.n_passages else 0
        self._header(
            "source",
            {
                **{
                    "id": entry.source,
                    "modelId": entry.model,
                    "setName": self.set_name,
                    "hasDashboards": True,
                    "inferenceEnabled": False,
                },
                **dict.fromkeys(
                    (
                        "saelensConfig",
                        "saelensRelease",
                        "saelensSaeId",
                        "hfRepoId",
                        "hfFolderId",
                        "defaultOfModelId",
                    )
                ),
                **{
                    "hasUmap": False,
                    "hasUmapLogSparsity": False,
                    "hasUmapClusters": False,
                    "dataset": entry.corpus,
                    "notes": noted,
                },
                **{
                    "num_prompts": entry.n_passages,
                    "num_tokens_in_prompt": per_prompt,
                    **self.made,
                    **public,
                },
            },
        )
        self._write_config(about)

    def _header(self, name: str, line: dict[str, Any]) -> None:
        (self.folder / f"{name}.jsonl").write_text(_line(line), encoding="utf-8")

    def _write_config(self, about: str) -> None:
        """Neuronpedia's explanations refer to a type and a model by name; these rows must be there before
        they are imported.
        """
        (self.out / "config").mkdir()
        common = {
            "featured": False,
            "url": None,
            "creatorName": "Lexiscope",
            "createdAt": self.now,
            "updatedAt": self.now,
        }
        kind = {
            "name": EXPLANATION_TYPE,
            "displayName": "vocabulary name",
            "isAttention": False,
            "settings": None,
            "creatorId": self.creator,
        }
        model = {"name": EXPLANATION_MODEL, "displayName": "no language model", "openRouterModelId": None}
        words = "The token whose anchor is nearest to the feature's direction, and whether what it fires on supports that name."
        for name, line in (("explanation_type", kind), ("explanation_model_type", model)):
            (self.out / "config" / f"{name}.jsonl").write_text(
                _line({**line, "description": words, **common}), encoding="utf-8"
            )


def _lines(path: Path) -> IO[str]:
    return gzip.open(path, "wt", compresslevel=5, encoding="utf-8")


def _put(file: IO[str], line: dict[str, Any]) -> None:
    file.write(_line(line))


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def _short(value: float) -> float:
    """The shortest decimal that reads back as the same 32-bit number."""
    return float(str(np.float32(value)))
