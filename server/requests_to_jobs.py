"""Turns requests about the live model into jobs for the worker: names and ids are looked up in the index.

Raises NotFound, with what exists, if the index does not contain a name or an id, and HTTPException 422 for
interventions that do not fit together.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from lexiscope.records import FeatureRef, Filters, Token, set_of
from lexiscope.records.live import ResolvedFeature
from lexiscope.records.requests import (
    DEFAULT_STRENGTH,
    UNITS,
    FeatureChoice,
    ReadRequest,
    Sampling,
    SteerFeature,
    SteerRequest,
    SweepRequest,
)
from server.live import (
    ControlSources,
    DictionaryPath,
    Intervention,
    LocatedFeature,
    ReadJob,
    SteerJob,
    SweepJob,
)
from server.resolve_token import Purpose, feature_for, judged
from store import IndexedDictionary, NotFound, Store

ROW_MODES = ("add", "orthogonal")
"""what the direction of a token can be used for"""
RANDOM_CONTROLS = 3
DENSITY_FACTORS = (1.25, 2.0, 10.0)
"""a random control's density is within the first of these factors that leaves enough features to draw from"""


class ResolvedSteer(NamedTuple):
    """A job, and the feature of each intervention."""

    job: SteerJob | SweepJob
    features: list[ResolvedFeature]


class ModelWeights(NamedTuple):
    """Where a language model is loaded from, and which it is."""

    path: str
    identity: str
    """`LanguageModel.identity`; empty if the index does not record it"""


class ResolvedRead(NamedTuple):
    """A job, and the dictionaries it reads with."""

    job: ReadJob
    places: list[IndexedDictionary]


class IndexedModel:
    """One model's dictionaries in the index. Raises NotFound if there are none."""

    def __init__(self, store: Store, model: str) -> None:
        self.store = store
        self.model = model
        self.places = {place.source: place for place in store.dictionaries() if place.model == model}
        if not self.places:
            known = sorted({place.model for place in store.dictionaries()})
            raise NotFound(
                f"the index has no model {model[:200]!r}; its models are: {', '.join(known) or 'none'}"
            )

    def weights(self, sources: Iterable[str]) -> ModelWeights:
        """The language model that the dictionaries `sources` were indexed with. Raises HTTPException 422 if
        they were indexed with different weights, or imported without them.
        """
        places = [self.places[source] for source in sources]
        identities = {place.model_identity for place in places if place.model_identity}
        if len(identities) > 1:
            raise HTTPException(
                422,
                f"{', '.join(sorted({place.source for place in places}))} were indexed with different "
                f"weights of {self.model}. Index each model again with an id of its own (--model-id).",
            )
        paths = list(dict.fromkeys(place.model_path for place in places if place.model_path))
        if not paths:
            raise HTTPException(
                422,
                f"{', '.join(place.source for place in places)} of {self.model} were imported without their "
                "model. They can be browsed, but neither steered nor read with.",
            )
        path = next((path for path in paths if Path(path).exists()), paths[0])
        return ModelWeights(path, next(iter(identities), ""))

    def feature(self, feature_id: str) -> FeatureRef:
        """A feature by its id."""
        [ref] = self.store.feature_refs([feature_id])
        if ref.model != self.model:
            raise HTTPException(422, f"{ref.id} is a feature of {ref.model}, but the model is {self.model}")
        return ref

    def resolve(self, choice: FeatureChoice, purpose: Purpose) -> ResolvedFeature:
        """The feature of a choice."""
        if choice.id is not None:
            return judged(self.store, self.feature(choice.id))
        assert choice.token is not None
        return feature_for(self.store, self.model, choice.token, layer=choice.layer, purpose=purpose)

    def locate(self, ref: FeatureRef, *, maximum: bool = False, token: Token | None = None) -> LocatedFeature:
        """The feature with its checkpoint, with its maximum activation if required, and with the token that
        it was selected for.
        """
        place = self.with_weights(ref.source)
        highest = None
        if maximum:
            highest = self.store.feature(ref.model, ref.source, ref.index).feature.max_activation
        return LocatedFeature(
            feature=ref,
            checkpoint_path=place.checkpoint_path,
            identity=place.dictionary_identity,
            mean_norm=place.mean_norm,
            max_activation=highest,
            lens_path=place.lens_path,
            token=token,
        )

    def with_weights(self, source: str) -> IndexedDictionary:
        """Raises HTTPException 422 for an imported dictionary, which has no weights."""
        place = self.places[source]
        if not place.checkpoint_path:
            raise HTTPException(
                422,
                f"{self.model}/{source} was imported without its weights. It can be browsed, but neither "
                "steered nor read with.",
            )
        return place

    def reading_places(
        self, sources: Sequence[str], follow: LocatedFeature | None
    ) -> list[IndexedDictionary]:
        """The dictionaries to read with, by layer. Without `sources`, all dictionaries of one set: the
        followed feature's, or the set with most layers.
        """
        unknown = [name for name in sources if name not in self.places]
        if unknown:
            known = ", ".join(sorted(self.places))
            raise NotFound(f"{self.model} has no dictionary {unknown[0]!r}; its dictionaries are: {known}")
        if sources:
            chosen = [self.with_weights(name) for name in dict.fromkeys(sources)]
        else:
            sets = self._sets_with_weights()
            largest = max(sets, key=lambda name: (len(sets[name]), "plain" not in name, -len(name)))
            chosen = sets[set_of(follow.feature.source) if follow else largest]
        return sorted(chosen, key=lambda place: (place.layer, place.source))

    def _sets_with_weights(self) -> dict[str, list[IndexedDictionary]]:
        sets: dict[str, list[IndexedDictionary]] = {}
        for place in self.places.values():
            if place.checkpoint_path:
                sets.setdefault(set_of(place.source), []).append(place)
        if not sets:
            raise NotFound(f"the index has no weights of any dictionary of {self.model} to read with")
        return sets


