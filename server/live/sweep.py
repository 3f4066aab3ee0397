"""The same steer at several strengths: one row each beside the default one, in one batch, with the same
random numbers.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from server.live.batches import Batches, Pause, Work
from server.live.generation import check, checkpoint_paths, finite, loaded, tokenised, writing
from server.live.interventions import Cancelled, plan
from server.live.measure import Against, Names, Told, above, against, hear, names, perplexity
from server.live.messages import SweepJob
from server.live.model_cache import Shelf
from server.live.records import SteerResolved, SteerSwept, SweepNamed, SweepPoint, Unit
from server.live.sampling import Sampler
from server.live.writing import Row

PERPLEXITY, DISTINCT = 2.0, 0.5
RULE = (
    "The strength that moves the named tokens' mean probability furthest the way it was asked to, among those whose text still reads like "
    f"the model's: perplexity under the unsteered model at most {PERPLEXITY:g} times the default text's, and at least {DISTINCT:g} times "
    "its share of distinct tokens. None where no such strength moves them."
)


def sweep(
    job: SweepJob, shelf: Shelf, batches: Batches, *, cancelled: Callable[[], bool] = lambda: False
) -> Work[None]:
    """`resolved`, then `swept`. Raises what `generation.steer` raises."""
    model, vocabulary = yield from loaded(
        shelf, job.model_path, job.model, checkpoint_paths(job.interventions)
    )
    prompt = tokenised(model, job.prompt, job.max_tokens)
    asked = [
        [one.model_copy(update={"strength": strength}) for one in job.interventions]
        for strength in job.strengths
    ]
    plans = [plan(each, shelf.dictionary, model, prompt=len(prompt)) for each in asked]
    check(job.interventions, model, len(prompt) + job.max_tokens)
    if cancelled():
        raise Cancelled
    named = names(job.interventions)
    yield SteerResolved(features=named.features, prompt_tokens=[vocabulary.token(token) for token in prompt])
    rows = [Row(model, prompt, max_tokens=job.max_tokens, stop=job.stop) for _ in (None, *plans)]
    sampler = Sampler(job, len(rows), model.vocab_size, model.device)
    with writing(batches, model, prompt, [None, *plans], cancelled) as writer:
        first = finite(writer.logits).log_softmax(-1)
        while True:
            tokens = sampler.draw(finite(writer.logits))
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if row.end is None:
                    row.add(token)
            if all(row.end for row in rows):
                break
            writer.put(tokens)
            yield Pause.STEP
            if cancelled():
                raise Cancelled
    default = rows[0].tokens
    [base] = yield from hear(model, prompt, [Told(default, None)], cancelled=cancelled)
    points: list[SweepPoint] = []
    for place, (row, done) in enumerate(zip(rows, [None, *plans], strict=True)):
        if done is not None and not done.steers:
            points.append(points[0].model_copy(update={"strength": job.strengths[place - 1]}))
            continue
        told = [Told(row.tokens, None), Told(row.tokens, done), Told(default, done)]
        unsteered, own, ground = yield from hear(model, prompt, told, cancelled=cancelled)
        point = SweepPoint(
            strength=job.strengths[place - 1] if place else 0.0,
            named=_named(
                named,
                against(first[[place]], first[[0]], named.ids),
                against(ground.log_probabilities, base.log_probabilities, named.ids),
            ),
            kl_first=against(first[[place]], first[[0]], named.ids).kl[0].item(),
            kl=_kl(own.log_probabilities, unsteered.log_probabilities, named.ids),
            perplexity=perplexity(unsteered.log_probabilities, row.tokens),
            distinct=len(set(row.tokens)) / len(row.tokens),
            text=row.text,
        )
        points.append(point)
    swept = [names(each).wanted for each in asked]
    unit: Unit = job.interventions[0].unit
    yield SteerSwept(
        unit=unit,
        default=points[0],
        points=points[1:],
        sweet_spot=sweet_spot(points[0], points[1:], swept),
        rule=RULE,
    )


def sweet_spot(
    default: SweepPoint, points: Sequence[SweepPoint], wanted: Sequence[Sequence[int]]
) -> float | None:
    """`RULE`; `wanted` gives each point's direction for each named token (lexiscope's `measure.Names`)."""

    def reached(point: SweepPoint, ways: Sequence[int]) -> float:
        return sum(way * name.probability for way, name in zip(ways, point.named, strict=True))

    candidates = [
        (reached(point, ways) - reached(default, ways), -abs(point.strength), point.strength)
        for point, ways in zip(points, wanted, strict=True)
        if above(reached(point, ways), reached(default, ways))
        and point.perplexity <= PERPLEXITY * default.perplexity
        and point.distinct >= DISTINCT * default.distinct
    ]
    return max(candidates)[2] if candidates else None


def _named(named: Names, first: Against, run: Against) -> list[SweepNamed]:
    return [
        SweepNamed(
            feature=feature,
            probability_first=first.probability[0, place].item(),
            probability=run.probability[:, place].mean().item(),
            rank_first=int(first.rank[0, place]),
        )
        for place, feature in enumerate(named.features)
    ]


def _kl(row: Tensor, unsteered: Tensor, ids: Sequence[int]) -> float:
    return against(row, unsteered, ids).kl.mean().item()
