"""The language model reads, patches and generates as its Hugging Face original does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, GitConfig

from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel, load_language_model, model_slug
from lexiscope.language_model.aliases import hub_name
from tests import tiny


def prompt(model: LanguageModel, rows: int = 1) -> torch.Tensor:
    return torch.tensor([[model.bos, *model.tokenise("the cat sat on a mat")]] * rows)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_reading_equals_the_originals_hidden_states(tmp_path: Path, kind: str) -> None:
    folder = tiny.make_model(tmp_path / kind, kind=kind)
    model = load_language_model(str(folder))
    tokens = prompt(model)
    original = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = original(tokens, output_hidden_states=True)
    assert torch.allclose(model.read(tokens, [0])[0], expected.hidden_states[1], atol=1e-4)
    assert torch.allclose(model.logits(tokens), expected.logits, atol=1e-3)
    last = model.read(tokens, [1])[1]
    assert torch.allclose(model.unembed_residual(last), model.logits(tokens), atol=1e-4)


def test_a_patch_changes_what_follows_and_is_gone_afterwards(model: LanguageModel) -> None:
    tokens = prompt(model)
    before = model.logits(tokens)
    assert not torch.allclose(model.logits(tokens, {0: lambda x: x * 0}), before)
    assert torch.equal(model.logits(tokens, {0: lambda x: x.clone()}), before)
    with pytest.raises(ZeroDivisionError):
        model.logits(tokens, {0: lambda x: x / (1 // 0)})
    assert torch.equal(model.logits(tokens), before)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_going_on_from_a_layer_gives_the_logits_of_a_patch_there(tmp_path: Path, kind: str) -> None:
    model = load_language_model(str(tiny.make_model(tmp_path / kind, kind=kind)))
    tokens = prompt(model, rows=2)
    before = model.read_with_logits(tokens, [0, 1])
    assert torch.equal(before.logits, model.logits(tokens))
    assert torch.equal(before.residuals[0], model.read(tokens, [0])[0])
    assert model._resumed.skips_blocks  # or the saving is not tested here
    for layer in (0, 1):
        changed = before.residuals[layer] * 0.5
        assert torch.allclose(
            model.logits_from(tokens, layer, changed),
            model.logits(tokens, {layer: lambda _, x=changed: x}),
            atol=1e-5,
        )
        assert torch.equal(model.logits(tokens), before.logits)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [0, 1])
def test_changing_one_position_gives_the_stream_of_a_patch_there_alone(
    tmp_path: Path, kind: str, layer: int
) -> None:
    model = load_language_model(str(tiny.make_model(tmp_path / kind, kind=kind)))
    tokens = torch.randint(model.vocab_size, (2, 30))
    read = model.read_passages(tokens, [layer])
    assert torch.allclose(model.unembed_residual(read.last), model.logits(tokens), atol=1e-4)
    positions = torch.tensor([[3, 29, 3, 0, 17], [1, 2, 28, 5, 5]])
    residuals = read.streams[layer].gather(1, positions[..., None].expand(-1, -1, model.d_model))
    residuals = residuals + torch.randn(residuals.shape)
    assert model._resumed.appends(30, 5)  # or the fast way is not tested here
    for _ in range(2):  # what one call appends is forgotten before the next
        found = model.unembed_residual(model.changed(read, layer, positions, residuals))
        for row, at in np.ndindex(2, 5):
            patched, position = read.streams[layer].clone(), positions[row, at]
            patched[row, position] = residuals[row, at]
            expected = model.logits(tokens, {layer: lambda _, x=patched: x})[row, position]
            assert torch.allclose(found[row, at], expected, atol=1e-4)
    if layer == 0:
        slowly = model._resumed._one_by_one(read, layer, positions, residuals)
        assert torch.allclose(model.unembed_residual(slowly), found, atol=1e-4)


def test_a_model_that_looks_back_only_so_far_changes_positions_one_by_one(tmp_path: Path) -> None:
    model = load_language_model(str(tiny.make_model(tmp_path / "neo", kind="gpt-neo")))
    tokens = torch.randint(model.vocab_size, (1, 40))
    read = model.read_passages(tokens, [0])
    positions, residuals = torch.tensor([[5, 38]]), torch.randn(1, 2, model.d_model)
    assert not model._resumed.appends(40, 2)
    found = model.unembed_residual(model.changed(read, 0, positions, residuals))[0]
    for row, position in enumerate(positions[0].tolist()):
        patched = read.streams[0].clone()
        patched[0, position] = residuals[0, row]
        assert torch.allclose(
            found[row], model.logits(tokens, {0: lambda _, x=patched: x})[0, position], atol=1e-4
        )


def test_streaming_with_a_cache_equals_reading_the_whole_text_again(model: LanguageModel) -> None:
    tokens = prompt(model)
    steps = list(model.stream(tokens, max_tokens=6, temperature=0, seed=0))
    whole = torch.cat([tokens, *(step.tokens[:, None] for step in steps[:-1])], 1)
    assert torch.allclose(model.logits(whole)[:, -1], steps[-1].logits, atol=1e-3)


def test_rows_of_one_batch_share_their_random_numbers_unless_told_not_to(model: LanguageModel) -> None:
    tokens = prompt(model, rows=2)
    shared = torch.stack([s.tokens for s in model.stream(tokens, max_tokens=12, temperature=1, seed=3)])
    assert torch.equal(shared[:, 0], shared[:, 1])
    again = torch.stack([s.tokens for s in model.stream(tokens, max_tokens=12, temperature=1, seed=3)])
    assert torch.equal(shared, again)
    apart = torch.stack(
        [s.tokens for s in model.stream(tokens, max_tokens=12, temperature=1, seed=3, shared_noise=False)]
    )
    assert not torch.equal(apart[:, 0], apart[:, 1])


def test_the_logit_effect_of_a_direction_is_what_adding_it_before_the_unembedding_does(
    model: LanguageModel,
) -> None:
    direction = torch.nn.functional.normalize(torch.randn(1, model.d_model), dim=-1)
    effect = model.read_out(direction)
    assert effect.shape == (1, model.vocab_size)
    assert effect.mean().abs() < 1e-5
    huge = model.unembed_residual(
        direction * 1e6
    )  # through the norm, a large enough direction is all that is left
    huge = huge - huge.mean()
    assert torch.nn.functional.cosine_similarity(effect, huge).item() > 0.99


def test_a_prompt_that_overruns_the_context_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ModelError, match="context"):
        next(model.stream(prompt(model), max_tokens=1000, temperature=1, seed=0))


def test_a_layer_that_does_not_exist_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ModelError, match="no layer 7"):
        model.read(prompt(model), [7])


def test_bad_model_folders_are_refused_with_the_reason(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        load_language_model(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        load_language_model(str(tmp_path / "empty"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((model_folder / name).read_bytes())
    with pytest.raises(ModelError, match="no weights"):
        load_language_model(str(bare))
    (bare / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_language_model(str(bare))


def test_a_text_ends_at_the_tokenizers_and_the_generation_settings_tokens(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "m")
    GenerationConfig(eos_token_id=[0, 7]).save_pretrained(folder)
    assert load_language_model(str(folder)).end_tokens == {0, 7}


def test_special_tokens_in_a_text_stay_plain_text(model: LanguageModel) -> None:
    assert model.bos not in model.tokenise(f"the {tiny.END} cat")
    assert model.text(model.tokenise(f"the {tiny.END} cat")) == f"the {tiny.END} cat"


@pytest.mark.parametrize(
    ("name", "slug"),
    [("owner/GPT2-Small", "gpt2-small"), ("/a/b/model.gguf", "model"), ("My Model!", "my-model")],
)
def test_a_model_id_is_a_slug(name: str, slug: str) -> None:
    assert model_slug(name) == slug


def test_reserved_names_are_no_model_ids() -> None:
    with pytest.raises(ModelError, match="--model-id"):
        model_slug("owner/search")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small", "gpt2"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("openai-community/unheard-of", "openai-community/unheard-of"),
    ],
)
def test_names_of_transformerlens_are_resolved_by_its_own_table(name: str, expected: str) -> None:
    assert hub_name(name) == expected


def test_a_folder_with_the_name_of_an_alias_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt2-small").mkdir()
    assert hub_name("gpt2-small") == "gpt2-small"


def test_a_model_whose_configuration_names_no_class_loads_by_its_own(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    for given in (None, ["NameOfAnotherLibrary"]):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": given}))
        assert load_language_model(str(folder)).n_layers == 2


def test_an_unknown_architecture_is_refused_without_a_list_of_all_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = GitConfig(vocab_size=400, vision_config={**size, "image_size": 8, "patch_size": 4}, **size)
    tiny.save_tokenizer(tmp_path)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"does not support its architecture .*GitForCausalLM.*model type git"
    ) as refused:
        load_language_model(str(tmp_path))
    assert len(str(refused.value)) < 300


def test_fast_reading_is_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = load_language_model(str(Path(__file__).parents[2] / "data" / "demo" / "model"))
    text = "The old man had been walking in the garden since the morning, and he was tired of it."
    tokens = torch.tensor([[bundled.bos, *bundled.tokenise(text)]])
    exact = bundled.read(tokens, [1, 4])
    monkeypatch.setattr("lexiscope.language_model.model.fast_dtype", lambda device: torch.float32)
    assert torch.equal(bundled.read(tokens, [4], fast=True)[4], exact[4]), "where bf16 is not fast"
    monkeypatch.setattr("lexiscope.language_model.model.fast_dtype", lambda device: torch.bfloat16)
    fast = bundled.read(tokens, [1, 4], fast=True)
    for layer, x in exact.items():
        assert fast[layer].dtype == torch.float32 and not torch.equal(fast[layer], x)
        mean = x[0, 1:].mean(0)
        cosines = torch.cosine_similarity(fast[layer][0, 1:] - mean, x[0, 1:] - mean, dim=-1)
        assert cosines.mean() > 0.999
    (_, logits), (rounded, near) = (
        bundled.read_with_logits(tokens, [1], fast=rounds) for rounds in (False, True)
    )
    assert torch.equal(rounded[1], fast[1]) and list(rounded) == [1]
    assert torch.cosine_similarity(near, logits, dim=-1).min() > 0.999
    assert not torch.equal(near, near.bfloat16().float()), "logits have more than eight bits"
    for layer in (1, bundled.n_layers - 1):
        replaced = bundled.read(tokens, [layer])[layer] * 1.1
        expected = bundled.logits_from(tokens, layer, replaced)
        found = bundled.logits_from(tokens, layer, replaced, fast=True)
        assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.999