def dictionary_path(place: IndexedDictionary) -> DictionaryPath:
    return DictionaryPath(
        source=place.source,
        layer=place.layer,
        checkpoint_path=place.checkpoint_path,
        identity=place.dictionary_identity,
        mean_norm=place.mean_norm,
    )


def steer_job(store: Store, request: SteerRequest) -> ResolvedSteer:
    model = IndexedModel(store, request.model)
    interventions, features = _interventions(model, request.features)
    weights = model.weights(one.feature.source for one in interventions)
    job = SteerJob(
        **_sampling(request),
        **_shared(request, weights),
        interventions=interventions,
        prompt=request.prompt,
        top_logprobs=request.top_logprobs,
        controls=_controls(model, interventions, request.seed) if request.controls else None,
        moved=_dictionary_for_changes(model, interventions),
    )
    return ResolvedSteer(job, features)


def sweep_job(store: Store, request: SweepRequest) -> ResolvedSteer:
    model = IndexedModel(store, request.model)
    interventions, features = _interventions(model, request.features)
    weights = model.weights(one.feature.source for one in interventions)
    job = SweepJob(
        **_sampling(request),
        **_shared(request, weights),
        interventions=interventions,
        prompt=request.prompt,
        strengths=request.strengths,
        controls=_controls(model, interventions, request.seed) if request.controls else None,
    )
    return ResolvedSteer(job, features)


def read_job(store: Store, request: ReadRequest) -> ResolvedRead:
    model = IndexedModel(store, request.model)
    follow = None
    if request.feature is not None:
        follow = model.locate(_no_row(model.feature(request.feature)), maximum=True)
    places = model.reading_places(request.sources, follow)
    weights = model.weights(place.source for place in places)
    job = ReadJob(
        **_shared(request, weights),
        texts=[request.text] if request.contrast is None else [request.text, request.contrast],
        sources=[dictionary_path(place) for place in places],
        follow=follow,
    )
    return ResolvedRead(job, places)


def _shared(request: SteerRequest | SweepRequest | ReadRequest, weights: ModelWeights) -> dict[str, Any]:
    """The fields that every job takes over from its request."""
    return {
        "model": request.model,
        "model_path": weights.path,
        "model_identity": weights.identity,
        "chat": request.chat,
        "k": request.k,
    }


def _sampling(request: Sampling) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Sampling.model_fields}


def _interventions(
    model: IndexedModel, features: Sequence[SteerFeature]
) -> tuple[list[Intervention], list[ResolvedFeature]]:
    resolved = [model.resolve(one, _purpose(one)) for one in features]
    interventions = [_intervention(model, one, to) for one, to in zip(features, resolved, strict=True)]
    return interventions, resolved


def _purpose(one: SteerFeature) -> Purpose:
    """The feature that a swap takes the activation from must fire."""
    if one.mode in ROW_MODES:
        return "add"
    return "fire" if one.mode == "swap" else "change"


