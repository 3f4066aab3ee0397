"""The effects of a steer: on the names' probabilities at the first generated position, and over the whole
run.

The run is measured in one teacher-forced pass over the finished texts. The steered row's text is scored by
the unsteered and the steered model: KL at each position, and perplexity. The default row's text, which no
intervention has influenced, is scored by the unsteered model, the steered one and every control, so that the
probabilities of the names and the activations of other features can be compared.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.records import FeatureRef, Token
from lexiscope.records.live import ControlEffect, FirstTokenEffect, RunEffect, SteerEffect
from server.live.generation.batches import JobSteps
from server.live.interventions import LoadDictionary, SteerPlan
from server.live.jobs.controls import ControlDirections, ControlSet, make_controls
from server.live.jobs.scoring import ROUNDING, Comparison, TextRow, above, compare, perplexity, score_rows
from server.live.messages import (
    DictionaryPath,
    Intervention,
    LocatedFeature,
    RawActivationChange,
    RawControl,
    RawSteerMeasured,
    SteerJob,
)

CHANGES_LISTED = 8
"""features listed in each of `rose` and `fell`"""


class NamedTokens(NamedTuple):
    """The tokens whose probabilities a steer is meant to change (`LocatedFeature.watched`)."""

    features: list[FeatureRef]
    tokens: list[Token]
    wanted: list[int]
    """for each, +1 if the probability is meant to rise, −1 if it is meant to fall, 0 for the feature that a
    swap removes, which controls do not change
    """

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def named_tokens(interventions: Sequence[Intervention]) -> NamedTokens:
    located: list[LocatedFeature] = []
    wanted: list[int] = []
    for one in interventions:
        located.append(one)
        if one.to is None:
            neutral = 1.0 if one.mode == "scale" else 0.0
            wanted.append(-1 if one.mode == "ablate" or one.strength <= neutral else 1)
        else:
            located.append(one.to)
            wanted += [0, 1 if one.strength > 0 else -1]
    return NamedTokens([one.feature for one in located], [one.watched for one in located], wanted)


def first_token_effect(interventions: Sequence[Intervention], log_probabilities: Tensor) -> SteerEffect:
    """From log-probabilities [2, vocab] of the default and the steered row at one position."""
    named = named_tokens(interventions)
    before, after = (compare(log_probabilities[[row]], log_probabilities[[0]], named.ids) for row in (0, 1))
    changes = [one for one in interventions for _ in range(1 if one.to is None else 2)]
    effects = [
        FirstTokenEffect(
            feature=feature,
            token=named.tokens[place],
            mode=change.mode,
            strength=change.strength,
            probability_default=before.probability[0, place].item(),
            probability_steered=after.probability[0, place].item(),
            rank_default=int(before.rank[0, place]),
            rank_steered=int(after.rank[0, place]),
        )
        for place, (feature, change) in enumerate(zip(named.features, changes, strict=True))
    ]
    return SteerEffect(kl_first=after.kl[0].item(), effects=effects)


class FinishedRun(NamedTuple):
    """The token ids of one steer, and the plan of its steered row."""

    prompt: Sequence[int]
    default: Sequence[int]
    steered: Sequence[int]
    plan: SteerPlan


def measure_run(
    job: SteerJob,
    run: FinishedRun,
    model: LanguageModel,
    load: LoadDictionary,
    *,
    cancelled: Callable[[], bool],
) -> JobSteps[RawSteerMeasured]:
    """The effects over the whole run. Raises Cancelled."""
    named = named_tokens(job.interventions)
    made = ControlSet([], [])
    if job.controls is not None:
        made = make_controls(model, load, job.interventions, job.controls)
    rows = [TextRow(text, plan) for text in (run.steered, run.default) for plan in (None, run.plan)]
    rows += [TextRow(run.default, run.plan.along(control.directions)) for control in made.controls]
    layer = None if job.moved is None else job.moved.layer
    scores = yield from score_rows(model, run.prompt, rows, keep=layer, cancelled=cancelled)
    own, on_default = scores[:2], scores[2:]
    unsteered = on_default[0].log_probabilities
    base, after, *controls = [compare(row.log_probabilities, unsteered, named.ids) for row in on_default]
    kl = compare(own[1].log_probabilities, own[0].log_probabilities, named.ids).kl
    rose: list[RawActivationChange] = []
    fell: list[RawActivationChange] = []
    if job.moved is not None and on_default[0].residual is not None and on_default[1].residual is not None:
        changed = [ref for one in job.interventions for ref in (one.feature, one.written.feature)]
        changes = _Changes(load, job.moved, job.model, changed)
        tokens = torch.tensor(run.default, device=model.device)
        rose, fell = changes.largest(on_default[0].residual, on_default[1].residual, tokens)
    return RawSteerMeasured(
        kl=kl.tolist(),
        kl_mean=kl.mean().item(),
        kl_default_text=after.kl.mean().item(),
        perplexity_default=perplexity(unsteered, run.default),
        perplexity_steered=perplexity(own[0].log_probabilities, run.steered),
        named=[
            _run_effect(named, place, base, after, None if job.controls is None else controls)
            for place in range(len(named.features))
        ],
        controls=[
            _control(control, row, named) for control, row in zip(made.controls, controls, strict=True)
        ],
        controls_missing=made.missing,
        moved_source="" if job.moved is None else job.moved.source,
        rose=rose,
        fell=fell,
    )


def _run_effect(
    named: NamedTokens,
    place: int,
    base: Comparison,
    after: Comparison,
    controls: Sequence[Comparison] | None,
) -> RunEffect:
    """The effect on one named token. `controls` is None if none were requested."""
    before, now, *others = [
        row.probability[:, place].mean().item() for row in (base, after, *(controls or ()))
    ]
    wanted = named.wanted[place]
    beats = all(above(wanted * now, wanted * other) for other in (before, *others))
    return RunEffect(
        feature=named.features[place],
        token=named.tokens[place],
        probability_default=before,
        probability_steered=now,
        rank_default=base.rank[:, place].float().median().item(),
        rank_steered=after.rank[:, place].float().median().item(),
        beats_controls=beats if controls is not None and wanted else None,
    )


def _control(control: ControlDirections, row: Comparison, named: NamedTokens) -> RawControl:
    effects = [
        ControlEffect(
            feature=feature,
            token=named.tokens[place],
            probability_first=row.probability[0, place].item(),
            probability=row.probability[:, place].mean().item(),
            rank=row.rank[:, place].float().median().item(),
        )
        for place, feature in enumerate(named.features)
    ]
    return RawControl(
        kind=control.kind, feature_ids=control.feature_ids, kl=row.kl.mean().item(), named=effects
    )


class _Changes:
    """Changes of the mean activations of one dictionary's features, without the steered features."""

    def __init__(
        self, load: LoadDictionary, path: DictionaryPath, model_id: str, changed: Sequence[FeatureRef]
    ) -> None:
        self._dictionary = load(path.checkpoint_path).dictionary
        self._source = f"{model_id}/{path.source}"
        here = (ref for ref in changed if ref.source == path.source and not ref.row)
        self._excluded = sorted({ref.index for ref in here})

    def largest(
        self, default: Tensor, steered: Tensor, tokens: Tensor
    ) -> tuple[list[RawActivationChange], list[RawActivationChange]]:
        """The features whose mean activation rose most and fell most, over residual streams [n, d_model] of
        the two models, on tokens [n]. Changes within rounding are left out.
        """
        before, after = self._means(default, tokens), self._means(steered, tokens)
        change = after - before
        change[change.abs() <= ROUNDING * torch.maximum(before, after).max()] = 0
        change[self._excluded] = 0
        count = min(CHANGES_LISTED, self._dictionary.d_sae)

        def listed(indices: Tensor) -> list[RawActivationChange]:
            return [
                RawActivationChange(
                    id=f"{self._source}/{index}",
                    default=before[index].item(),
                    steered=after[index].item(),
                )
                for index in indices.tolist()
            ]

        up, down = change.topk(count), change.topk(count, largest=False)
        return listed(up.indices[up.values > 0]), listed(down.indices[down.values < 0])

    def _means(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[d_sae] mean activations over x [n, d_model] on tokens [n]."""
        code = self._dictionary.encode(x, tokens)
        sums = torch.zeros(self._dictionary.d_sae, device=x.device)
        return sums.index_add_(0, code.indices.flatten(), code.values.flatten()) / len(x)
