"""Requests about the live model, with every name looked up in the index: what a person writes becomes a job
of the worker.

Raises NotFound, saying what there is, for what the index does not hold, and HTTPException 422 for what does
not fit together.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from lexiscope.records import FeatureRef, Filters
from server.live import Intervention, Located, Source, SteerJob, SweepJob
from server.live.messages import Controls
from server.live.records import (
    STRENGTH,
    UNITS,
    FeatureChoice,
    Meant,
    Sampling,
    SteerFeature,
    SteerRequest,
    SweepRequest,
)
from store import NotFound, Place, Store

RANDOM_CONTROLS = 3
LIKE_DENSITY = (1.25, 2.0, 10.0)
"""factors within which a random control's density is looked for, the nearest first"""


class Found(NamedTuple):
    """A job, and which feature each intervention meant."""

    job: SteerJob | SweepJob
    meant: list[Meant]


class Index:
    """One model's part of the index."""

    def __init__(self, store: Store, model: str) -> None:
        self.store = store
        self.model = model
        self.places = {place.source: place for place in store.places() if place.model == model}
        if not self.places:
            known = sorted({place.model for place in store.places()})
            raise NotFound(
                f"there is no model {model[:200]!r} in the index: it has {', '.join(known) or 'none'}"
            )

    @property
    def model_path(self) -> str:
        return next(iter(self.places.values())).model_path

    def by_id(self, feature_id: str) -> FeatureRef:
        [ref] = self.store.feature_refs([feature_id])
        if ref.model != self.model:
            raise HTTPException(422, f"{ref.id} is a feature of {ref.model}, and the model is {self.model}")
        return ref

    def chosen(self, sources: Sequence[str], follow: Located | None) -> list[Place]:
        """The dictionaries to read with, in layer order. None asked for: one set, of the feature followed or
        the one with most layers.
        """
        unknown = [name for name in sources if name not in self.places]
        if unknown:
            raise NotFound(
                f"{self.model} has no dictionary {unknown[0]!r}: it has {', '.join(sorted(self.places))}"
            )
        if sources:
            return sorted(
                (self.with_weights(name) for name in dict.fromkeys(sources)),
                key=lambda place: (place.layer, place.source),
            )
        sets: dict[str, list[Place]] = {}
        for place in self.places.values():
            if place.checkpoint_path:
                sets.setdefault(set_of(place.source), []).append(place)
        if not sets:
            raise NotFound(
                f"no dictionary of {self.model} in the index has its weights: there is nothing to read with"
            )
        best = max(sets, key=lambda name: (len(sets[name]), "plain" not in name, -len(name)))
        return sorted(
            sets[set_of(follow.feature.source) if follow else best],
            key=lambda place: (place.layer, place.source),
        )

    def meant(self, asked: FeatureChoice) -> Meant:
        """The feature, and those that carry the same name where it was asked by name."""
        if asked.id is not None:
            return Meant(feature=self.by_id(asked.id))
        assert asked.token is not None
        named = self.store.resolve_token(self.model, asked.token, layer=asked.layer)
        if named.features:
            return Meant(feature=named.features[0], others=named.features[1:])
        elsewhere = sorted(
            {ref.layer for ref in self.store.resolve_token(self.model, named.token.id).features}
        )
        there_is = (
            f"it names features at layers {', '.join(map(str, elsewhere))}"
            if elsewhere
            else "it names none at any other layer"
        )
        where = "" if asked.layer is None else f" at layer {asked.layer}"
        raise NotFound(f"no feature of {self.model} is named {named.token.shown}{where}: {there_is}")

    def located(self, ref: FeatureRef, *, maximum: bool = False) -> Located:
        place = self.with_weights(ref.source)
        highest = (
            self.store.feature(ref.model, ref.source, ref.index).feature.max_activation if maximum else None
        )
        return Located(
            feature=ref,
            checkpoint_path=place.checkpoint_path,
            mean_norm=place.mean_norm,
            max_activation=highest,
        )

    def with_weights(self, source: str) -> Place:
        """Raises HTTPException: dashboards that were imported bring no weights."""
        place = self.places[source]
        if not place.checkpoint_path:
            raise HTTPException(
                422,
                f"{self.model}/{source} was imported without its weights: it can be browsed, not steered or read with",
            )
        return place

    def source(self, place: Place) -> Source:
        return Source(
            source=place.source,
            layer=place.layer,
            checkpoint_path=place.checkpoint_path,
            mean_norm=place.mean_norm,
        )