def _intervention(model: IndexedModel, one: SteerFeature, resolved: ResolvedFeature) -> Intervention:
    ref = resolved.feature
    if ref.row and one.mode not in ROW_MODES:
        raise HTTPException(
            422,
            f"{ref.id} is the direction of a token, which has no activation: it can be added (mode add or "
            f"orthogonal), not {one.mode}",
        )
    unit = one.unit or UNITS[one.mode][0]
    maximum = one.mode == "clamp" and unit == "max"
    located = model.locate(ref, maximum=maximum, token=resolved.token)
    target = None if one.to is None else model.resolve(one.to, "change")
    to = None if target is None else model.locate(_no_row(target.feature), token=target.token)
    if to is not None and to.feature.layer != ref.layer:
        raise HTTPException(
            422,
            f"{ref.id} can only be swapped for a feature of its own layer, {ref.layer}; "
            f"{to.feature.id} is at layer {to.feature.layer}",
        )
    when = None if one.when is None else model.locate(_no_row(model.resolve(one.when, "fire").feature))
    if when is not None and when.feature.layer > ref.layer:
        raise HTTPException(
            422,
            f"{ref.id} cannot depend on {when.feature.id}, which is at a later layer, {when.feature.layer}",
        )
    strength = DEFAULT_STRENGTH[one.mode] if one.strength is None else one.strength
    return Intervention(
        **{name: getattr(located, name) for name in LocatedFeature.model_fields},
        mode=one.mode,
        strength=0.0 if one.mode == "ablate" else strength,
        unit=unit,
        to=to,
        where=one.where,
        positions=one.positions,
        when=when,
    )


def _no_row(ref: FeatureRef) -> FeatureRef:
    if ref.row:
        raise HTTPException(
            422, f"{ref.id} is the direction of a token, which has no activation: give a feature here"
        )
    return ref


def _controls(model: IndexedModel, interventions: Sequence[Intervention], seed: int) -> ControlSources:
    refs = [one.written.feature for one in interventions]
    drawn = [_similar(model, ref, random.Random(f"{seed} {ref.id}")) for ref in refs]
    plain = [place for ref in refs if (place := _plain_dictionary(model, ref)) is not None]
    return ControlSources(
        random=[list(each) for each in zip(*drawn, strict=False)],
        plain=[dictionary_path(place) for place in plain] if len(plain) == len(refs) else [],
    )


def _similar(model: IndexedModel, ref: FeatureRef, draw: random.Random) -> list[FeatureRef]:
    """Random live features of the same dictionary and of similar density, or directions of like tokens for
    that of a token; none if there are too few.
    """
    for factor in DENSITY_FACTORS:
        if ref.row:
            rows = model.store.similar_rows(ref, factor=factor, limit=200)
            if len(rows) >= RANDOM_CONTROLS:
                return draw.sample(rows, RANDOM_CONTROLS)
            continue
        filters = {
            "live": True,
            "min_density": ref.density / factor,
            "max_density": min(ref.density * factor, 1),
            "limit": 200,
        }
        page = model.store.dictionary_page(ref.model, ref.source, Filters.model_validate(filters))
        others = [other for other in page.features if other.id != ref.id]
        if len(others) >= RANDOM_CONTROLS:
            return draw.sample(others, RANDOM_CONTROLS)
    return []


def _plain_dictionary(model: IndexedModel, ref: FeatureRef) -> IndexedDictionary | None:
    """The plain dictionary at the feature's layer; None if there is none, or if the feature is in a plain
    one.
    """
    if model.places[ref.source].recipe == "plain":
        return None
    plain = [
        place
        for place in model.places.values()
        if place.layer == ref.layer and place.recipe == "plain" and place.checkpoint_path
    ]
    return min(plain, key=lambda place: (len(place.source), place.source), default=None)


def _dictionary_for_changes(model: IndexedModel, interventions: Sequence[Intervention]) -> DictionaryPath:
    """The dictionary that measures changes of other features: in the set of the deepest steered feature, the
    next layer that is indexed, or the feature's own layer if that is the last.
    """
    deepest = max((one.feature for one in interventions), key=lambda ref: ref.layer)
    later = [
        place
        for place in model.places.values()
        if place.layer > deepest.layer
        and set_of(place.source) == set_of(deepest.source)
        and place.checkpoint_path
    ]
    own = model.places[deepest.source]
    return dictionary_path(min(later, key=lambda place: place.layer, default=own))
