"""What a steer did, read in one more pass over the finished texts: every token given, default, steered and
control rows side by side.

Two texts are read. The steered row's own, by the unsteered and by the steered model: KL at each of its
positions, and how likely the unsteered model finds it. The default row's, by the unsteered model, the steered
one and every control: a text that none of them was steered to write, so that probabilities of the named
tokens, and what other features do, compare at equal ground.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel, Patch
from lexiscope.records import FeatureRef
from server.live.batches import Pause, Work
from server.live.interventions import Load, Plan, patches
from server.live.messages import Controls, Intervention, RawControl, RawMeasured, RawMoved, Source
from server.live.records import ControlKind, ControlNamed, NamedRun

LOGITS_AT_ONCE = 1 << 26
"""values; bounds the memory of a pass"""
MOVED = 8
"""features listed on either side"""
ROUNDING = 1e-5
"""share of the larger of two figures below which their difference is taken for rounding: rows of one batch that
hold the same values agree to about 1e-6, not in every bit
"""


def above(figure: float, other: float) -> bool:
    """True where `figure` is larger than `other` by more than rounding."""
    return figure - other > ROUNDING * max(abs(figure), abs(other))


class Names(NamedTuple):
    """The tokens a steer is about."""

    features: list[FeatureRef]
    wanted: list[int]
    """+1 where the token's probability was asked to rise, −1 to fall, 0 where the controls say nothing (what
    a swap takes away)
    """

    @property
    def ids(self) -> list[int]:
        return [feature.name.id for feature in self.features]


def names(interventions: Sequence[Intervention]) -> Names:
    features, wanted = [], []
    for asked in interventions:
        features.append(asked.feature)
        if asked.to is None:
            neutral = 1.0 if asked.mode == "scale" else 0.0
            wanted.append(-1 if asked.mode == "ablate" or asked.strength <= neutral else 1)
        else:
            features.append(asked.to.feature)
            wanted += [0, 1 if asked.strength > 0 else -1]
    return Names(features, wanted)


class Told(NamedTuple):
    """A text after the prompt, and what is done to the row that reads it."""

    text: Sequence[int]
    plan: Plan | None


class Heard(NamedTuple):
    """What one row made of its text of n tokens."""

    log_probabilities: Tensor
    """[n, vocab] at the positions its tokens were drawn from"""
    residual: Tensor | None
    """[n, d_model] at the tokens themselves, after the layer that was kept"""


class Against(NamedTuple):
    """One row beside the unsteered model on the same text, names [m]."""

    kl: Tensor
    """[n] KL(row ‖ unsteered), nats"""
    probability: Tensor
    """[n, m]"""
    rank: Tensor
    """[n, m] 0 is the likeliest"""


def hear(
    model: LanguageModel,
    prompt: Sequence[int],
    told: Sequence[Told],
    *,
    keep: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Work[list[Heard]]:
    """Each row's reading of its text after the prompt, in passes that fit the memory. Rows of one text that
    nothing changes are read once. Raises Cancelled.
    """
    places: dict[tuple[tuple[int, ...], int], int] = {}
    keys = [
        (tuple(one.text), id(one.plan) if one.plan is not None and one.plan.steers else 0) for one in told
    ]
    for key in keys:
        places.setdefault(key, len(places))
    distinct = [told[keys.index(key)] for key in places]
    heard = yield from _heard(model, prompt, distinct, keep, cancelled)
    return [heard[places[key]] for key in keys]


def _heard(
    model: LanguageModel,
    prompt: Sequence[int],
    told: Sequence[Told],
    keep: int | None,
    cancelled: Callable[[], bool],
) -> Work[list[Heard]]:
    heard: list[Heard] = []
    written, first = max(len(row.text) for row in told), len(prompt)
    length = 1 + first + written
    rows = max(1, LOGITS_AT_ONCE // ((1 + written) * model.vocab_size))
    for start in range(0, len(told), rows):
        part = told[start : start + rows]
        tokens = torch.full((len(part), length), model.bos)
        for row, one in enumerate(part):
            tokens[row, 1 : 1 + first + len(one.text)] = torch.tensor([*prompt, *one.text])
        plans = [one.plan for one in part]
        kept: list[Tensor] = []
        done = patches(plans, [0] * len(part), cancelled=cancelled)
        if keep is not None:
            done[keep] = _kept(done.get(keep), kept)
        logits = model.logits(tokens.to(model.device), done, first=first)
        for row, one in enumerate(part):
            log_probabilities = logits[row, : len(one.text)].float().log_softmax(-1)
            residual = kept[0][row, first + 1 : first + 1 + len(one.text)].float() if kept else None
            heard.append(Heard(log_probabilities, residual))
        yield Pause.TURN
    return heard


def _kept(patch: Patch | None, kept: list[Tensor]) -> Patch:
    def keep(residual: Tensor) -> Tensor:
        changed = residual if patch is None else patch(residual)
        kept.append(changed)
        return changed

    return keep


def against(row: Tensor, unsteered: Tensor, tokens: Sequence[int]) -> Against:
    """From log-probabilities [n, vocab] of both."""
    terms = torch.where(row > -torch.inf, row.exp() * (row - unsteered), 0)
    kl = terms.double().sum(-1).clamp_min(0)
    ids = torch.tensor(list(tokens), device=row.device)
    own = row[:, ids]
    rank = torch.stack([(row > own[:, [place]]).sum(-1) for place in range(len(ids))], 1)
    return Against(kl, own.double().exp(), rank)


def perplexity(log_probabilities: Tensor, text: Sequence[int]) -> float:
    ids = torch.tensor(list(text), device=log_probabilities.device)[:, None]
    return log_probabilities.double().gather(-1, ids).mean().neg().exp().item()


def measure(
    model: LanguageModel,
    load: Load,
    prompt: Sequence[int],
    default: Sequence[int],
    steered: Sequence[int],
    done: Plan,
    *,
    interventions: Sequence[Intervention],
    controls: Controls | None,
    moved: Source | None,
    cancelled: Callable[[], bool],
) -> Work[RawMeasured]:
    """All of it, for one prompt and the two texts that followed. Raises Cancelled."""
    named = names(interventions)
    made, missing = ([], []) if controls is None else make_controls(model, load, interventions, controls)
    told = [Told(text, who) for text in (steered, default) for who in (None, done)]
    told += [Told(default, done.pushing(one.directions)) for one in made]
    heard = yield from hear(
        model, prompt, told, keep=None if moved is None else moved.layer, cancelled=cancelled
    )
    own, ground = heard[:2], heard[2:]
    unsteered = ground[0].log_probabilities
    base, after, *others = [against(row.log_probabilities, unsteered, named.ids) for row in ground]
    kl = against(own[1].log_probabilities, own[0].log_probabilities, named.ids).kl
    answered = [
        RawControl(
            kind=one.kind,
            feature_ids=one.feature_ids,
            kl=row.kl.mean().item(),
            named=[
                ControlNamed(
                    feature=feature,
                    probability_first=row.probability[0, place].item(),
                    probability=row.probability[:, place].mean().item(),
                    rank=row.rank[:, place].float().median().item(),
                )
                for place, feature in enumerate(named.features)
            ],
        )
        for one, row in zip(made, others, strict=True)
    ]
    rose: list[RawMoved] = []
    fell: list[RawMoved] = []
    if moved is not None and ground[0].residual is not None and ground[1].residual is not None:
        exclude = {asked.pushed.feature.id for asked in interventions} | {
            asked.feature.id for asked in interventions
        }
        rose, fell = _moved(load, moved, ground[0].residual, ground[1].residual, exclude, model.id)
    return RawMeasured(
        kl=kl.tolist(),
        kl_mean=kl.mean().item(),
        kl_default_text=after.kl.mean().item(),
        perplexity_default=perplexity(unsteered, default),
        perplexity_steered=perplexity(own[0].log_probabilities, steered),
        named=[
            _run(named, place, base, after, others, controlled=controls is not None)
            for place in range(len(named.features))
        ],
        controls=answered,
        controls_missing=missing,
        moved_source="" if moved is None else moved.source,
        rose=rose,
        fell=fell,
    )


def _run(
    named: Names, place: int, base: Against, after: Against, others: Sequence[Against], *, controlled: bool
) -> NamedRun:
    before, now, *controls = [row.probability[:, place].mean().item() for row in (base, after, *others)]
    wanted = named.wanted[place]
    beats = all(above(wanted * now, wanted * other) for other in (before, *controls))
    return NamedRun(
        feature=named.features[place],
        probability_default=before,
        probability_steered=now,
        rank_default=base.rank[:, place].float().median().item(),
        rank_steered=after.rank[:, place].float().median().item(),
        beats_controls=beats if controlled and wanted else None,
    )


class Made(NamedTuple):
    """A control, ready to be pushed."""

    kind: ControlKind
    directions: list[Tensor]
    """one an intervention"""
    feature_ids: list[str]


def make_controls(
    model: LanguageModel, load: Load, interventions: Sequence[Intervention], controls: Controls
) -> tuple[list[Made], list[str]]:
    """The controls that can be made, and in words those that cannot."""
    pushed = [asked.pushed for asked in interventions]
    made = [Made("embedding", [model.embedding[one.feature.name.id] for one in pushed], [])]
    missing = []
    for drawn in controls.random:
        directions = [
            load(one.checkpoint_path).dictionary.W_dec[ref.index]
            for one, ref in zip(pushed, drawn, strict=True)
        ]
        made.append(Made("random", directions, [ref.id for ref in drawn]))
    if not controls.random:
        missing.append("random: the index holds no other live feature of like density")
    if controls.plain:
        near = [
            _nearest(load, plain, one.checkpoint_path, one.feature.index)
            for plain, one in zip(controls.plain, pushed, strict=True)
        ]
        ids = [
            f"{one.feature.model}/{plain.source}/{index}"
            for plain, one, (index, _) in zip(controls.plain, pushed, near, strict=True)
        ]
        made.append(Made("plain", [direction for _, direction in near], ids))
    else:
        missing.append("plain: the index holds no other plain dictionary at each steered layer")
    return made, missing


def _nearest(load: Load, plain: Source, checkpoint_path: str, index: int) -> tuple[int, Tensor]:
    """The plain dictionary's feature whose direction has the highest cosine to this one's."""
    rows = load(plain.checkpoint_path).dictionary.W_dec
    cosines = (rows @ load(checkpoint_path).dictionary.W_dec[index]) / rows.norm(dim=-1).clamp_min(1e-12)
    best = int(cosines.argmax())
    return best, rows[best]


def _moved(
    load: Load, source: Source, default: Tensor, steered: Tensor, exclude: set[str], model_id: str
) -> tuple[list[RawMoved], list[RawMoved]]:
    """The features whose mean activation rose and fell most over these positions [n, d_model] of the two
    models.
    """
    dictionary = load(source.checkpoint_path).dictionary
    means = []
    for x in (default, steered):
        code = dictionary.encode(x)
        means.append(
            torch.zeros(dictionary.d_sae, device=x.device).index_add_(
                0, code.indices.flatten(), code.values.flatten()
            )
            / len(x)
        )
    change = means[1] - means[0]
    change[change.abs() <= ROUNDING * torch.maximum(*means).max()] = 0
    for feature_id in exclude:
        name, _, index = feature_id.rpartition("/")
        if name == f"{model_id}/{source.source}":
            change[int(index)] = 0
    count = min(MOVED, dictionary.d_sae)

    def listed(order: Tensor) -> list[RawMoved]:
        return [
            RawMoved(
                id=f"{model_id}/{source.source}/{index}",
                default=means[0][index].item(),
                steered=means[1][index].item(),
            )
            for index in order.tolist()
        ]

    up, down = change.topk(count), change.topk(count, largest=False)
    return listed(up.indices[up.values > 0]), listed(down.indices[down.values < 0])
