"""The change that each mode makes, at which positions and under which condition, compared with its
definition.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import LexiscopeError
from lexiscope.selection import AbsTopK, Threshold
from server.live.interventions import LoadedDictionary, make_plan, patches_of
from tests.live.jobs import MEAN_NORM, some_tokens

PROMPT = "Once upon a time there was"
N = len(PROMPT)


@pytest.fixture(scope="module")
def dictionary(tiny):
    return load_checkpoint(Path(tiny.checkpoints[0])).dictionary


@pytest.fixture(scope="module")
def x(model):
    """[2, 1 + N + 4, d] a prompt and four written tokens, twice."""
    return model.read(torch.tensor([[model.bos, *model.tokenise(PROMPT + " one")]] * 2), [0])[0]


@pytest.fixture
def change(tiny, model, model_cache, x):
    """[positions, d] what interventions on layer 0 do to the second row; the first stays as it is, and so
    does position 0.
    """

    def changed(*interventions, load=model_cache.dictionary):
        done = make_plan(list(interventions), load, model, prompt=N)
        after = patches_of([None, done], some_tokens(x), [0, 0]).get(0, lambda same: same)(x)
        assert torch.equal(after[0], x[0]) and torch.equal(after[1, 0], x[1, 0])
        return after[1] - x[1]

    return changed


def z(dictionary, x, index):
    """Its activation at each position: read off the code, one position at a time; 0 at position 0."""
    found = torch.zeros(len(x))
    for position in range(1, len(x)):
        code = dictionary.encode(x[position : position + 1])
        found[position] = sum(
            v for v, i in zip(code.values[0].tolist(), code.indices[0].tolist(), strict=True) if i == index
        )
    return found[:, None]


def close(a, b):
    return torch.allclose(a, b, atol=1e-4)


def later(x):
    """1 at every position but the first."""
    ones = torch.ones(x.shape[1], 1)
    ones[0] = 0
    return ones


def test_clamp_sets_the_activation_where_it_fires_and_where_it_does_not(tiny, change, dictionary, x):
    clamp = tiny.does(0, 3, "clamp", 2.5, unit="activation")
    assert close(change(clamp), (2.5 - z(dictionary, x[1], 3)) * later(x) * dictionary.W_dec[3])
    times = tiny.does(0, 3, "clamp", 0.5, unit="max", max_activation=8.0)
    assert close(change(times), (4.0 - z(dictionary, x[1], 3)) * later(x) * dictionary.W_dec[3])


def test_scale_multiplies_the_activation_and_1_changes_nothing(tiny, change, dictionary, x):
    assert close(change(tiny.does(0, 3, "scale", 3.0)), 2 * z(dictionary, x[1], 3) * dictionary.W_dec[3])
    assert change(tiny.does(0, 3, "scale", 1.0)).eq(0).all()
    assert close(change(tiny.does(0, 3, "scale", 0.0)), change(tiny.does(0, 3, "ablate")))


def test_swap_gives_one_features_activation_to_another(tiny, change, dictionary, x):
    activation = z(dictionary, x[1], 3)
    assert activation.any()
    moved = change(tiny.does(0, 3, "swap", 1.0, to=tiny.at(0, 11)))
    assert close(moved, activation * (dictionary.W_dec[11] - dictionary.W_dec[3]))


def test_orthogonal_adds_and_keeps_the_norm_and_0_is_exact(tiny, change, dictionary, x):
    direction = F.normalize(dictionary.W_dec[3], dim=0)
    after = x[1, 1:] + change(tiny.does(0, 3, "orthogonal", 0.8))[1:]
    assert torch.allclose(after.norm(dim=-1), x[1, 1:].norm(dim=-1), rtol=1e-4)
    assert close(F.normalize(after, dim=-1), F.normalize(x[1, 1:] + 0.8 * MEAN_NORM * direction, dim=-1))
    assert change(tiny.does(0, 3, "orthogonal", 0.0)).eq(0).all()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, range(1, 1 + N + 4)),
        ({"where": "prompt"}, range(1, 1 + N)),
        ({"where": "generated"}, range(1 + N, 1 + N + 4)),
        ({"positions": [0, 2, N + 1]}, [1, 3, N + 2]),
    ],
)
def test_an_intervention_applies_only_at_its_positions(tiny, change, where, expected):
    moved = change(tiny.does(0, 3, "add", 1.0, **where)).norm(dim=-1)
    assert moved.nonzero().squeeze(1).tolist() == list(expected)


def test_a_condition_applies_a_change_only_where_its_feature_is_active(tiny, change, dictionary, x):
    fires = z(dictionary, x[1], 11).squeeze(1) > 0
    assert fires.any() and not fires[1:].all()
    moved = change(tiny.does(0, 3, "add", 1.0, when=tiny.at(0, 11))).norm(dim=-1)
    assert torch.equal(moved > 0, fires)


def test_a_feature_is_removed_once_where_several_interventions_remove_it(tiny, change, dictionary, x):
    removed = -z(dictionary, x[1], 3) * dictionary.W_dec[3]
    there = int(removed[1:].norm(dim=-1).argmax()) + 1
    active = dictionary.encode(x[1, there : there + 1]).indices[0].tolist()
    others = [index for index in active if index != 3][:2]
    first, second = (tiny.does(0, 3, "ablate", when=tiny.at(0, index)) for index in others)
    fires = [z(dictionary, x[1], index) != 0 for index in others]
    assert removed[there].any() and fires[0][there] and fires[1][there]
    assert close(change(first, second), removed * (fires[0] | fires[1]))
    everywhere = tiny.does(0, 3, "ablate")
    for other in (
        tiny.does(0, 3, "ablate", where="prompt"),
        tiny.does(0, 3, "scale", 0.0),
        tiny.does(0, 3, "clamp", 4.0, unit="activation"),
        first,
    ):
        assert close(change(other, everywhere), removed) and close(change(everywhere, other), removed)
    halves = [tiny.does(0, 3, "swap", 0.5, to=tiny.at(0, index)) for index in (11, 12)]
    given = z(dictionary, x[1], 3) * (dictionary.W_dec[11] + dictionary.W_dec[12]) / 2
    assert close(change(*halves), removed + given)


def test_of_two_clamps_the_first_holds_and_the_second_where_it_does_not_apply(tiny, change, dictionary, x):
    prompt = tiny.does(0, 3, "clamp", 2.0, unit="activation", where="prompt")
    later_on = tiny.does(0, 3, "clamp", 5.0, unit="activation")
    target = torch.full((x.shape[1], 1), 5.0)
    target[: 1 + N] = 2.0
    expected = (target - z(dictionary, x[1], 3)) * later(x) * dictionary.W_dec[3]
    assert close(change(prompt, later_on), expected)


def test_a_condition_at_an_earlier_layer_applies_at_a_later_one(tiny, model, model_cache, x):
    done = make_plan(
        [tiny.does(1, 3, "add", 1.0, when=tiny.at(0, 11))], model_cache.dictionary, model, prompt=N
    )
    first, second = (
        patches_of([None, done], some_tokens(x), [0, 0]),
        model.read(torch.tensor([[model.bos, *model.tokenise(PROMPT)]] * 2), [0, 1]),
    )
    assert first[0](second[0]) is second[0], "the condition's own layer is only read"
    moved = (first[1](second[1]) - second[1])[1].norm(dim=-1)
    fires = z(load_checkpoint(Path(tiny.checkpoints[0])).dictionary, second[0][1], 11).squeeze(1) > 0
    assert torch.equal(moved > 0, fires)
    with pytest.raises(LexiscopeError, match="comes after layer 0"):
        make_plan([tiny.does(0, 3, "add", 1.0, when=tiny.at(1, 11))], model_cache.dictionary, model, prompt=N)


def test_positions_continue_from_the_prompt_through_the_generated_tokens(tiny, model, model_cache, x):
    done = make_plan(
        [tiny.does(0, 3, "add", 1.0, positions=[N - 1, N + 1])], model_cache.dictionary, model, prompt=N
    )
    moved = []
    for first, part in ((0, x[:, : 1 + N]), *((n, x[:, n : n + 1]) for n in range(1 + N, 1 + N + 4))):
        patch = patches_of([None, done], some_tokens(part), [first, first])[0]
        moved += (patch(part) - part)[1].norm(dim=-1).gt(0).tolist()
    assert [position for position, touched in enumerate(moved) if touched] == [N, N + 2]


def test_a_feature_of_a_threshold_dictionary_needs_only_its_own_pre_activation(
    tiny, model, dictionary, x, change
):
    """JumpReLU: the feature's activation is its own pre-activation, where that passes its threshold."""
    jump = dictionary.__class__(
        dictionary.W_enc,
        dictionary.b_enc,
        dictionary.W_dec,
        dictionary.b_dec,
        Threshold(torch.full((dictionary.d_sae,), 0.7)),
    )
    moved = change(tiny.does(0, 3, "ablate"), load=lambda _: LoadedDictionary(jump, MEAN_NORM))
    pre = jump.pre_activations(x[1])[:, 3:4]
    expected = -torch.where(pre > 0.7, pre, 0) * later(x) * jump.W_dec[3]
    assert expected.any() and close(moved, expected)


