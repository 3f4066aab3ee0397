"""Interventions on the residual stream and on the generated tokens, without a worker process."""

from pathlib import Path

import pytest
import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import LexiscopeError
from lexiscope.language_model import hook_name
from server.live.generation import Batches, Pause
from server.live.interventions import Cancelled, LoadedDictionary, make_plan, patches_of
from server.live.jobs import steer as steering
from server.live.model_cache import ModelCache, NotLoadable
from tests.live.jobs import CONTEXT, MEAN_NORM, SILENT, events_of, some_tokens, within_rounding


def steer(job, model_cache, **given):
    batches = Batches()
    return events_of(steering(job, model_cache, batches, **given), batches)


class Patched(dict):
    """The patches of one forward pass after another: each begins where the last ended."""

    def __init__(self, done):
        self._done, self._first = done, 0
        layers = done.patched_layers()
        super().__init__({layer: lambda x, layer=layer: self._patch(layer, x) for layer in layers})

    def _patch(self, layer, residual):
        if layer == min(self):
            self._now = patches_of([None, self._done], some_tokens(residual), [self._first, self._first])
            self._first += residual.shape[1]
        return self._now[layer](residual)


def patched(tiny, model, model_cache, *features, prompt="Once upon a time there was"):
    return Patched(
        make_plan(
            tiny.job(*features).interventions,
            model_cache.dictionary,
            model,
            prompt=len(model.tokenise(prompt)),
        )
    )


def batch(model, text="Once upon a time there was"):
    return torch.tensor([[model.bos, *model.tokenise(text)]] * 2)


def steps(events, kind="step"):
    return [event for event in events if event.event == kind]


NO_CHANGE = [(0, 3, "add", 0.0), (1, 5, "orthogonal", 0.0), (0, 4, "scale", 1.0)]


