"""The Jacobian lens equals transformer-lens's, and what it says a direction writes is what a small change
does.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lexiscope.errors import ModelError, TextError
from lexiscope.language_model import LanguageModel
from lexiscope.language_model.jacobian import read_lens


@pytest.fixture(scope="module")
def prompts(model: LanguageModel) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.cat([torch.tensor([model.bos]), torch.randint(0, model.vocab_size, (n,), generator=draw)])
        for n in (30, 24, 10)
    ]


def test_it_is_that_of_transformer_lens(model: LanguageModel, prompts: list[torch.Tensor]) -> None:
    from transformer_lens.tools.analysis.jacobian_lens import _jacobian_for_prompt

    done: list[int] = []
    found = model.jacobians(prompts, range(model.n_layers), advance=done.append)
    layers = list(range(model.n_layers - 1))
    assert sorted(found) == layers, "the last layer's is 1"
    assert done == [2], "the third prompt is too short"
    for layer in layers:
        expected = torch.zeros_like(found[layer])
        for first, prompt in enumerate(prompts[:2]):
            theirs = _jacobian_for_prompt(
                model._bridge,
                prompt[None],
                source_layers=[layer],
                dim_batch=4,
                skip_first_positions=16,
                backward_provider=lambda target, sources, slope, keep: torch.autograd.grad(
                    target, sources, slope, retain_graph=keep
                ),
            )
            expected[first::2] = theirs[layer][first::2]  # rows are dealt out to the two
        assert torch.allclose(found[layer], expected, atol=1e-5)


def test_every_batch_of_prompts_gives_all_rows_and_each_prompt_others_in_its_turn(
    model: LanguageModel, prompts: list[torch.Tensor]
) -> None:
    alone = [model.jacobians([prompt], [0])[0] for prompt in prompts[:2]]
    rows = torch.arange(model.d_model)
    first = torch.stack(alone)[rows % 2, rows]
    second = torch.stack(alone)[(rows + 1) % 2, rows]
    found = model.jacobians([*prompts[:2]] * 8, [0])[0]  # batch 0: prompt 0 eight times; batch 1: prompt 1
    assert torch.allclose(found, (alone[0] + alone[1]) / 2, atol=1e-5)
    found = model.jacobians([prompts[0], prompts[0], prompts[1], prompts[1]] * 4, [0])[0]
    assert torch.allclose(found, (first + second) / 2, atol=1e-5)


def test_in_bf16_it_is_nearly_the_same(
    model: LanguageModel, prompts: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    exactly = model.jacobians(prompts, [0])[0]
    monkeypatch.setattr("lexiscope.language_model.model.fast_dtype", lambda device: torch.bfloat16)
    roughly = model.jacobians(prompts, [0], fast=True)[0]
    assert not torch.equal(exactly, roughly)
    assert torch.cosine_similarity(exactly.flatten(), roughly.flatten(), dim=0) > 0.999


def test_a_small_change_of_a_stream_moves_the_last_one_as_it_says(
    model: LanguageModel, prompts: list[torch.Tensor]
) -> None:
    layer, prompt = 0, prompts[0][None]
    jacobian = model.jacobians(prompts[:1], [layer])[layer]
    direction = torch.nn.functional.normalize(torch.randn(model.d_model), dim=0)
    moved, positions = torch.zeros(model.d_model), range(16, prompt.shape[1] - 1)
    for position in positions:
        last = {}
        for sign in (-1, 1):
            stream = model.read(prompt, [layer])[layer].clone()
            stream[0, position] += sign * 1e-2 * direction
            with torch.inference_mode():
                captured = {}
                model.logits(
                    prompt,
                    {
                        layer: lambda _, stream=stream: stream,
                        model.n_layers - 1: lambda x, captured=captured: captured.setdefault("x", x),
                    },
                )
            last[sign] = captured["x"][0, 16:-1].sum(0)
        moved += (last[1] - last[-1]) / 2e-2 / len(positions)
    assert torch.cosine_similarity(moved, jacobian @ direction, dim=0) > 0.99


def test_weights_get_no_gradients_and_keep_their_flags(
    model: LanguageModel, prompts: list[torch.Tensor]
) -> None:
    flags = [parameter.requires_grad for parameter in model._bridge.parameters()]
    model.jacobians(prompts[:1], [0])
    assert [parameter.requires_grad for parameter in model._bridge.parameters()] == flags
    assert all(parameter.grad is None for parameter in model._bridge.parameters())


def test_prompts_that_are_too_short_and_layers_that_are_not_there_are_refused(
    model: LanguageModel, prompts: list[torch.Tensor]
) -> None:
    with pytest.raises(TextError, match="more than 17 tokens"):
        model.jacobians(prompts[2:], [0])
    with pytest.raises(ModelError, match="there is no layer 9"):
        model.jacobians(prompts, [9])


def test_a_direction_pulled_back_to_the_embeddings_is_how_they_move_its_reading(
    model: LanguageModel, prompts: list[torch.Tensor]
) -> None:
    layer, prompt = 0, prompts[0]
    directions = torch.nn.functional.normalize(torch.randn(2, model.d_model), dim=1)
    pulled = model.pulled_back([prompt, prompts[2]], layer, directions)
    bridge, change = model._bridge, torch.randn(model.d_model)
    moved, positions = torch.zeros(2), range(16, len(prompt) - 1)
    for position in positions:
        read = {}
        for sign in (-1, 1):

            def shift(stream: torch.Tensor, hook: object, position: int = position, sign: int = sign):
                stream = stream.clone()
                stream[0, position] += sign * 1e-3 * change
                return stream

            with bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", shift)]):
                read[sign] = model.read(prompt[None], [layer])[layer][0, 16:-1].sum(0) @ directions.T
        moved += (read[1] - read[-1]) / 2e-3 / len(positions)
    assert torch.allclose(pulled @ change, moved, rtol=0.02, atol=0.02 * moved.abs().max().item())
    with pytest.raises(TextError, match="more than 17 tokens"):
        model.pulled_back(prompts[2:], layer, directions)


def test_a_kept_lens_is_read_again_and_a_missing_one_says_how_to_make_it(tmp_path: Path) -> None:
    file = tmp_path / "lens.safetensors"
    save_file({"0": torch.eye(3)}, file)
    assert torch.equal(read_lens(file, 0, 3), torch.eye(3)) and read_lens(file, 2, 3) is None
    for path, layer in ((file, 1), (tmp_path / "none", 0)):
        with pytest.raises(ModelError, match="--lens-prompts"):
            read_lens(path, layer, 3)