def test_a_signed_feature_is_changed_where_its_activation_is_negative_too(tiny, dictionary, x, change):
    signed = replace(dictionary, selection=AbsTopK(8))
    moved = change(tiny.does(0, 3, "ablate"), load=lambda _: LoadedDictionary(signed, MEAN_NORM))
    pre = signed.pre_activations(x[1])
    largest = torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.abs().topk(8).indices, True)
    expected = torch.where(largest, pre, 0)[:, 3:4]
    assert (expected < 0).any()
    assert close(moved, -expected * later(x) * signed.W_dec[3])


def test_a_control_makes_a_change_of_the_same_length_in_another_direction(tiny, model, model_cache, x):
    interventions = [tiny.does(0, 3, "add", 1.0), tiny.does(0, 5, "clamp", 3.0, unit="activation")]
    other = torch.randn(model.d_model)
    for one in range(2):
        alone = make_plan([interventions[one]], model_cache.dictionary, model, prompt=N)
        own = patches_of([alone], some_tokens(x[:1]), [0])[0](x[:1]) - x[:1]
        control = patches_of([alone.along([other])], some_tokens(x[:1]), [0])[0](x[:1]) - x[:1]
        assert torch.allclose(own.norm(dim=-1), control.norm(dim=-1), rtol=1e-3, atol=1e-4)
        along = F.normalize(control[0, 1:], dim=-1) @ F.normalize(other, dim=0)
        assert torch.allclose(along.abs(), torch.ones(x.shape[1] - 1), atol=1e-3)


def test_an_impossible_clamp_or_swap_is_rejected_with_the_reason(tiny, change):
    with pytest.raises(LexiscopeError, match="never fired"):
        change(tiny.does(0, 3, "clamp", 1.0, unit="max", max_activation=0.0))
    with pytest.raises(LexiscopeError, match="own layer, 0"):
        change(tiny.does(0, 3, "swap", 1.0, to=tiny.at(1, 3)))