def set_of(source: str) -> str:
    """The set in a source's name, `<layer>-<set>`."""
    return source.partition("-")[2]


def steer_job(store: Store, asked: SteerRequest) -> Found:
    index = Index(store, asked.model)
    interventions, meant = _interventions(index, asked.features)
    controls = _controls(index, interventions, asked.seed) if asked.controls else None
    job = SteerJob(
        **_sampling(asked),
        model=asked.model,
        model_path=index.model_path,
        interventions=interventions,
        prompt=asked.prompt,
        top_logprobs=asked.top_logprobs,
        controls=controls,
        moved=_moved(index, interventions),
    )
    return Found(job, meant)


def sweep_job(store: Store, asked: SweepRequest) -> Found:
    index = Index(store, asked.model)
    interventions, meant = _interventions(index, asked.features)
    job = SweepJob(
        **_sampling(asked),
        model=asked.model,
        model_path=index.model_path,
        interventions=interventions,
        prompt=asked.prompt,
        strengths=asked.strengths,
    )
    return Found(job, meant)


def _sampling(asked: Sampling) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Sampling.model_fields}


def _interventions(index: Index, features: Sequence[SteerFeature]) -> tuple[list[Intervention], list[Meant]]:
    interventions, meant = [], []
    for one in features:
        found = index.meant(one)
        unit = one.unit or UNITS[one.mode][0]
        place = index.located(found.feature, maximum=one.mode == "clamp" and unit == "max")
        to = None if one.to is None else index.located(index.meant(one.to).feature)
        if to is not None and to.feature.layer != found.feature.layer:
            raise HTTPException(
                422,
                f"{found.feature.id} is swapped for a feature of its own layer, {found.feature.layer}; {to.feature.id} is not",
            )
        when = None if one.when is None else index.located(index.meant(one.when).feature)
        if when is not None and when.feature.layer > found.feature.layer:
            raise HTTPException(
                422, f"{found.feature.id} cannot wait for {when.feature.id}, whose layer comes later"
            )
        strength = STRENGTH[one.mode] if one.strength is None else one.strength
        interventions.append(
            Intervention(
                **{name: getattr(place, name) for name in Located.model_fields},
                mode=one.mode,
                strength=0.0 if one.mode == "ablate" else strength,
                unit=unit,
                to=to,
                where=one.where,
                positions=one.positions,
                when=when,
            )
        )
        meant.append(found)
    return interventions, meant


def _controls(index: Index, interventions: Sequence[Intervention], seed: int) -> Controls:
    pushed = [asked.pushed.feature for asked in interventions]
    drawn = [_like(index, ref, random.Random(f"{seed} {ref.id}")) for ref in pushed]
    randoms = [list(refs) for refs in zip(*drawn, strict=False)]
    plain = [_plain(index, ref) for ref in pushed]
    return Controls(
        random=randoms, plain=[index.source(place) for place in plain if place] if all(plain) else []
    )


def _like(index: Index, ref: FeatureRef, draw: random.Random) -> list[FeatureRef]:
    """Live features of the same dictionary that fire about as often, drawn at random; fewer where there are
    fewer.
    """
    for factor in LIKE_DENSITY:
        filters = {
            "live": True,
            "min_density": ref.density / factor,
            "max_density": min(ref.density * factor, 1),
            "limit": 200,
        }
        listed = index.store.dictionary_page(ref.model, ref.source, Filters.model_validate(filters)).features
        others = [other for other in listed if other.id != ref.id]
        if len(others) >= RANDOM_CONTROLS:
            return draw.sample(others, RANDOM_CONTROLS)
    return []


def _plain(index: Index, ref: FeatureRef) -> Place | None:
    """The dictionary without anchors at the feature's layer; none for a feature of a plain dictionary itself."""
    if index.places[ref.source].recipe == "plain":
        return None
    plain = [
        place
        for place in index.places.values()
        if place.layer == ref.layer and place.recipe == "plain" and place.checkpoint_path
    ]
    return min(plain, key=lambda place: (len(place.source), place.source), default=None)


def _moved(index: Index, interventions: Sequence[Intervention]) -> Source:
    """What else changed is read at the next indexed layer of the deepest steered feature's set, or, after the
    last, at its own.
    """
    deepest = max((asked.feature for asked in interventions), key=lambda ref: ref.layer)
    own = set_of(deepest.source)
    later = [
        place
        for place in index.places.values()
        if place.layer > deepest.layer and set_of(place.source) == own and place.checkpoint_path
    ]
    return index.source(min(later, key=lambda place: place.layer, default=index.places[deepest.source]))
