"""A dictionary goes to Neuronpedia's layout and back; dashboards of other tools become a read-only
dictionary, or say what is wrong.
"""

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexer.exchange import (
    ExchangeError,
    NeuronpediaExportRequest,
    NeuronpediaImport,
    NeuronpediaImportRequest,
    export_neuronpedia,
    import_neuronpedia,
)
from indexer.exchange.neuronpedia import dashboard_files
from indexer.exchange.neuronpedia.token_spellings import TokenizerSpellings
from indexer.rows.model_rows import token_table
from lexiscope.checkpoint import AnchorFit, Checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.records import CONTEXT_AFTER, VERDICT_WORDS, Context, FeatureRecord, Filters
from lexiscope.selection import TopK
from lexiscope.settings import Settings
from lexiscope.tokens import Vocabulary, plain
from store import BuildWriter, NotFound, Store
from tests.indexer import dashboards
from tests.store import synthetic

FEATURE_KEYS = """
modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel
vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices
neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson
correlated_neurons_l1 correlated_features_indices correlated_features_pearson correlated_features_l1
neg_str neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values
logits_hist_data_bar_heights logits_hist_data_bar_values decoder_weights_dist sourceSetName
""".split()
ACTIVATION_KEYS = """
id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource dataIndex
dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains
qualifyingTokenIndex
""".split()
"""Neuronpedia's columns, as SAEDashboard's neuronpedia_export.py writes them"""


def publish_tiny(settings: Settings, model: LanguageModel) -> None:
    """A synthetic dictionary whose tokens are the tiny model's."""
    entry = synthetic.Dictionary(model.id, 1)
    size = {"vocabulary": model.vocab_size}
    with BuildWriter(settings) as builder:
        vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
        builder.add("token", token_table(model, vocabulary, np.arange(model.vocab_size)))
        builder.add("passage", synthetic.passage_table(range(40), corpus="nothing", length=64, **size))
        builder.add("dictionary", synthetic.dictionary_table(0, entry, links=(False, False), **size))
        builder.add("layer_summary", synthetic.summary_table(0, entry))
        builder.add("feature", synthetic.feature_table(0, entry, seed=1, links=(False, False), **size))
        builder.add("context", synthetic.context_table(0, entry, passages=range(40), length=64, seed=1))
        builder.publish()


