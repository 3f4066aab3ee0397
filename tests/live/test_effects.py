"""Effects of steers and sweeps, compared with figures from plain forward passes."""

import pytest
import torch

from lexiscope.records.live import SteerEffect, SteerStep, SweepControl, SweepCurve, SweepEffect, SweepPoint
from server.live.generation import Batches
from server.live.interventions import make_plan, patches_of
from server.live.jobs import steer
from server.live.jobs.effects import NamedTokens, named_tokens
from server.live.jobs.sweep import judged, sweep, sweet_spot
from server.live.messages import ControlSources, RawSteerMeasured, SteerJob, SweepJob
from tests.live.jobs import SILENT, events_of

PROMPT = "Once upon a time"


def run(job, model_cache):
    batches = Batches()
    return list(events_of(steer(job, model_cache, batches), batches))


def one(events, kind):
    [found] = [event for event in events if isinstance(event, kind)]
    return found


def distributions(model, text, done=None, *, prompt=PROMPT):
    """[n, vocab] log-probabilities at the positions the n tokens of `text` were drawn from."""
    ids = model.tokenise(prompt)
    tokens = torch.tensor([[model.bos, *ids, *text]])
    logits = model.logits(tokens, patches_of([done], tokens, [0]) if done else None)
    return logits[0, len(ids) : len(ids) + len(text)].log_softmax(-1)


def texts(events):
    steps = [event for event in events if isinstance(event, SteerStep)]
    return [
        [getattr(step, row).token.id for step in steps if getattr(step, row)]
        for row in ("default", "steered")
    ]


def test_the_whole_run_is_measured_teacher_forced(tiny, model, model_cache):
    job = tiny.job((0, 3, "add", 0.6), max_tokens=12, moved=tiny.source(1))
    events = run(job, model_cache)
    got, (default, steered) = one(events, RawSteerMeasured), texts(events)
    done = make_plan(job.interventions, model_cache.dictionary, model, prompt=len(PROMPT))
    p, q = distributions(model, steered, done).double(), distributions(model, steered).double()
    assert got.kl == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), rel=1e-3, abs=1e-6)
    assert got.kl_mean == pytest.approx(sum(got.kl) / 12, rel=1e-6)
    own = q[range(12), steered]
    assert got.perplexity_steered == pytest.approx(own.mean().neg().exp().item(), rel=1e-3)
    name = job.interventions[0].feature.name.id
    before, after = distributions(model, default), distributions(model, default, done)
    [named] = got.named
    assert named.probability_default == pytest.approx(before[:, name].exp().mean().item(), rel=1e-3)
    assert named.probability_steered == pytest.approx(after[:, name].exp().mean().item(), rel=1e-3)
    ranks = (after > after[:, [name]]).sum(-1).float().median().item()
    assert named.rank_steered == ranks and named.beats_controls is None and not got.controls


@pytest.mark.parametrize("run_of", [steer, sweep])
def test_k_leaves_features_that_are_not_among_the_strongest_alone(tiny, model, model_cache, run_of):
    dictionary = model_cache.dictionary(tiny.checkpoints[0]).dictionary
    x = model.read(torch.tensor([[model.bos, *model.tokenise(PROMPT)]]), [0])[0][0, 1:]
    code = dictionary.encode(x)
    fires = {int(index) for row in code.indices for index in row}
    weak = min(fires - {int(row[0]) for row in code.indices})

    def shift(k):
        job = tiny.job((0, weak, "scale", 5.0), max_tokens=1, k=k)
        if run_of is steer:
            return one(run(job, model_cache), SteerEffect).kl_first
        fields = {name: getattr(job, name) for name in SweepJob.model_fields if name in SteerJob.model_fields}
        batches = Batches()
        swept = list(events_of(sweep(SweepJob(**fields, strengths=[5.0]), model_cache, batches), batches))
        return one(swept, SweepCurve).points[0].kl_first

    assert shift(1) < 1e-9 < shift(None) == pytest.approx(shift(1000))


