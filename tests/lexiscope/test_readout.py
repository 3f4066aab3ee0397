"""What a direction adds to the logits is what the model's own final norm, head and logit scaling make of it.

Expected values come from transformers alone: the output of the last block is replaced in the original model.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel, load_language_model, loading
from tests import tiny

LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GEMMA = LLAMA | {"head_dim": 12}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
OPT = {"hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT |= {"max_position_embeddings": 64, "pad_token_id": 0}
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "RMSNorm": ("llama", LLAMA, "model.layers"),
    "RMSNorm, odd width": ("qwen3", LLAMA | {"hidden_size": 49, "head_dim": 12}, "model.layers"),
    "LayerNorm": ("gpt2", GPT2, "transformer.h"),
    "LayerNorm, head with a bias": ("phi", NEOX, "model.layers"),
    "1 + w": ("gemma", GEMMA, "model.layers"),
    "1 + w, soft cap": ("gemma2", GEMMA | {"final_logit_softcapping": 3.0}, "model.layers"),
    "1 + w, Gemma 3": ("gemma3_text", GEMMA, "model.layers"),
    "LayerNorm, 1 + w": ("nemotron", LLAMA, "model.layers"),
    "LayerNorm without bias, scaled": ("cohere", LLAMA | {"logit_scale": 0.25}, "model.layers"),
    "LayerNorm without bias": (
        "mpt",
        {"d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        "transformer.blocks",
    ),
    "LayerNorm without weight": ("olmo", LLAMA, "model.layers"),
    "RMSNorm without weight, soft cap": (
        "nanochat",
        LLAMA | {"final_logit_softcapping": 2.0},
        "model.layers",
    ),
    "logits divided": ("granite", LLAMA | {"logits_scaling": 8.0}, "model.layers"),
    "no final norm": ("openai-gpt", GPT2, "transformer.h"),
    "no final norm, projection": (
        "opt",
        OPT | {"word_embed_proj_dim": 24, "do_layer_norm_before": False},
        "model.decoder.layers",
    ),
    "final norm of OPT": ("opt", OPT | {"word_embed_proj_dim": 48}, "model.decoder.layers"),
    "state space": ("mamba", {"hidden_size": 48, "num_hidden_layers": 2}, "backbone.layers"),
}


def save_model(folder: Path, kind: str, options: dict[str, Any]) -> None:
    """Random weights, with norms that differ from 1."""
    vocabulary = {"vocab_size": tiny.save_tokenizer(folder), "bos_token_id": 0, "eos_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options | vocabulary))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.5 * torch.randn_like(parameter)
        elif "lm_head" in name or "embed" in name or "wte" in name:
            parameter.data.mul_(5)  # so that a soft cap bends the logits
    model.save_pretrained(folder)


def original_tail(folder: Path, blocks: str) -> Callable[[Tensor], Tensor]:
    """The logits [n, vocab] that the original model gives when its last block's output is [n, d_model]."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def replaced(residual: Tensor, module: Any, inputs: Any, output: Any) -> Any:
        stream = residual[:, None]
        return stream if isinstance(output, Tensor) else type(output)([stream, *output[1:]])

    @torch.no_grad()
    def tail(residual: Tensor) -> Tensor:
        hook = model.get_submodule(blocks)[-1].register_forward_hook(partial(replaced, residual))
        try:
            return model(torch.ones(len(residual), 1, dtype=torch.long)).logits[:, 0]
        finally:
            hook.remove()

    return tail


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LanguageModel, Callable[[Tensor], Tensor]]:
    kind, options, blocks = request.param
    folder = tmp_path_factory.mktemp(kind)
    torch.manual_seed(0)
    save_model(folder, kind, options)
    return load_language_model(str(folder)), original_tail(folder, blocks)


def test_a_small_change_after_the_last_block_moves_the_logits_as_the_direction_says(
    both: tuple[LanguageModel, Callable[[Tensor], Tensor]],
) -> None:
    model, tail = both
    directions = torch.nn.functional.normalize(torch.randn(8, model.d_model), dim=-1)
    step = 1e-3 * directions
    moved = (tail(step) - tail(-step)).double()
    moved -= moved.mean(-1, keepdim=True)
    effect = model.read_out(directions).double()
    assert (torch.nn.functional.cosine_similarity(effect, moved, dim=-1) > 0.999).all()
    for ours, theirs in zip(effect, moved, strict=True):
        assert set(ours.topk(10).indices.tolist()) == set(theirs.topk(10).indices.tolist())
    rows = directions @ model.unembedding().T
    assert torch.allclose(rows - rows.mean(-1, keepdim=True), effect.float(), atol=1e-4)


