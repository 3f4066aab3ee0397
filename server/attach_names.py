"""Puts the index's names to what the live model worker found: it knows features by dictionary and index
alone.
"""

from collections.abc import Iterable, Mapping, Sequence

from lexiscope.records import FeatureRef, Token
from server.live.messages import RawMeasured, RawReading
from server.live.records import (
    Contrast,
    Control,
    Fired,
    Moved,
    ReadLayer,
    ReadText,
    ReadToken,
    SteerMeasured,
    Summed,
)
from store import Place, Store

AT_ONCE = 64
"""references that the store looks up in one query"""


def named(store: Store, ids: Iterable[str]) -> dict[str, FeatureRef]:
    """References by id. Raises NotFound."""
    wanted = list(dict.fromkeys(ids))
    return {
        ref.id: ref
        for start in range(0, len(wanted), AT_ONCE)
        for ref in store.feature_refs(wanted[start : start + AT_ONCE])
    }


def measured(store: Store, raw: RawMeasured) -> SteerMeasured:
    refs = named(
        store,
        [*(i for one in raw.controls for i in one.feature_ids), *(one.id for one in (*raw.rose, *raw.fell))],
    )
    known = raw.model_dump(exclude={"controls", "rose", "fell"})
    controls = [
        Control(kind=one.kind, features=[refs[i] for i in one.feature_ids], kl=one.kl, named=one.named)
        for one in raw.controls
    ]
    rose, fell = (
        [Moved(**refs[one.id].model_dump(), default=one.default, steered=one.steered) for one in side]
        for side in (raw.rose, raw.fell)
    )
    return SteerMeasured(**known, controls=controls, rose=rose, fell=fell)


class Means:
    """A text's code summed up for one dictionary: feature index → mean activation, share of tokens it fires
    on, maximum.
    """

    def __init__(self, raw: RawReading) -> None:
        n = len(raw.indices)
        sums: dict[int, float] = {}
        counts: dict[int, int] = {}
        self.maximum: dict[int, float] = {}
        for indices, values in zip(raw.indices, raw.values, strict=True):
            for index, value in zip(indices, values, strict=True):
                sums[index] = sums.get(index, 0.0) + value
                counts[index] = counts.get(index, 0) + 1
                self.maximum[index] = max(self.maximum.get(index, 0.0), value)
        self.mean = {index: total / n for index, total in sums.items()}
        self.share = {index: count / n for index, count in counts.items()}

    def top(self, n: int) -> list[int]:
        return sorted(self.mean, key=lambda index: -self.mean[index])[:n]


def layer(
    raw: RawReading,
    place: Place,
    refs: Mapping[str, FeatureRef],
    *,
    means: Means,
    subtract: bool,
    min_cosine: float,
) -> ReadLayer:
    """One dictionary's reading, with the table's cell of each token: the feature that stands out most, or
    fires most.
    """
    indices = list(means.mean)
    features = [refs[f"{place.model}/{place.source}/{index}"] for index in indices]
    at = {index: number for number, index in enumerate(indices)}

    def best(fired: Sequence[int], values: Sequence[float]) -> Fired | None:
        cells = [
            (value - (means.mean[index] if subtract else 0.0), at[index])
            for index, value in zip(fired, values, strict=True)
            if features[at[index]].cosine >= min_cosine
        ]
        value, number = max(cells, key=lambda cell: (cell[0], -cell[1]), default=(0.0, -1))
        return Fired(feature=number, value=value) if value > 0 else None

    tokens = [
        ReadToken(
            error=error,
            dense=dense,
            fired=[Fired(feature=at[index], value=value) for index, value in zip(fired, values, strict=True)],
            best=best(fired, values),
        )
        for fired, values, error, dense in zip(raw.indices, raw.values, raw.error, raw.dense, strict=True)
    ]
    error = sum(raw.error) / len(raw.error)
    return ReadLayer(
        source=place.source,
        layer=place.layer,
        recipe=place.recipe,
        features=features,
        tokens=tokens,
        error=error,
    )


def summed(means: Means, place: Place, refs: Mapping[str, FeatureRef], n: int) -> list[Summed]:
    ids = [(index, refs[f"{place.model}/{place.source}/{index}"]) for index in means.top(n)]
    return [
        Summed(**ref.model_dump(), value=means.mean[index], share=means.share[index]) for index, ref in ids
    ]


def contrasted(
    first: Means, second: Means, place: Place, refs: Mapping[str, FeatureRef], n: int
) -> list[Contrast]:
    """The n features that stand most for the first text and the n that stand most for the second, from the
    one to the other.
    """

    def difference(index: int) -> float:
        top = max(first.maximum.get(index, 0.0), second.maximum.get(index, 0.0))
        return (first.mean.get(index, 0.0) - second.mean.get(index, 0.0)) / top

    order = sorted({*first.mean, *second.mean}, key=difference, reverse=True)
    ends = [index for index in order[:n] if difference(index) > 0] + [
        index for index in order[-n:] if difference(index) < 0
    ]
    return [
        Contrast(
            **refs[f"{place.model}/{place.source}/{index}"].model_dump(),
            difference=difference(index),
            first=first.mean.get(index, 0.0),
            second=second.mean.get(index, 0.0),
            share_first=first.share.get(index, 0.0),
            share_second=second.share.get(index, 0.0),
        )
        for index in ends
    ]


def read_text(tokens: Sequence[Token], layers: Sequence[ReadLayer], top: dict[str, list[Summed]]) -> ReadText:
    return ReadText(tokens=list(tokens), layers=list(layers), top=top)