@pytest.mark.parametrize("text", ["a", "Once upon a time there was", "é" * 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_is_exactly_the_default_because_both_are_one_row(tiny, text, dtype):
    job = tiny.job(*NO_CHANGE, prompt=text, max_tokens=20, frequency_penalty=0.5)
    batches, events, rows = Batches(), [], []
    for found in steering(job, ModelCache(dtype=dtype), batches):
        if found is Pause.STEP:
            rows.append(batches.step())
        elif not isinstance(found, Pause):
            events.append(found)
    assert rows == [1] * 19
    assert all(step.default == step.steered for step in steps(events))
    [effect], [measured] = steps(events, "effect"), steps(events, "measured")
    assert effect.kl_first == 0 and all(
        one.probability_default == one.probability_steered and one.rank_default == one.rank_steered
        for one in effect.effects
    )
    assert set(measured.kl) == {0} and measured.perplexity_default == measured.perplexity_steered


@pytest.mark.parametrize("change", NO_CHANGE)
def test_one_intervention_without_strength_leaves_the_others_as_they_are(tiny, model, model_cache, change):
    both, alone = (
        patched(tiny, model, model_cache, *features)
        for features in (((0, 9, "add", 1.0), change), ((0, 9, "add", 1.0),))
    )
    x = model.read(batch(model), [0])[0]
    assert both.keys() == {0} and torch.equal(both[0](x), alone[0](x))


def test_interventions_on_one_row_change_no_bit_of_another(tiny, model, model_cache):
    """The batch has the same shape in both runs; only the second row is steered in one of them."""
    plain = list(model.stream(batch(model), max_tokens=12, temperature=1, seed=3))
    patch = patched(tiny, model, model_cache, (0, 3, "add", 2.0), (1, 4, "ablate", 0.0))
    steered = list(model.stream(batch(model), max_tokens=12, temperature=1, seed=3, patches=patch))
    assert all(torch.equal(one.logits[0], other.logits[0]) for one, other in zip(plain, steered, strict=True))


def test_ablating_a_silent_feature_changes_nothing(tiny, model, model_cache):
    patch = patched(tiny, model, model_cache, (0, SILENT, "ablate", 0.0))
    for step in model.stream(batch(model), max_tokens=12, temperature=1, seed=3, patches=patch):
        assert torch.equal(step.tokens[0], step.tokens[1])
        assert within_rounding(step.logits[1], step.logits[0])


def test_an_ablation_takes_away_exactly_what_the_feature_wrote(tiny, model, model_cache):
    dictionary = load_checkpoint(Path(tiny.checkpoints[0])).dictionary
    x = model.read(batch(model), [0])[0]
    changed = patched(tiny, model, model_cache, (0, 3, "ablate", 0.0), (0, 3, "ablate", 0.0))[0](x)
    assert torch.equal(changed[0], x[0])
    fired = 0
    for position in range(x.shape[1]):
        code = dictionary.encode(x[1, position : position + 1])
        activation = dict(zip(code.indices[0].tolist(), code.values[0].tolist(), strict=True)).get(3, 0.0)
        fired += activation > 0 and position > 0
        expected = x[1, position] - (activation * dictionary.W_dec[3] if position else 0)
        assert torch.allclose(changed[1, position], expected, atol=1e-4)
    assert fired


def test_an_addition_has_the_requested_norm_everywhere_but_at_position_0(tiny, model, model_cache):
    patch = patched(tiny, model, model_cache, (0, 3, "add", 0.5))[0]
    first, later = model.read(batch(model), [0])[0], torch.randn(2, 1, model.d_model)
    moved = (patch(first) - first).norm(dim=-1)
    assert moved[0].eq(0).all() and moved[1, 0] == 0
    assert torch.allclose(moved[1, 1:], torch.tensor(0.5 * MEAN_NORM), rtol=1e-4)
    assert torch.allclose(
        (patch(later) - later).norm(dim=-1), torch.tensor([[0.0], [0.5 * MEAN_NORM]]), rtol=1e-4
    )


def test_the_interventions_of_one_layer_compose_in_any_order(tiny, model, model_cache):
    x = model.read(batch(model), [0])[0]
    one, other = (0, 3, "add", 1.0), (0, 4, "ablate", 0.0)
    assert torch.allclose(
        patched(tiny, model, model_cache, one, other)[0](x),
        patched(tiny, model, model_cache, other, one)[0](x),
        atol=1e-5,
    )


def test_an_addition_changes_the_distribution_as_its_effect_states(tiny, model_cache, model):
    events = list(steer(tiny.job((0, 3, "add", 1.0), (1, 9, "add", -1.0)), model_cache))
    [effect] = steps(events, "effect")
    patch = patched(tiny, model, model_cache, (0, 3, "add", 1.0), (1, 9, "add", -1.0))
    logits = model.logits(batch(model, "Once upon a time"), patch)[:, -1]
    p = logits.softmax(-1)
    assert effect.kl_first == pytest.approx((p[1] * (p[1].log() - p[0].log())).sum().item(), rel=1e-3)
    assert effect.kl_first > 0
    for one in effect.effects:
        name = one.feature.name.id
        assert one.probability_default == pytest.approx(p[0, name].item(), rel=1e-3)
        assert one.probability_steered == pytest.approx(p[1, name].item(), rel=1e-3)
        assert one.rank_steered == logits[1].argsort(descending=True).tolist().index(name)


def test_events_are_in_order_and_their_texts_join_to_the_full_text(tiny, model_cache):
    events = list(steer(tiny.job((0, 3, "add", 1.0), max_tokens=40), model_cache))
    assert [event.event for event in events[:3]] == ["resolved", "step", "effect"] and events[
        -1
    ].event == "done"
    for row in ("default", "steered"):
        drawn = [getattr(step, row) for step in steps(events)]
        assert "".join(one.text for one in drawn if one) == getattr(events[-1], f"{row}_text")


def test_a_row_ends_at_its_end_of_text_token(tiny, model_cache, monkeypatch):
    """The steered row is pushed onto the end-of-text token; the default row goes on alone."""
    cached = model_cache.model(tiny.model_path, "tiny").model
    job = tiny.job((0, 3, "add", 3.0), max_tokens=30, temperature=0.0)
    drawn = [step.steered.token.id for step in steps(steer(job, model_cache))]
    monkeypatch.setattr(cached, "end_tokens", frozenset({drawn[0]}))
    events = list(steer(job, model_cache))
    ended = [step.steered for step in steps(events)]
    assert ended[0] is not None and ended[0].text == "" and not any(ended[1:])


def test_a_cancelled_steer_leaves_no_hook_behind(tiny, model_cache):
    model = model_cache.model(tiny.model_path, "tiny").model
    before = model.logits(batch(model))
    calls = iter([False] * 5)
    with pytest.raises(Cancelled):
        list(
            steer(
                tiny.job((0, 3, "add", 2.0), max_tokens=50), model_cache, cancelled=lambda: next(calls, True)
            )
        )
    batches = Batches()
    half = steering(tiny.job((0, 3, "add", 2.0), max_tokens=50), model_cache, batches)
    for _ in range(4):
        next(half)
    assert torch.equal(model.logits(batch(model)), before)
    half.close()
    assert batches.step() == 0
    assert not model._bridge.hook_dict[hook_name(0)].fwd_hooks
    assert torch.equal(model.logits(batch(model)), before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": ""}, "no token"),
        ({"prompt": "a" * 100_000}, "100,000 tokens"),
        ({"prompt": "a" * (CONTEXT - 8)}, f"room for {CONTEXT - 9}"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_before_the_first_event(tiny, model_cache, change, says):
    with pytest.raises(LexiscopeError, match=says):
        next(steer(tiny.job((0, 3, "add", 1.0), **change), model_cache))


def test_a_prompt_that_just_fits_is_accepted(tiny, model_cache):
    assert (
        list(steer(tiny.job((0, 3, "add", 1.0), prompt="a" * (CONTEXT - 9)), model_cache))[-1].event == "done"
    )


def test_control_tokens_in_a_prompt_stay_plain_text(tiny, model_cache):
    resolved = next(steer(tiny.job((0, 3, "add", 1.0), prompt="<|endoftext|>"), model_cache))
    assert [token.shown for token in resolved.prompt_tokens] == list("<|endoftext|>")


def test_interventions_that_do_not_fit_the_model_are_rejected(tiny, model, model_cache):
    job = tiny.job((0, 10_000, "add", 1.0))
    with pytest.raises(LexiscopeError, match="48 features"):
        next(steer(job, model_cache))
    with pytest.raises(NotLoadable, match="/gone, which the index refers to, is no longer there"):
        next(steer(job.model_copy(update={"model_path": "/gone"}), model_cache))
    foreign = LoadedDictionary(model_cache.dictionary(tiny.checkpoints[0]).dictionary, None)
    with pytest.raises(LexiscopeError, match="mean residual norm"):
        make_plan(tiny.job((0, 3, "add", 1.0)).interventions, lambda _: foreign, model, prompt=3)


def test_the_least_recently_used_dictionary_is_dropped_first(tiny, model):
    small = ModelCache(memory=1)
    first = small.dictionary(tiny.checkpoints[0])
    assert small.dictionary(tiny.checkpoints[0]) is first
    small.dictionary(tiny.checkpoints[1])
    assert small.dictionary(tiny.checkpoints[0]) is not first


def test_what_one_request_needs_is_loaded_once_even_if_it_is_larger_than_the_budget(tiny):
    small = ModelCache(memory=1)
    needs = (tiny.model_path, "tiny", [tiny.checkpoints[0], tiny.checkpoints[1]])
    model, first = small.prepare(*needs), small.dictionary(tiny.checkpoints[0])
    assert small.has(*needs) and small.prepare(*needs) is model
    assert small.dictionary(tiny.checkpoints[0]) is first