def test_changes_of_other_features_are_measured_on_the_default_text_in_both_models(tiny, model, model_cache):
    job = tiny.job((0, 3, "add", 0.6), max_tokens=12, moved=tiny.source(1))
    events = run(job, model_cache)
    got, (default, _) = one(events, RawSteerMeasured), texts(events)
    tokens = torch.tensor([[model.bos, *model.tokenise(PROMPT), *default]])
    done = make_plan(job.interventions, model_cache.dictionary, model, prompt=len(PROMPT))
    dictionary, kept = model_cache.dictionary(tiny.checkpoints[1]).dictionary, {}
    for name, patched in (("default", {}), ("steered", patches_of([done], tokens, [0]))):
        model.logits(tokens, patched | {1: lambda x, name=name: kept.setdefault(name, x)})
    dense = {
        name: torch.zeros(len(default), dictionary.d_sae)
        .scatter(1, *reversed(dictionary.encode(x[0, -len(default) :])))
        .mean(0)
        for name, x in kept.items()
    }
    change = dense["steered"] - dense["default"]
    assert [moved.id for moved in got.rose[:3]] == [
        f"tiny/1-random/{i}" for i in change.topk(3).indices.tolist()
    ]
    assert [moved.id for moved in got.fell[:3]] == [
        f"tiny/1-random/{i}" for i in change.topk(3, largest=False).indices.tolist()
    ]
    top = int(got.rose[0].id.rpartition("/")[2])
    assert got.rose[0].steered == pytest.approx(dense["steered"][top].item(), rel=1e-3)


def test_strength_0_has_no_effect_on_any_figure(tiny, model_cache):
    events = run(
        tiny.job(
            (0, 3, "add", 0.0),
            max_tokens=12,
            moved=tiny.source(1),
            controls=ControlSources(random=[[tiny.ref(0, 9)]]),
        ),
        model_cache,
    )
    got = one(events, RawSteerMeasured)
    assert max(got.kl) == 0 and got.kl_default_text == 0 and not got.rose and not got.fell
    assert got.named[0].beats_controls is False and all(control.kl == 0 for control in got.controls)


def test_a_change_that_is_only_rounding_is_no_effect(tiny, model_cache):
    """The feature never fires, so that its ablation changes nothing; the steered row is still computed."""
    job = tiny.job((0, SILENT, "ablate", 0.0), max_tokens=12, moved=tiny.source(1), controls=ControlSources())
    got = one(run(job, model_cache), RawSteerMeasured)
    assert max(got.kl) < 1e-9 and not got.rose and not got.fell
    assert got.named[0].beats_controls is False


def test_controls_are_measured_on_the_same_text_and_an_effect_must_beat_them(tiny, model, model_cache):
    controls = ControlSources(random=[[tiny.ref(0, 9)], [tiny.ref(0, 12)]], plain=[tiny.source(0)])
    job = tiny.job((0, 3, "add", 0.8), max_tokens=10, controls=controls)
    events = run(job, model_cache)
    got, (default, _) = one(events, RawSteerMeasured), texts(events)
    assert [control.kind for control in got.controls] == ["embedding", "random", "random", "plain"]
    assert got.controls[3].feature_ids == ["tiny/0-random/3"], "nearest to itself, in this index"
    done = make_plan(job.interventions, model_cache.dictionary, model, prompt=len(PROMPT))
    name = job.interventions[0].feature.name.id
    along = done.along([model.embedding[name] - model.embedding.mean(0)])
    expected = distributions(model, default, along)[:, name].exp().mean().item()
    assert got.controls[0].named[0].probability == pytest.approx(expected, rel=1e-3)
    [named] = got.named
    others = [control.named[0].probability for control in got.controls]
    assert named.beats_controls == (named.probability_steered > max([*others, named.probability_default]))


def test_missing_controls_are_named(tiny, model_cache):
    got = one(
        run(tiny.job((0, 3, "add", 0.8), max_tokens=4, controls=ControlSources()), model_cache),
        RawSteerMeasured,
    )
    assert [control.kind for control in got.controls] == ["embedding"]
    assert [words.split(":")[0] for words in got.controls_missing] == ["random", "plain"]


def test_each_mode_has_the_direction_in_which_names_should_change(tiny):
    interventions = [
        tiny.does(0, 1, "add", 0.5),
        tiny.does(0, 2, "add", -0.5),
        tiny.does(0, 3, "ablate"),
        tiny.does(0, 4, "scale", 0.5),
        tiny.does(0, 5, "swap", 1.0, to=tiny.at(0, 6)),
    ]
    refs = [tiny.ref(0, i) for i in range(1, 7)]
    assert named_tokens(interventions) == NamedTokens(refs, [ref.name for ref in refs], [1, -1, -1, -1, 0, 1])