@pytest.fixture(scope="module")
def served(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(index=tmp_path_factory.mktemp("served"))
    publish_tiny(settings, model)
    return settings


@pytest.fixture(scope="module")
def exported(served: Settings, model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("neuronpedia") / "out"
    export_neuronpedia(NeuronpediaExportRequest(out, model.id, "1-vasae"), settings=served)
    return out


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(index=tmp_path / "index")


def lines(path: Path) -> list[dict[str, Any]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def record(settings: Settings, model: LanguageModel, index: int, source: str = "1-res-jb") -> FeatureRecord:
    store = Store(settings)
    try:
        return store.feature(model.id, source, index).feature
    finally:
        store.close()


def imported(folder: Path, model: LanguageModel, settings: Settings, **given: Any) -> NeuronpediaImport:
    request = NeuronpediaImportRequest(folder, lambda: model, **given)
    return import_neuronpedia(request, settings=settings)


# --- out ---


def test_the_export_has_neuronpedias_layout_and_columns(exported: Path, model: LanguageModel) -> None:
    source = exported / model.id / "1-vasae"
    for name, key in (("release", "name"), ("model", "id"), ("sourceset", "name"), ("source", "id")):
        [line] = lines(source / f"{name}.jsonl")
        assert line[key]
    for name, keys in (("features", FEATURE_KEYS), ("activations", ACTIVATION_KEYS)):
        rows = lines(source / name / "batch-0.jsonl.gz")
        assert {tuple(row) for row in rows} == {tuple(rows[0])}, (
            "Neuronpedia reads the columns off the first line"
        )
        assert set(rows[0]) == set(keys)
        assert all(isinstance(row["index"], str) and row["layer"] == "1-vasae" for row in rows)
    [kind], [writer] = (
        lines(exported / "config" / f"{name}.jsonl")
        for name in ("explanation_type", "explanation_model_type")
    )
    explanations = lines(source / "explanations" / "batch-0.jsonl.gz")
    assert {(row["typeName"], row["explanationModelName"]) for row in explanations} == {
        (kind["name"], writer["name"])
    }
    assert "no language model" in explanations[0]["notes"]


def test_names_go_out_as_explanations_with_their_verdict(
    exported: Path, served: Settings, model: LanguageModel
) -> None:
    explanations = lines(exported / model.id / "1-vasae" / "explanations" / "batch-0.jsonl.gz")
    assert len(explanations) == 200
    for index in (0, 3, 9):
        feature = record(served, model, index, "1-vasae")
        described, fires = explanations[index]["description"], feature.fires
        if fires is None:
            assert described == f"{feature.name.shown} · {VERDICT_WORDS[feature.verdict]}"
        else:
            listed = ", ".join(word.shown for word in fires.words)
            assert described.startswith(f"fires {fires.relation} {listed} ({fires.share:.0%} of its firings)")
            assert described.endswith(VERDICT_WORDS[feature.verdict])


def test_activations_are_written_out_as_the_page_shows_them(
    exported: Path, served: Settings, model: LanguageModel
) -> None:
    rows = [
        row
        for row in lines(exported / model.id / "1-vasae" / "activations" / "batch-0.jsonl.gz")
        if row["index"] == "4"
    ]
    feature = record(served, model, 4, "1-vasae")
    shown = [context for context in feature.contexts if context.kind != "near_miss"]
    assert len(rows) == len(shown) > 0
    assert [row["values"] for row in rows if row["binMin"] == -1] == [
        context.values for context in shown if context.kind == "top"
    ]
    for row in rows:
        assert len(row["tokens"]) == len(row["values"])
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["values"][row["qualifyingTokenIndex"]] == 2.5
        assert row["binMin"] == -1 or row["binMin"] <= 2.5 <= row["binMax"]


def test_an_export_of_nothing_or_over_something_is_refused(
    served: Settings, model: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="holds no tiny/7-vasae"):
        export_neuronpedia(NeuronpediaExportRequest(tmp_path / "a", model.id, "7-vasae"), settings=served)
    (tmp_path / "b").mkdir()
    with pytest.raises(ExchangeError, match="exists already"):
        export_neuronpedia(NeuronpediaExportRequest(tmp_path / "b", model.id, "1-vasae"), settings=served)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


# --- out and in again ---


def distinct(contexts: list[Context]) -> set[tuple[Any, ...]]:
    """Contexts but for their passages' ids and quantiles, repeats left out."""
    found = {}
    for context in contexts:
        tokens = tuple(token.id for token in context.tokens)
        around = tokens[max(0, context.position - 8) : context.position + 5]
        key = (context.kind, tokens if context.kind == "top" else around)
        found.setdefault(key, (context.kind, tokens, tuple(context.values), context.position, context.value))
    return set(found.values())


def test_an_export_imported_again_shows_the_same_features_contexts_and_logits(
    exported: Path, served: Settings, model: LanguageModel, settings: Settings
) -> None:
    found = imported(exported, model, settings, set_name="again")
    assert found.n_features == 200 and not found.unknown and not found.n_silent
    ours, theirs = Store(served), Store(settings)
    for index in range(0, 200, 7):
        before, after = (
            ours.feature(model.id, "1-vasae", index).feature,
            theirs.feature(model.id, "1-again", index).feature,
        )
        assert distinct([c for c in before.contexts if c.kind != "near_miss"]) == distinct(after.contexts)
        assert (
            after.logits_positive == before.logits_positive
            and after.logits_negative == before.logits_negative
        )
        assert (after.density, after.max_activation) == (before.density, before.max_activation)
    ours.close()
    with theirs.snapshot() as snapshot:
        [entry] = snapshot.dictionaries
        assert (entry.origin, entry.checkpoint_path, entry.k, entry.d_sae) == ("neuronpedia", "", 0, 200)


def test_imported_dictionaries_stand_beside_our_own(
    exported: Path, model: LanguageModel, settings: Settings
) -> None:
    publish_tiny(settings, model)
    imported(exported, model, settings, set_name="again")
    store = Store(settings)
    assert {layer.source for layer in store.home().models[0].layers} == {"1-vasae", "1-again"}
    assert store.feature(model.id, "1-vasae", 4).feature.contexts
    with store.snapshot() as snapshot:
        count = pa.concat_tables(snapshot.rows("token")).column("count").to_pylist()
    assert count == list(range(model.vocab_size)), "the indexed corpus keeps its counts"
    store.close()


# --- SAEDashboard's batches ---


@pytest.fixture(scope="module")
def batches(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dashboards.write(tmp_path_factory.mktemp("batches") / "run", model)


@pytest.fixture(scope="module")
def taken(batches: Path, model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(index=tmp_path_factory.mktemp("taken"))
    imported(batches, model, settings)
    return settings


def test_a_feature_is_named_by_the_token_it_peaks_on(taken: Settings, model: LanguageModel) -> None:
    for index, word in enumerate(dashboards.TARGETS):
        feature = record(taken, model, index)
        assert feature.name.shown == word.replace(" ", "␣")
        assert feature.anchor_kind == "imported: peak token" and feature.cosine == 0
        assert (
            feature.verdict == "untested"
            and feature.fires is None
            and feature.evidence is not None
            and feature.evidence.reads_here.value == 1
        )
    silent = record(taken, model, dashboards.SILENT)
    assert silent.verdict == "dead" and not silent.contexts and "never fires" in silent.anchor_kind
    assert silent.name.id == silent.logits_positive[0].id


def test_contexts_show_each_text_once_and_fire_where_they_say(taken: Settings, model: LanguageModel) -> None:
    texts = {tuple(prompt) for prompt in dashboards.prompts(model)}
    feature = record(taken, model, 0)
    top = [
        tuple(token.id for token in context.tokens) for context in feature.contexts if context.kind == "top"
    ]
    assert len(set(top)) == len(top) and set(top) <= texts
    for context in feature.contexts:
        assert context.values[context.position] == pytest.approx(context.value) and context.value > 0
        expected = dashboards.values(model, [token.id for token in context.tokens], 0)
        assert context.values == pytest.approx(expected)
    values = [context.value for context in feature.contexts if context.kind == "top"]
    assert values == sorted(values, reverse=True)


def test_quantiles_are_fifths_of_the_firings_and_not_equal_widths(
    taken: Settings, model: LanguageModel
) -> None:
    feature, firing = record(taken, model, 1), []
    for prompt in dashboards.prompts(model):
        firing += [value for value in dashboards.values(model, prompt, 1) if value > 0]
    sampled = [context for context in feature.contexts if context.kind == "quantile"]
    for context in sampled:
        share = np.mean(np.array(firing) < context.value)
        assert context.quantile is not None and abs(context.quantile / 5 - share) <= 0.2
    assert len({context.quantile for context in sampled}) > 3


def test_density_and_histogram_are_of_their_run_and_firings_of_the_contexts(
    taken: Settings, model: LanguageModel
) -> None:
    feature, there = record(taken, model, 2), dashboards.feature(model, 2)
    assert feature.density == pytest.approx(there["frac_nonzero"])
    assert sum(feature.histogram.counts) == sum(there["freq_hist_data_bar_heights"])
    assert feature.n_tokens == there["n_prompts_total"] * there["n_tokens_in_prompt"]
    assert 0 < feature.n_firings < sum(there["freq_hist_data_bar_heights"])
    assert (
        feature.evidence is not None
        and feature.evidence.n_firings == feature.n_firings
        and feature.evidence.name_rank is None
    )


def test_the_dictionarys_page_says_where_it_is_from(taken: Settings, model: LanguageModel) -> None:
    store = Store(taken)
    page = store.dictionary_page(model.id, "1-res-jb", Filters())
    assert (page.summary.origin, page.summary.layer, page.summary.d_sae) == (
        "neuronpedia",
        1,
        dashboards.SILENT + 1,
    )
    assert page.training["their_dataset"] == "tiny text" and "Read-only" in page.training["note"]
    assert page.summary.l0 == pytest.approx(
        sum(dashboards.feature(model, index)["frac_nonzero"] for index in range(4))
    )
    store.close()


@pytest.mark.parametrize("way", dashboards.SPELLINGS)
def test_tokens_are_read_however_a_tool_spells_them(
    way: str, model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    spell = dashboards.SPELLINGS[way]
    features = [dashboards.feature(model, index, spell=spell) for index in range(2)]
    imported(dashboards.write(tmp_path / "run", model, features), model, settings)
    shown = {tuple(token.id for token in context.tokens) for context in record(settings, model, 0).contexts}
    assert shown <= {
        tuple(prompt[: place + CONTEXT_AFTER + 1])
        for prompt in dashboards.prompts(model)
        for place in range(len(prompt))
    }


def test_the_order_of_features_and_files_does_not_matter(
    taken: Settings, model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    features = [dashboards.feature(model, index) for index in (3, 0, 4, 2, 1)]
    folder = dashboards.write(tmp_path / "run", model, features, a_file=1)
    os.rename(folder / "batch-4.json", folder / "batch-10.json")
    imported(folder, model, settings)
    for index in range(5):
        one, other = (
            record(where, model, index).model_dump(exclude={"contexts"}) for where in (taken, settings)
        )
        assert one == other


def test_skipped_features_count_and_have_no_page(
    model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    folder = dashboards.write(tmp_path / "run", model)
    (folder / "skipped_indexes.json").write_text(
        json.dumps({"model_id": model.id, "layer": "1", "skipped_indexes": [5, 9]})
    )
    assert imported(folder, model, settings).n_without_page == 2
    with Store(settings).snapshot() as snapshot:
        assert snapshot.dictionaries[0].d_sae == 10
    with pytest.raises(NotFound, match="indexed without feature 9"):
        record(settings, model, 9)


def test_a_few_strings_that_are_no_token_are_shown_as_unknown(
    model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    features = [dashboards.feature(model, index) for index in range(4)]
    features[0]["activations"][0]["tokens"][0] = "<|outofrange|>"
    features[0]["pos_str"][1] = "neverseen"
    found = imported(dashboards.write(tmp_path / "run", model, features), model, settings)
    assert found.unknown == {"<|outofrange|>": 1, "neverseen": 0}
    feature = record(settings, model, 0)
    assert feature.logits_positive[1].shown == "⟨unknown⟩"
    assert any(context.tokens[0].shown == "⟨unknown⟩" for context in feature.contexts)


def test_what_is_there_is_replaced_only_when_asked(
    batches: Path, model: LanguageModel, settings: Settings
) -> None:
    imported(batches, model, settings)
    with pytest.raises(ExchangeError, match="already holds tiny/1-res-jb"):
        imported(batches, model, settings)
    imported(batches, model, settings, replace=True)


def changed(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path, LanguageModel], None]:
    def spoil(folder: Path, model: LanguageModel) -> None:
        features = [dashboards.feature(model, index) for index in range(4)]
        change(features)
        dashboards.write(folder, model, features)

    return spoil


def of_another(folder: Path, model: LanguageModel) -> None:
    (folder / "batch-1.json").write_text(
        json.dumps(dashboards.batch(model, [dashboards.feature(model, 2)], model_id="gpt2-small"))
    )


def all_of_another(folder: Path, model: LanguageModel) -> None:
    for path in folder.glob("batch-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_id": "gpt2-small"}))


def of_layer(layer: Any) -> Callable[[Path, LanguageModel], None]:
    def spoil(folder: Path, model: LanguageModel) -> None:
        for path in folder.glob("batch-*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"layer": layer}))

    return spoil


def misspelled(features: list[dict[str, Any]]) -> None:
    for feature in features:
        for context in feature["activations"]:
            context["tokens"] = [f"⟪{token}⟫" for token in context["tokens"]]


def silenced(features: list[dict[str, Any]]) -> None:
    for feature in features:
        for context in feature["activations"]:
            context["values"] = [0.0] * len(context["values"])


def set_value(value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(features: list[dict[str, Any]]) -> None:
        features[2]["activations"][0]["values"][3] = value

    return change


SPOILT: dict[str, tuple[Callable[[Path, LanguageModel], object], str]] = {
    "nothing": (
        lambda folder, model: [path.unlink() for path in folder.iterdir()],
        "neither SAEDashboard's batch-0.json nor",
    ),
    "truncated": (
        lambda folder, model: os.truncate(folder / "batch-1.json", 4000),
        "batch-1.json is no whole JSON file",
    ),
    "not JSON": (
        lambda folder, model: (folder / "batch-0.json").write_text("<html>"),
        "batch-0.json is no whole JSON",
    ),
    "no features": (
        lambda folder, model: [
            path.write_text(json.dumps(dashboards.batch(model, []))) for path in folder.iterdir()
        ],
        "no feature",
    ),
    "no layer": (
        lambda folder, model: (folder / "batch-0.json").write_text('{"features": [], "model_id": "tiny"}'),
        "'layer' is missing",
    ),
    "a layer in words": (of_layer("last"), "layer is 'last'"),
    "a layer too many": (of_layer(7), "--layer"),
    "another dictionary": (of_another, r"batch-1.json is of another dictionary: gpt2-small"),
    "another model": (all_of_another, "model 'gpt2-small'.*--model-id"),
    "another tokenizer": (changed(misspelled), "of another tokenizer"),
    "no index": (
        changed(lambda features: features[1].pop("feature_index")),
        "batch-0.json: a feature's 'feature_index' is None",
    ),
    "no tokens": (
        changed(lambda features: features[2]["activations"][0].pop("tokens")),
        "batch-1.json, feature 2: 'tokens' is missing",
    ),
    "no logits": (changed(lambda features: features[3].pop("pos_str")), "feature 3: 'pos_str' is missing"),
    "no density": (
        changed(lambda features: features[0].pop("frac_nonzero")),
        "feature 0: 'frac_nonzero' is missing",
    ),
    "a density of 3": (changed(lambda features: features[0].update(frac_nonzero=3)), "frac_nonzero is 3"),
    "twice": (
        changed(lambda features: features.append(features[0])),
        "feature 0: the feature is in batch-0.json already",
    ),
    "NaN": (
        changed(set_value(float("nan"))),
        "batch-1.json is no whole JSON.* after 0 whole features.*NaN and Infinity",
    ),
    "null": (changed(set_value(None)), "feature 2: 'values' holds None"),
    "a word": (changed(set_value("high")), "feature 2: 'values' holds"),
    "a value less": (
        changed(lambda features: features[1]["activations"][0]["values"].pop()),
        "24 tokens and 23 values",
    ),
    "a logit less": (
        changed(lambda features: features[1]["pos_values"].pop()),
        "pos_str has 10 tokens, pos_values 9",
    ),
    "nothing fires": (changed(silenced), "No feature in .* fires"),
    "a vector of another width": (
        changed(lambda features: [f.update(vector=[0.0, 1.0]) for f in features]),
        "has 2 numbers, but tiny",
    ),
    "skipped and there": (
        lambda folder, model: (folder / "skipped_indexes.json").write_text('{"skipped_indexes": [3]}'),
        "feature 3 was skipped, but batch-1.json holds it",
    ),
    "skipped, unreadable": (
        lambda folder, model: (folder / "skipped_indexes.json").write_text('{"skipped"'),
        "skipped_indexes.json is not",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILT.values(), ids=SPOILT)
def test_files_that_cannot_be_right_say_so_and_publish_nothing(
    spoil: Callable[[Path, LanguageModel], object],
    says: str,
    model: LanguageModel,
    tmp_path: Path,
    settings: Settings,
) -> None:
    synthetic.publish(settings.index, [synthetic.Dictionary("mine", 0)])
    before = (settings.index / "CURRENT").read_text()
    folder = dashboards.write(
        tmp_path / "run", model, [dashboards.feature(model, index) for index in range(4)]
    )
    spoil(folder, model)
    with pytest.raises(ExchangeError, match=says) as error:
        imported(folder, model, settings)
    assert "Nothing was published" in error.value.kept
    assert (settings.index / "CURRENT").read_text() == before and not list(settings.index.glob("*.building*"))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda source: truncated(source / "activations" / "batch-0.jsonl.gz"), "cut short or damaged"),
        (
            lambda source: (source / "activations" / "batch-0.jsonl.gz").write_bytes(b"no gzip"),
            "cut short or damaged",
        ),
        (lambda source: (source / "activations" / "batch-0.jsonl.gz").unlink(), "no activations"),
        (
            lambda source: (source / "features" / "batch-0.jsonl.gz").write_bytes(
                gzip.compress(b'{"index": 1}\n{"ind')
            ),
            "'layer' is missing",
        ),
        (
            lambda source: (source / "features" / "batch-0.jsonl.gz").write_bytes(gzip.compress(b"[1]")),
            "line 1: not a JSON object",
        ),
    ],
    ids=["truncated", "not gzip", "no activations", "no layer", "no object"],
)
def test_a_broken_export_says_so(
    spoil: Callable[[Path], object],
    says: str,
    served: Settings,
    model: LanguageModel,
    tmp_path: Path,
    settings: Settings,
) -> None:
    export_neuronpedia(NeuronpediaExportRequest(tmp_path / "out", model.id, "1-vasae"), settings=served)
    spoil(tmp_path / "out" / model.id / "1-vasae")
    with pytest.raises(ExchangeError, match=says):
        imported(tmp_path / "out", model, settings, set_name="again")
    assert not (settings.index / "CURRENT").exists()


def with_vectors(model: LanguageModel) -> list[dict[str, Any]]:
    """Each feature's decoder row is its target's state after layer 1, alone after BOS, off the mean."""
    states = model.unigram_states(1)
    rows = (states - states.mean(0))[[dashboards.target(model, index) for index in range(4)]]
    return [dashboards.feature(model, index) | {"vector": row.tolist()} for index, row in enumerate(rows)]


def test_decoder_rows_name_features_by_their_nearest_anchor(
    model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    imported(dashboards.write(tmp_path / "run", model, with_vectors(model)), model, settings)
    for index in range(4):
        feature = record(settings, model, index)
        assert feature.anchor_kind.startswith("imported: ") and "peak" not in feature.anchor_kind
        assert 0 < feature.cosine <= 1 and feature.margin >= 0 and len(feature.next_names) == 5
        assert feature.evidence is not None and feature.evidence.name_rank is not None
        assert {near.index for near in feature.neighbours} == set(range(4)) - {index}


def test_a_checkpoint_brings_the_decoder_rows_and_must_be_the_same_dictionary(
    model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    features = with_vectors(model)
    rows = torch.tensor([feature.pop("vector") for feature in features])
    fit = AnchorFit(
        model.unigram_states(1),
        torch.ones(model.vocab_size),
        torch.zeros(model.d_model),
        torch.full((4,), -1),
        kind="states",
    )

    def checkpoint(directions: torch.Tensor) -> Checkpoint:
        n, width = directions.shape
        dictionary = Dictionary(directions.T, torch.zeros(n), directions, torch.zeros(width), TopK(1))
        return Checkpoint(tmp_path / "theirs", dictionary, {}, fit, {})

    folder = dashboards.write(tmp_path / "run", model, features)
    for wrong in (rows[:2], torch.zeros(4, 5)):
        with pytest.raises(ExchangeError, match="another dictionary"):
            imported(folder, model, settings, checkpoint=checkpoint(wrong))
    imported(folder, model, settings, checkpoint=checkpoint(rows))
    assert record(settings, model, 0).anchor_kind == "imported: states"


def test_another_model_is_accepted_when_a_person_says_it_is_the_same(
    model: LanguageModel, tmp_path: Path, settings: Settings
) -> None:
    folder = dashboards.write(tmp_path / "run", model)
    all_of_another(folder, model)
    imported(folder, model, settings, same_model=True, layer=0)
    assert record(settings, model, 0, "0-res-jb").contexts


# --- spellings and streams ---


def test_every_token_is_read_back_from_its_plain_spelling(model: LanguageModel) -> None:
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    spelled = [plain(raw, shown) for raw, shown in zip(vocabulary.raw, vocabulary.shown, strict=True)]
    spellings = TokenizerSpellings(model.tokenizer, model.vocab_size)
    assert spellings.choose(dict.fromkeys(spelled, 1)) == "plain"
    assert spellings.ids(spelled) == list(range(model.vocab_size))


NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
ITEMS = st.recursive(
    st.none() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(items=st.lists(ITEMS, max_size=6), indent=st.sampled_from([None, 2]), last=st.booleans())
def test_features_and_header_are_read_wherever_the_header_stands(
    items: list[Any], indent: int | None, last: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "stream.json"
    rest = {"model_id": "é\n", "layer": 12}
    whole = {**rest, "features": items} if last else {"features": items, **rest}
    path.write_text(json.dumps(whole, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert list(dashboard_files._stream_features(path)) == items
    header = [dashboard_files._header_field(path, name) for name in ("model_id", "layer", "sae_set")]
    assert header == ["é\n", 12, None]


@pytest.mark.slow
def test_memory_is_bounded_by_a_feature_and_not_by_the_file(tmp_path: Path) -> None:
    one, path = {"values": [0.5] * 5000}, tmp_path / "batch-0.json"
    path.write_text(json.dumps({"features": [one] * 400}))
    list(islice(dashboard_files._stream_features(path), 2))
    tracemalloc.start()
    n = sum(1 for _ in dashboard_files._stream_features(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 400 and peak < path.stat().st_size / 2