def test_the_logit_lens_of_the_last_layer_is_the_models_own_logits(
    both: tuple[LanguageModel, Callable[[Tensor], Tensor]],
) -> None:
    model, tail = both
    residual = 3 * torch.randn(8, model.d_model) + 0.5
    assert torch.allclose(model.unembed_residual(residual), tail(residual), rtol=1e-4, atol=1e-3)
    tokens = torch.randint(1, model.vocab_size, (2, 6))
    last = model.read(tokens, [model.n_layers - 1])[model.n_layers - 1]
    assert torch.allclose(model.unembed_residual(last), model.logits(tokens), rtol=1e-4, atol=1e-3)


def test_what_is_written_has_the_highest_logits_of_the_models_own_norm_and_head(
    both: tuple[LanguageModel, Callable[[Tensor], Tensor]],
) -> None:
    model, tail = both
    carried = torch.randn(8, model.d_model)
    logits = tail(100 * carried)
    found = logits.gather(1, model.written(carried, 5).indices)
    least, spread = logits.topk(5).values[:, -1], logits.std()
    assert (found.min(1).values >= least - 1e-3 * spread).all()


def test_changes_of_logits_are_those_of_the_model_and_exact_where_asked_for(
    both: tuple[LanguageModel, Callable[[Tensor], Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tail = both
    before, after = torch.randn(2, 8, model.d_model)
    expected = tail(after) - tail(before)
    assert torch.allclose(model.logit_changes(before, after), expected, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr("lexiscope.language_model.model.fast_dtype", lambda device: torch.bfloat16)
    tokens = torch.randint(0, model.vocab_size, (8, 3))
    roughly = model.logit_changes(before, after, fast=True, exact=tokens)
    assert torch.allclose(roughly, expected, rtol=0.03, atol=0.03 * expected.abs().max().item())
    assert torch.allclose(roughly.gather(1, tokens), expected.gather(1, tokens), rtol=1e-3, atol=1e-3)
    assert torch.allclose(roughly.topk(5).values, expected.topk(5).values, rtol=1e-3, atol=1e-3)


def test_the_effect_has_the_scale_of_the_models_logits(tmp_path: Path) -> None:
    save_model(tmp_path / "granite", "granite", LLAMA | {"logits_scaling": 8.0})
    model = load_language_model(str(tmp_path / "granite"))
    tail = original_tail(tmp_path / "granite", "model.layers")
    direction = torch.nn.functional.normalize(torch.randn(1, model.d_model), dim=-1)
    at_unit_scale = direction * model.d_model**0.5  # its root mean square is 1
    expected = (tail(at_unit_scale) - tail(-at_unit_scale)) / 2
    effect = model.read_out(at_unit_scale)
    assert torch.allclose(effect, expected - expected.mean(-1, keepdim=True), rtol=1e-3, atol=1e-4)


def test_half_precision_reads_the_same_directions(tmp_path: Path) -> None:
    save_model(tmp_path / "gemma", "gemma", GEMMA)
    whole = load_language_model(str(tmp_path / "gemma"))
    half = load_language_model(str(tmp_path / "gemma"), dtype=torch.bfloat16)
    directions = torch.nn.functional.normalize(torch.randn(4, whole.d_model), dim=-1)
    effects = [model.read_out(directions) for model in (whole, half)]
    assert torch.nn.functional.cosine_similarity(*effects, dim=-1).min() > 0.999


def test_a_model_whose_logits_are_something_else_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    save_model(tmp_path / "bert", "bert", NEOX | {"is_decoder": True})
    with pytest.raises(ModelError, match=r"bert is not supported: .* logits"):
        load_language_model(str(tmp_path / "bert"))


def test_a_model_that_does_not_go_on_from_its_cache_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    size = {"hidden_size": 48, "attention_hidden_size": 48, "num_hidden_layers": 2, "context_length": 64}
    save_model(tmp_path, "rwkv", size)
    with pytest.raises(ModelError, match="going on from its cache gives other logits"):
        load_language_model(str(tmp_path))


def test_an_architecture_that_transformer_lens_computes_otherwise_is_refused() -> None:
    logits = torch.randn(8, 50)
    loading._check_logits("m", logits, logits + 0.01 * torch.randn(8, 50))
    for other in (torch.randn(8, 50), torch.randn(8, 49), logits * float("nan")):
        with pytest.raises(ModelError, match="does not compute the logits that transformers computes"):
            loading._check_logits("m", logits, other)
