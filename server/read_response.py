"""A reading's response: the worker's events with the index's names, and the summaries that the page shows."""

from collections.abc import Mapping, Sequence
from math import copysign
from typing import NamedTuple

from starlette.exceptions import HTTPException

from lexiscope.records import FeatureRef
from lexiscope.records.live import (
    ContrastFeature,
    FollowedFeature,
    MeanActivation,
    ReadLayer,
    ReadResponse,
    ReadText,
    ReadToken,
    TokenFiring,
)
from lexiscope.records.requests import ReadRequest
from server.attach_names import refs_by_id
from server.live import ReadJob
from server.live.messages import Event, RawReadDone, RawReadLayer, RawReadTokens
from store import IndexedDictionary, Store


class MeanCode:
    """The code of one text, averaged over its tokens: {feature index: value} for each figure."""

    def __init__(self, raw: RawReadLayer) -> None:
        sums: dict[int, float] = {}
        counts: dict[int, int] = {}
        self.maximum: dict[int, float] = {}
        for indices, values in zip(raw.indices, raw.values, strict=True):
            for index, value in zip(indices, values, strict=True):
                sums[index] = sums.get(index, 0.0) + value
                counts[index] = counts.get(index, 0) + 1
                self.maximum[index] = max(self.maximum.get(index, 0.0), abs(value))
        n_tokens = len(raw.indices)
        self.mean = {index: total / n_tokens for index, total in sums.items()}
        self.share = {index: count / n_tokens for index, count in counts.items()}

    def top(self, n: int) -> list[int]:
        """The n features with the highest mean, of either sign."""
        return sorted(self.mean, key=lambda index: -abs(self.mean[index]))[:n]


class NamedDictionary(NamedTuple):
    """One dictionary and the references of its features."""

    place: IndexedDictionary
    refs: Mapping[str, FeatureRef]

    def ref(self, index: int) -> FeatureRef:
        return self.refs[f"{self.place.model}/{self.place.source}/{index}"]


def read_response(
    store: Store,
    request: ReadRequest,
    job: ReadJob,
    places: Sequence[IndexedDictionary],
    events: Sequence[Event],
) -> ReadResponse:
    """From the events of `job`, which read with the dictionaries at `places`. Raises NotFound."""
    readings = {(event.text, event.source): event for event in events if isinstance(event, RawReadLayer)}
    [read] = [event for event in events if isinstance(event, RawReadTokens)]
    [last] = [event for event in events if isinstance(event, RawReadDone)]
    codes = {key: MeanCode(raw) for key, raw in readings.items()}
    refs = refs_by_id(
        store, [f"{job.model}/{source}/{index}" for (_, source), code in codes.items() for index in code.mean]
    )
    dictionaries = [NamedDictionary(place, refs) for place in places]
    check_positions(request.positions or [], max(map(len, read.texts)))
    texts = []
    for number, shown in enumerate(read.texts):
        layers, top = [], {}
        for dictionary in dictionaries:
            source = dictionary.place.source
            raw, code = readings[number, source], codes[number, source]
            layers.append(read_layer(raw, dictionary, code, request))
            top[source] = top_features(code, dictionary, request.top)
        texts.append(ReadText(tokens=list(shown), layers=layers, top=top))
    contrast = {}
    if len(read.texts) > 1:
        for dictionary in dictionaries:
            source = dictionary.place.source
            both = codes[0, source], codes[1, source]
            contrast[source] = contrast_features(*both, dictionary, request.top)
    return ReadResponse(
        model=job.model,
        subtract_mean=request.subtract_mean,
        texts=texts,
        contrast=contrast,
        followed=_followed(job, last),
        notes=read.notes,
    )


def check_positions(positions: Sequence[int], n_tokens: int) -> None:
    """Raises HTTPException 422 for a position after the text's end."""
    if positions and max(positions) >= n_tokens:
        raise HTTPException(
            422, f"there is no token {max(positions)}: the text has tokens 0 to {n_tokens - 1}"
        )


def read_layer(
    raw: RawReadLayer, dictionary: NamedDictionary, code: MeanCode, request: ReadRequest
) -> ReadLayer:
    """One dictionary's reading of one text, with the table's cell for each token."""
    order = {index: number for number, index in enumerate(code.mean)}
    places: dict[int, int] = {}

    def firing(index: int, value: float) -> TokenFiring:
        return TokenFiring(feature=places.setdefault(index, len(places)), value=value)

    def best(active: Sequence[int], values: Sequence[float]) -> TokenFiring | None:
        """The feature with the highest value, in the direction of its sign, among those named well enough;
        ties go to the first.
        """
        cells = [
            (
                copysign(1, value) * (value - (code.mean[index] if request.subtract_mean else 0.0)),
                -order[index],
                index,
                copysign(1, value),
            )
            for index, value in zip(active, values, strict=True)
            if dictionary.ref(index).cosine >= request.min_cosine
        ]
        value, _, index, sign = max(cells, default=(0.0, 0, 0, 1))
        return firing(index, sign * value) if value > 0 else None

    tokens = []
    listed = None if request.positions is None else frozenset(request.positions)
    for position, (active, values, error, dense) in enumerate(
        zip(raw.indices, raw.values, raw.error, raw.dense, strict=True)
    ):
        wanted = listed is None or position in listed
        fired = [firing(*one) for one in zip(active, values, strict=True)] if wanted else []
        tokens.append(ReadToken(error=error, dense=dense, fired=fired, best=best(active, values)))
    return ReadLayer(
        source=dictionary.place.source,
        layer=dictionary.place.layer,
        recipe=dictionary.place.recipe,
        features=[dictionary.ref(index) for index in places],
        tokens=tokens,
        error=sum(raw.error) / len(raw.error),
    )


def top_features(code: MeanCode, dictionary: NamedDictionary, n: int) -> list[MeanActivation]:
    """The n features with the highest mean activation in the text."""
    return [
        MeanActivation(
            **dictionary.ref(index).model_dump(), value=code.mean[index], token_share=code.share[index]
        )
        for index in code.top(n)
    ]


def contrast_features(
    first: MeanCode, second: MeanCode, dictionary: NamedDictionary, n: int
) -> list[ContrastFeature]:
    """The n features that are higher in the first text and the n that are higher in the second, by
    difference.
    """

    def difference(index: int) -> float:
        top = max(first.maximum.get(index, 0.0), second.maximum.get(index, 0.0))
        return (first.mean.get(index, 0.0) - second.mean.get(index, 0.0)) / top

    order = sorted({*first.mean, *second.mean}, key=difference, reverse=True)
    higher = [index for index in order[:n] if difference(index) > 0]
    lower = [index for index in order[-n:] if difference(index) < 0]
    return [
        ContrastFeature(
            **dictionary.ref(index).model_dump(),
            difference=difference(index),
            first=first.mean.get(index, 0.0),
            second=second.mean.get(index, 0.0),
            share_first=first.share.get(index, 0.0),
            share_second=second.share.get(index, 0.0),
        )
        for index in [*higher, *lower]
    ]


def _followed(job: ReadJob, last: RawReadDone) -> FollowedFeature | None:
    if job.follow is None or last.followed is None:
        return None
    maximum = job.follow.max_activation or 0.0
    return FollowedFeature(feature=job.follow.feature, values=last.followed, max_activation=maximum)
