"""An index says what features really do, and is published whole or not at all."""

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi.testclient import TestClient
from rich.console import Console

import indexer
from indexer.rows.context_rows import rounded
from lexiscope.checkpoint import load_checkpoint, new_checkpoint, save_weights
from lexiscope.errors import CheckpointError, LexiscopeError, TextError
from lexiscope.evidence import CHOOSING, JUDGING, FlatText, halves_of
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.measures import FEATURE
from lexiscope.records import FeatureRecord, Filters
from lexiscope.selection import AbsTopK
from lexiscope.settings import Settings
from lexiscope.text import passages
from server import create_app
from store import Store
from tests import tiny

QUIET = Console(quiet=True)


@pytest.fixture(scope="session")
def indexed(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    settings = Settings(index=tmp_path_factory.mktemp("index"))
    request = indexer.IndexRequest(length=48)
    indexer.index(
        [(model, map(load_checkpoint, runs))],
        [str(text_file)],
        settings=settings,
        console=QUIET,
        request=request,
    )
    return settings


def quick(
    settings: Settings, model: LanguageModel, runs: list[Path], text: Path, **given: object
) -> str | None:
    request = indexer.IndexRequest(**{"length": 48, "ablate": 0, **given})
    return indexer.index(
        [(model, map(load_checkpoint, runs))], [str(text)], settings=settings, console=QUIET, request=request
    )


def test_an_indexed_feature_has_its_contexts_and_they_fire_where_they_say(indexed: Settings) -> None:
    store = Store(indexed)
    page = store.dictionary_page(
        "tiny", "1-vasae", Filters(live=True, sort="density", descending=True, limit=5)
    )
    assert page.features
    for ref in page.features:
        feature = store.feature("tiny", "1-vasae", ref.index).feature
        top = [context for context in feature.contexts if context.kind == "top"]
        assert top and top[0].value == pytest.approx(feature.max_activation, rel=1e-3)
        assert [c.value for c in top] == sorted((c.value for c in top), reverse=True)
        assert len({c.passage for c in top}) == len(top)
        texts = [tuple(t.id for t in c.tokens[max(0, c.position - 8) : c.position + 5]) for c in top]
        assert len(set(texts)) == len(texts)
        for context in feature.contexts:
            assert len(context.tokens) == len(context.values)
            if context.kind != "near_miss":
                assert context.values[context.position] == pytest.approx(context.value, rel=5e-3)
        assert sum(feature.histogram.counts) == sum(feature.positions.counts) == feature.n_firings
        assert feature.histogram.zeros == feature.n_tokens - feature.n_firings
        assert sum(feature.positions.totals) == feature.n_tokens
        assert feature.density == pytest.approx(feature.n_firings / feature.n_tokens, rel=1e-4)
        assert feature.n_same_family >= feature.n_same_name >= 1
        assert feature.evidence is not None and feature.evidence.causal is not None
        quantiles = [c for c in feature.contexts if c.kind == "quantile"]
        by_quantile = {q: [c.value for c in quantiles if c.quantile == q] for q in range(5)}
        assert max(map(len, by_quantile.values())) <= 5
        for low, high in zip(range(4), range(1, 5), strict=True):
            if by_quantile[low] and by_quantile[high]:
                assert max(by_quantile[low]) <= min(by_quantile[high])


def test_an_index_in_bf16_says_what_one_in_float32_says(
    indexed: Settings,
    model: LanguageModel,
    runs: list[Path],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEXISCOPE_PRECISION", "bfloat16")
    settings = Settings(index=tmp_path)
    assert quick(settings, model, runs[:1], text_file)
    stores, width = (Store(indexed), Store(settings)), model.vocab_size
    pairs = [
        [store.feature("tiny", "0-vasae", index).feature for store in stores] for index in range(0, width, 7)
    ]
    live = [(exact, rounded) for exact, rounded in pairs if exact.n_firings > 20]
    assert len(live) > 10
    assert all(exact.name == rounded.name for exact, rounded in pairs)
    off = [abs(rounded.n_firings / exact.n_firings - 1) for exact, rounded in live]
    assert sum(off) / len(off) < 0.1


def test_a_signed_dictionary_is_counted_by_magnitude_and_shown_with_its_sign(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    plain = load_checkpoint(runs[-1])
    signed = replace(plain.dictionary, selection=AbsTopK(4))
    with new_checkpoint(tmp_path / "1-signed") as folder:
        save_weights(
            folder,
            signed,
            fit=plain.fit,
            model=plain.model,
            hook=plain.hook,
            context=48,
            details=plain.details | {"set": "signed"},
        )
    settings = Settings(index=tmp_path / "index")
    assert quick(settings, model, [tmp_path / "1-signed"], text_file)
    text = [torch.from_numpy(ids.astype("int64")) for ids in passages(model, [str(text_file)], length=48)]
    read = [model.read(ids[None], [plain.layer])[plain.layer][0, 1:].float() for ids in text]
    values = torch.cat([signed.pre_activations(x, ids[1:]) for x, ids in zip(read, text, strict=True)])
    largest = values.abs().topk(4).indices
    fired = torch.zeros_like(values).scatter(1, largest, values.gather(1, largest))
    for index in (fired < 0).sum(0).topk(5).indices.tolist():
        feature, own = Store(settings).feature("tiny", "1-signed", index).feature, fired[:, index]
        assert feature.n_firings == int((own != 0).sum())
        assert feature.negative_share == pytest.approx(float((own < 0).sum() / (own != 0).sum()), rel=1e-5)
        assert feature.max_activation == pytest.approx(float(own.abs().max()), rel=1e-4)
        assert feature.mean_activation == pytest.approx(float(own.sum() / (own != 0).sum()), abs=1e-3)
        top = [context.value for context in feature.contexts if context.kind == "top"]
        assert abs(top[0]) == pytest.approx(feature.max_activation, rel=1e-3)
        assert any(context.value < 0 for context in feature.contexts)
        assert sum(feature.histogram.counts) == feature.n_firings
    html = TestClient(create_app(settings)).get(f"/tiny/1-signed/{index}").text
    assert "<b>signed</b>" in html and ' below"' in html


def test_other_names_of_a_feature_take_the_shares_that_a_count_over_its_firings_gives(
    indexed: Settings, model: LanguageModel, runs: list[Path], text_file: Path
) -> None:
    dictionary = load_checkpoint(runs[0]).dictionary
    on: dict[int, Counter[int]] = {index: Counter() for index in range(dictionary.d_sae)}
    before: dict[int, Counter[int]] = {index: Counter() for index in range(dictionary.d_sae)}
    text = Counter[int]()
    for passage in passages(model, [str(text_file)], length=48):
        ids = torch.from_numpy(passage.astype("int64"))
        code = dictionary.encode(model.read(ids[None], [0])[0][0, 1:].float(), ids[1:])
        text.update(ids[1:].tolist())
        following = [*ids[2:].tolist(), -1]
        for row in range(len(following)):
            for value, index in zip(code.values[row].tolist(), code.indices[row].tolist(), strict=True):
                if value > 0:
                    on[index][int(ids[1 + row])] += 1
                    before[index][following[row]] += 1
    store, beaten = Store(indexed), set()
    for index in sorted(on, key=lambda index: -on[index].total())[:40]:
        feature, n = store.feature("tiny", "0-vasae", index).feature, on[index].total()
        gains = {
            token: hits / n * math.log(hits / n / (text[token] / text.total()))
            for token, hits in on[index].items()
        }
        token = max(gains, key=lambda token: (gains[token], -token))
        found, hits, named = feature.afterwards, on[index][token], on[index][feature.name.id]
        assert found is not None and found.lift is not None and feature.n_firings == n
        assert found.lift.id == token and found.lift.score == pytest.approx(hits / n, rel=1e-5)
        beats = token != feature.name.id and hits - named > 2.6 * math.sqrt(hits + named)
        assert found.beats_name == beats
        raised = int(model.read_out(dictionary.directions[[index]])[0].argmax())
        assert found.logit.id == raised
        assert found.logit_share == pytest.approx(before[index][raised] / n, rel=1e-5)
        beaten.add(beats)
    assert beaten == {True, False}


def test_every_layer_has_a_summary_and_every_token_a_page(
    indexed: Settings, model: LanguageModel, text_file: Path
) -> None:
    store = Store(indexed)
    (summary,) = store.home().models
    assert {layer.source for layer in summary.layers} == {"0-vasae", "1-vasae", "1-plain"}
    for layer in summary.layers:
        assert sum(layer.verdicts.values()) == layer.d_sae == model.vocab_size
        assert layer.holds_live is not None and 0 <= layer.holds_live <= 1
        assert sum(layer.verdict_firings.values()) == pytest.approx(1)
        assert layer.l0 == pytest.approx(4, abs=0.2)
        assert layer.text == text_file.name
    (cat,) = model.tokenise(" cat")
    assert store.token_page("tiny", cat).count > 0


def test_evidence_for_the_nearest_anchor_is_of_the_judged_passages_and_says_so(indexed: Settings) -> None:
    store = Store(indexed)
    with store.snapshot() as whole:
        part = whole.part(model="tiny", source="0-vasae")
        passage_rows = pa.concat_tables(part.rows("passage")).to_pylist()
        features = pa.concat_tables(part.rows("feature")).to_pylist()
        contexts = pa.concat_tables(part.rows("context")).to_pylist()
    halves = {
        row["passage_id"]: halves_of(FlatText([np.array(row["tokens"], np.int32)], filters=False))[0]
        for row in passage_rows
    }
    fired_in: dict[int, set[int]] = {}
    for row in contexts:
        if row["kind"] == "top":
            fired_in.setdefault(row["feature"], set()).add(halves[row["passage"]])
    unjudged = [row for row in features if row["n_firings"] and row["reads_here"] is None]
    assert unjudged
    for row in unjudged:
        assert fired_in[row["index"]] == {CHOOSING}
        assert store.feature("tiny", "0-vasae", row["index"]).feature.evidence is None
        assert row["recall"] is None and row["q_reads"] is None and row["lift_share"] is not None
    assert all(row["reads_here"] is not None for row in features if JUDGING in fired_in.get(row["index"], ()))
    for said in (FeatureRecord.model_fields["evidence"].description, FEATURE["reads_here"].comment):
        assert said is not None and "in the passages that names are judged on" in said


def test_shares_of_no_tested_feature_are_absent(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    settings = Settings(index=tmp_path)
    assert quick(settings, model, runs[:1], text_file, tokens=150)
    [summary] = Store(settings).home().models[0].layers
    assert summary.tested_live == summary.holds_live == 0
    absent = (summary.holds_tested, summary.share_tested, summary.chance_tested, summary.finds)
    assert absent == (None, None, None, None)
    browser = TestClient(create_app(settings))
    assert [browser.get(page).status_code for page in ("/", "/tiny/0-vasae")] == [200, 200]


def test_features_of_neighbouring_layers_that_fire_together_are_matched(indexed: Settings) -> None:
    store = Store(indexed)
    page = store.dictionary_page(
        "tiny", "1-vasae", Filters(live=True, sort="density", descending=True, limit=20)
    )
    matched = [
        found
        for ref in page.features
        for found in store.feature("tiny", "1-vasae", ref.index).feature.previous_coactive
    ]
    assert matched and all(found.layer == 0 and 0 < found.jaccard <= 1 for found in matched)


def test_tokens_that_are_no_whole_character_are_indexed_by_their_bytes(
    indexed: Settings, model: LanguageModel
) -> None:
    store = Store(indexed)
    (partial,) = (
        index for index in range(model.vocab_size) if model.tokenizer.convert_ids_to_tokens(index) == "â"
    )
    token = store.token_page("tiny", partial).token
    assert (token.shown, token.raw) == ("⟨E2⟩", "e2")


def test_indexing_one_dictionary_again_keeps_the_others(
    indexed: Settings, model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    before = Store(indexed).feature("tiny", "0-vasae", 3).feature
    settings = Settings(index=shutil.copytree(indexed.index, tmp_path / "index"))
    quick(settings, model, runs[2:], text_file, tokens=2000)
    store = Store(settings)
    assert {layer.source for layer in store.home().models[0].layers} == {"0-vasae", "1-vasae", "1-plain"}
    assert store.feature("tiny", "0-vasae", 3).feature.contexts == before.contexts


def test_a_dictionary_of_another_model_and_two_of_one_name_are_refused_and_the_old_index_serves(
    indexed: Settings, runs: list[Path], model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    build = Store(indexed).build_id()
    folder = tiny.make_model(tmp_path / "other")
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"n_embd": 32', '"n_embd": 16')
    )
    with pytest.raises(LexiscopeError):
        load_language_model(str(folder))
    run = load_checkpoint(runs[0])
    assert run.fit is not None
    narrow = run._replace(fit=run.fit._replace(anchors=run.fit.anchors[:-1]))
    with pytest.raises(CheckpointError, match="another model"):
        indexer.index([(model, [narrow])], [str(text_file)], settings=indexed, console=QUIET)
    with pytest.raises(
        indexer.IndexingError, match=r"Two dictionaries.*two calls, one of them with --set-name"
    ):
        indexer.index([(model, [run, run])], [str(text_file)], settings=indexed, console=QUIET)
    assert Store(indexed).build_id() == build


@pytest.mark.parametrize(
    ("text", "given", "error", "says"),
    [
        ("a", {}, TextError, "shorter than one passage"),
        (
            tiny.text(400),
            {"shard": indexer.parse_shard("2/2")},
            indexer.IndexingError,
            "has nothing to read: the text has 1 block of",
        ),
        (tiny.text(400), {"length": 100_000}, indexer.IndexingError, "is more than"),
    ],
)
def test_a_text_that_cannot_be_indexed_publishes_nothing(
    text: str,
    given: dict[str, object],
    error: type[LexiscopeError],
    says: str,
    model: LanguageModel,
    runs: list[Path],
    tmp_path: Path,
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    with pytest.raises(error, match=says):
        quick(Settings(index=tmp_path / "index"), model, runs[:1], file, **given)
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_a_text_on_which_nothing_fires_publishes_nothing(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from indexer import dictionaries

    def silent(path: Path, *, anchors: bool = True) -> object:
        found = load_checkpoint(path, anchors=anchors)
        return found._replace(
            dictionary=replace(found.dictionary, b_enc=torch.full_like(found.dictionary.b_enc, -1e6))
        )

    monkeypatch.setattr(dictionaries, "load_checkpoint", silent)
    with pytest.raises(indexer.IndexingError, match="No feature of these dictionaries fires"):
        quick(Settings(index=tmp_path), model, runs[:1], text_file, tokens=500)
    assert not (tmp_path / "CURRENT").exists()


def test_a_full_disk_is_refused_before_the_text_is_read(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer import job

    monkeypatch.setattr(job, "BYTES_A_FEATURE", 10**15)
    with pytest.raises(indexer.IndexingError, match="GB free"):
        quick(Settings(index=tmp_path), model, runs[:1], text_file)


def test_activations_around_a_position_have_three_digits() -> None:
    assert rounded(torch.tensor([0.0, 0.12345, 98.76, 1234.5]).half().numpy()).tolist() == pytest.approx(
        [0, 0.123, 98.8, 1230]
    )


def test_the_rows_of_a_look_up_are_indexed_beside_the_features(
    indexed: Settings, model: LanguageModel, runs: list[Path]
) -> None:
    checkpoint = load_checkpoint(runs[1])
    lookup, fit = checkpoint.dictionary.lookup, checkpoint.fit
    assert lookup is not None and fit is not None
    counts = fit.counts
    token = int(counts.argmax())
    store = Store(indexed)
    rows = {layer.source: layer.row for layer in store.token_page("tiny", token).layers}
    assert rows["1-plain"] is None and rows["0-vasae"] is not None
    row = rows["1-vasae"]
    assert row is not None and row.trained_on == counts[token]
    unit = torch.nn.functional.normalize(lookup.float() - lookup.float().mean(0), dim=-1)
    cosines = (unit @ unit[token]).masked_fill(counts == 0, -2)
    cosines[token] = -2
    best = cosines.topk(3)
    assert [near.id for near in row.neighbours[:3]] == best.indices.tolist()
    assert [near.score for near in row.neighbours[:3]] == pytest.approx(best.values.tolist(), abs=1e-4)
    effect = model.read_out(unit[[token]])[0]
    assert [raised.id for raised in row.raises[:3]] == effect.topk(3).indices.tolist()
    assert row.own_rank == int((effect > effect[token]).sum())
    unseen = int((counts == 0).nonzero()[0])
    assert all(layer.row is None for layer in store.token_page("tiny", unseen).layers)


def test_a_look_up_of_another_vocabulary_is_refused_before_the_text_is_read(
    model: LanguageModel, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    found = load_checkpoint(runs[0])
    assert found.dictionary.lookup is not None
    other = found._replace(dictionary=replace(found.dictionary, lookup=found.dictionary.lookup[:-1]))
    with pytest.raises(CheckpointError, match="tokens, but the language model has"):
        indexer.index([(model, [other])], [str(text_file)], settings=Settings(index=tmp_path), console=QUIET)
