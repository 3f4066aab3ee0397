"""Adds names to the features that the worker found: it refers to them by dictionary and index only."""

from collections.abc import Iterable

from lexiscope.records import FeatureRef
from lexiscope.records.live import ActivationChange, Control, SteerMeasured
from server.live.messages import RawSteerMeasured
from store import Store

LOOKUP_SIZE = 64
"""features that the store looks up in one query"""


def refs_by_id(store: Store, ids: Iterable[str]) -> dict[str, FeatureRef]:
    """{id: reference}. Raises NotFound."""
    distinct = list(dict.fromkeys(ids))
    return {
        ref.id: ref
        for start in range(0, len(distinct), LOOKUP_SIZE)
        for ref in store.feature_refs(distinct[start : start + LOOKUP_SIZE])
    }


def named_measured(store: Store, raw: RawSteerMeasured) -> SteerMeasured:
    """The measured effects with the names of controls and of features that changed."""
    in_controls = [feature_id for control in raw.controls for feature_id in control.feature_ids]
    refs = refs_by_id(store, [*in_controls, *(change.id for change in (*raw.rose, *raw.fell))])
    controls = [
        Control(
            kind=control.kind,
            features=[refs[feature_id] for feature_id in control.feature_ids],
            kl=control.kl,
            named=control.named,
        )
        for control in raw.controls
    ]
    rose, fell = (
        [
            ActivationChange(**refs[change.id].model_dump(), default=change.default, steered=change.steered)
            for change in changes
        ]
        for changes in (raw.rose, raw.fell)
    )
    figures = raw.model_dump(exclude={"controls", "rose", "fell"})
    return SteerMeasured(**figures, controls=controls, rose=rose, fell=fell)
