"""The sweep job: the same interventions at several strengths, one row each beside the unsteered row, with the
same random numbers.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.records.live import SteerResolved, SweepControl, SweepCurve, SweepEffect, SweepPoint
from server.live.generation import Batches, GeneratedRow, JobSteps, Pause, Sampler
from server.live.interventions import Cancelled, SteerPlan, make_plan
from server.live.jobs.controls import ControlDirections, ControlSet, make_controls
from server.live.jobs.effects import NamedTokens, named_tokens
from server.live.jobs.prepare import (
    at_most,
    check_interventions,
    checkpoints_of,
    finite,
    load_model,
    rows_in_batch,
    tokenise_notes,
    tokenise_prompt,
)
from server.live.jobs.scoring import Comparison, RowScores, TextRow, above, compare, perplexity, score_rows
from server.live.messages import SweepJob
from server.live.model_cache import ModelCache

MAX_PERPLEXITY, MIN_DISTINCT = 2.0, 0.5
RULE = (
    "The strength that changes the mean probability of the names most in the direction requested, among "
    "those whose text has a perplexity under the unsteered model of at most "
    f"{MAX_PERPLEXITY:g} times that of the default text and a share of distinct tokens of at least "
    f"{MIN_DISTINCT:g} times that of the default text. None if no such strength changes them that way, or, "
    "with controls, none changes them more than every control."
)


def sweep(
    job: SweepJob, cache: ModelCache, batches: Batches, *, cancelled: Callable[[], bool] = lambda: False
) -> JobSteps[None]:
    """`resolved`, then `swept`. Raises the errors of `steer`."""
    plain = [] if job.controls is None else [path.checkpoint_path for path in job.controls.plain]
    checkpoints = [*checkpoints_of(job.interventions), *plain]
    model, vocabulary = yield from load_model(cache, job, checkpoints)
    prompt = tokenise_prompt(model, job)
    at_strengths = [
        [one.model_copy(update={"strength": strength}) for one in job.interventions]
        for strength in job.strengths
    ]
    load = at_most(cache.dictionary, job.k)
    plans = [make_plan(each, load, model, prompt=len(prompt)) for each in at_strengths]
    check_interventions(job.interventions, model, len(prompt) + job.max_tokens)
    if cancelled():
        raise Cancelled
    named = named_tokens(job.interventions)
    yield SteerResolved(
        features=named.features,
        prompt_tokens=[vocabulary.token(token) for token in prompt],
        notes=tokenise_notes(model, [job.prompt], chat=job.chat),
    )
    rows = [GeneratedRow(model, prompt, max_tokens=job.max_tokens, stop=job.stop) for _ in (None, *plans)]
    first = yield from _generate(job, model, batches, rows, prompt, plans, cancelled)
    made = ControlSet([], [])
    if job.controls is not None:
        made = make_controls(model, cache.dictionary, job.interventions, job.controls)
    scorer = _Scorer(model, prompt, named, first[[0]], rows[0].tokens, made.controls, cancelled)
    default = yield from scorer.point(0.0, rows[0], None, first[[0]])
    points: list[SweepPoint] = []
    for place, (strength, plan) in enumerate(zip(job.strengths, plans, strict=True), start=1):
        if plan.steers:
            points.append((yield from scorer.point(strength, rows[place], plan, first[[place]])))
        else:
            points.append(default.model_copy(update={"strength": strength}))
    wanted = [named_tokens(each).wanted for each in at_strengths]
    points = [judged(point, default, each) for point, each in zip(points, wanted, strict=True)]
    yield SweepCurve(
        unit=job.interventions[0].unit,
        default=default,
        points=points,
        sweet_spot=sweet_spot(default, points, wanted),
        rule=RULE,
    )


def _generate(
    job: SweepJob,
    model: LanguageModel,
    batches: Batches,
    rows: Sequence[GeneratedRow],
    prompt: Sequence[int],
    plans: Sequence[SteerPlan],
    cancelled: Callable[[], bool],
) -> JobSteps[Tensor]:
    """Generate all rows to their ends; log-probabilities [rows, vocab] at the first generated position."""
    sampler = Sampler(job, len(rows), model.vocab_size, model.device)
    with rows_in_batch(batches, model, prompt, [None, *plans], cancelled) as in_batch:
        first = finite(in_batch.logits).log_softmax(-1)
        while True:
            tokens = sampler.draw(finite(in_batch.logits))
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if row.end is None:
                    row.add(token)
            if all(row.end for row in rows):
                return first
            in_batch.put(tokens)
            yield Pause.STEP
            if cancelled():
                raise Cancelled


class _Scorer:
    """Scores the rows of one sweep against its default row."""

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        named: NamedTokens,
        first: Tensor,
        default: Sequence[int],
        controls: Sequence[ControlDirections],
        cancelled: Callable[[], bool],
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._named = named
        self._first = first
        self._default = default
        self._controls = controls
        self._cancelled = cancelled
        self._base: RowScores | None = None

    def point(
        self, strength: float, row: GeneratedRow, plan: SteerPlan | None, first: Tensor
    ) -> JobSteps[SweepPoint]:
        """One point of the curve; `first` has the log-probabilities [1, vocab] at the first position."""
        if self._base is None:
            [self._base] = yield from self._scores([TextRow(self._default, None)])
        texts = [TextRow(row.tokens, None), TextRow(row.tokens, plan), TextRow(self._default, plan)]
        along = [] if plan is None else [plan.along(control.directions) for control in self._controls]
        texts += [TextRow(self._default, changed) for changed in along]
        unsteered, own, on_default, *others = yield from self._scores(texts)
        ids = self._named.ids
        at_first = compare(first, self._first, ids)
        run = compare(on_default.log_probabilities, self._base.log_probabilities, ids)
        kl = compare(own.log_probabilities, unsteered.log_probabilities, ids).kl
        return SweepPoint(
            strength=strength,
            named=_effects(self._named, at_first, run),
            kl_first=at_first.kl[0].item(),
            kl=kl.mean().item(),
            perplexity=perplexity(unsteered.log_probabilities, row.tokens),
            distinct=len(set(row.tokens)) / len(row.tokens),
            text=row.text,
            controls=[
                SweepControl(kind=control.kind, probabilities=self._probabilities(scores))
                for control, scores in zip(self._controls, others, strict=bool(along))
            ],
        )

    def _probabilities(self, scores: RowScores) -> list[float]:
        """The mean probability of each name over the default text."""
        assert self._base is not None
        row = compare(scores.log_probabilities, self._base.log_probabilities, self._named.ids)
        return [value.item() for value in row.probability.mean(dim=0)]

    def _scores(self, rows: Sequence[TextRow]) -> JobSteps[list[RowScores]]:
        return score_rows(self._model, self._prompt, rows, cancelled=self._cancelled)


def judged(point: SweepPoint, default: SweepPoint, wanted: Sequence[int]) -> SweepPoint:
    """The point with `beats_controls`, where it has controls. `wanted` is its `NamedTokens.wanted`."""
    if not point.controls:
        return point
    beats = all(
        above(sign * name.probability, sign * other)
        for place, (sign, name, before) in enumerate(zip(wanted, point.named, default.named, strict=True))
        if sign
        for other in (before.probability, *(control.probabilities[place] for control in point.controls))
    )
    return point.model_copy(update={"beats_controls": beats})


def sweet_spot(
    default: SweepPoint, points: Sequence[SweepPoint], wanted: Sequence[Sequence[int]]
) -> float | None:
    """The strength selected by `RULE`. `wanted` has each point's `NamedTokens.wanted`."""

    def reached(point: SweepPoint, directions: Sequence[int]) -> float:
        return sum(sign * name.probability for sign, name in zip(directions, point.named, strict=True))

    candidates = [
        (reached(point, directions) - reached(default, directions), -abs(point.strength), point.strength)
        for point, directions in zip(points, wanted, strict=True)
        if above(reached(point, directions), reached(default, directions))
        and point.beats_controls is not False
        and point.perplexity <= MAX_PERPLEXITY * default.perplexity
        and point.distinct >= MIN_DISTINCT * default.distinct
    ]
    return max(candidates)[2] if candidates else None


def _effects(named: NamedTokens, first: Comparison, run: Comparison) -> list[SweepEffect]:
    return [
        SweepEffect(
            feature=feature,
            token=named.tokens[place],
            probability_first=first.probability[0, place].item(),
            probability=run.probability[:, place].mean().item(),
            rank_first=int(first.rank[0, place]),
        )
        for place, feature in enumerate(named.features)
    ]