def test_the_token_of_the_job_is_followed_and_else_the_nearest_anchor(tiny):
    one = tiny.does(0, 1, "add", 0.5)
    asked = tiny.ref(0, 9).name
    assert named_tokens([one.model_copy(update={"token": asked})]).tokens == [asked]
    assert named_tokens([one]).tokens == [one.feature.name]


# --- sweeps ---


def sweep_job(tiny, strengths, **given):
    job = tiny.job((0, 3, "add", 0.5), max_tokens=10, **given)
    known = job.model_dump(exclude={"top_logprobs", "controls", "moved", "spelled_bos"})
    return SweepJob(**known, strengths=strengths)


def test_each_point_of_a_sweep_equals_a_steer_at_its_strength(tiny, model_cache):
    batches = Batches()
    swept = one(
        list(events_of(sweep(sweep_job(tiny, [0.0, 0.4, -0.8]), model_cache, batches), batches)), SweepCurve
    )
    assert swept.points[0].text == swept.default.text and swept.points[0].kl == 0
    assert batches.step() == 0
    for point in swept.points[1:]:
        alone = run(tiny.job((0, 3, "add", point.strength), max_tokens=10), model_cache)
        measured = one(alone, RawSteerMeasured)
        assert point.text == alone[-1].steered_text
        assert point.kl == pytest.approx(measured.kl_mean, rel=1e-3)
        assert point.perplexity == pytest.approx(measured.perplexity_steered, rel=1e-3)
        assert point.named[0].probability == pytest.approx(measured.named[0].probability_steered, rel=1e-3)


def test_the_controls_of_a_sweep_are_those_of_a_steer_at_each_strength(tiny, model_cache):
    sources = ControlSources(random=[[tiny.ref(0, 5)], [tiny.ref(0, 9)]])
    batches = Batches()
    job = sweep_job(tiny, [0.0, 0.4, -0.8]).model_copy(update={"controls": sources})
    swept = one(list(events_of(sweep(job, model_cache, batches), batches)), SweepCurve)
    assert swept.points[0].controls == [] and swept.points[0].beats_controls is None
    for point in swept.points[1:]:
        steered = tiny.job((0, 3, "add", point.strength), max_tokens=10, controls=sources)
        measured = one(run(steered, model_cache), RawSteerMeasured)
        assert [control.kind for control in point.controls] == ["embedding", "random", "random"]
        for control, alone in zip(point.controls, measured.controls, strict=True):
            assert control.probabilities == pytest.approx([alone.named[0].probability], rel=1e-3)
        assert point.beats_controls == measured.named[0].beats_controls


def test_a_strength_that_controls_reach_is_no_sweet_spot(tiny):
    default = point(tiny, 0.0, 0.1)
    best, lesser = (point(tiny, s, p) for s, p in ((1.0, 0.9), (0.5, 0.4)))
    beaten = judged(with_controls(best, 0.95), default, [1])
    passed = judged(with_controls(lesser, 0.2), default, [1])
    assert (beaten.beats_controls, passed.beats_controls) == (False, True)
    assert sweet_spot(default, [beaten, passed], [[1], [1]]) == 0.5
    assert sweet_spot(default, [beaten], [[1]]) is None
    assert judged(with_controls(lesser, 0.2), default, [-1]).beats_controls is False, "it was to fall"


def with_controls(swept, *probabilities):
    controls = [SweepControl(kind="random", probabilities=[each]) for each in probabilities]
    return swept.model_copy(update={"controls": controls})


def point(tiny, strength, probability, perplexity=10.0, distinct=0.8):
    named = [
        SweepEffect(
            feature=tiny.ref(),
            token=tiny.ref().name,
            probability_first=0,
            probability=probability,
            rank_first=0,
        )
    ]
    return SweepPoint(
        strength=strength, named=named, kl_first=0, kl=0, perplexity=perplexity, distinct=distinct, text=""
    )


def test_the_sweet_spot_has_the_largest_effect_within_the_limits_of_the_text(tiny):
    default = point(tiny, 0.0, 0.01)
    points = [
        point(tiny, 0.25, 0.1),
        point(tiny, 0.5, 0.3, perplexity=19),
        point(tiny, 1.0, 0.6, perplexity=21),
        point(tiny, 1.5, 0.9, distinct=0.3),
    ]
    assert sweet_spot(default, points, [[1]] * 4) == 0.5
    assert sweet_spot(default, points[2:], [[1]] * 2) is None
    assert sweet_spot(default, [point(tiny, -0.5, 0.001), point(tiny, 0.5, 0.001)], [[-1], [1]]) == -0.5
