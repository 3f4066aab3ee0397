"""Which feature a token means: the one whose intervention raises it most, or the one that fires on it."""

from collections.abc import Sequence
from typing import Literal

from lexiscope.records import FeatureRef, RaisedBy, WriteVerdict
from lexiscope.records.live import ResolvedFeature
from store import IndexedDictionary, NotFound, ResolvedName, Store

Purpose = Literal["add", "change", "fire"]
"""What the feature is for: its direction is added (a row of a look-up can be); its activation is changed, or
is what a swap writes; it must fire on the token.
"""
TESTED: dict[WriteVerdict, str] = {
    "both": "steering and ablation confirmed the list",
    "steering": "steering confirmed the list",
    "ablation": "ablation confirmed the list, steering did not",
    "none": "neither steering nor ablation confirmed the list",
    "untested": "the index did not test it",
    "dead": "the feature is dead",
}


def feature_for(
    store: Store, model: str, wanted: str | int, *, layer: int | None, purpose: Purpose
) -> ResolvedFeature:
    """Raises NotFound where no feature has anything to do with the token, with where there are some."""
    resolved = store.resolve_token(model, wanted, layer=layer)
    found = firing(resolved) if purpose == "fire" else writing(store, resolved, rows=purpose == "add")
    if found is None:
        raise NotFound(_nowhere(store, model, resolved, layer))
    return found


def writing(store: Store, resolved: ResolvedName, *, rows: bool) -> ResolvedFeature | None:
    """The direction that raised the token most of those steered, if above its controls; else the strongest by
    write list; else the token's row of a look-up, which seldom writes its token; else by nearest anchor.
    """
    measured, listed = resolved.written
    usable = [one for one in measured if one.kind == "feature" or (rows and one.kind == "row")]
    steered = [one for one in usable if one.above]
    own_rows = resolved.rows if rows else []
    others = _once([one.feature for one in usable], listed, own_rows, resolved.features)
    if steered:
        best = steered[0]
        return _resolved(resolved, best.feature, others, "intervention", _measured(best), best)
    if listed:
        sure = _untested(listed[0], store.dictionaries())
        return _resolved(resolved, listed[0], others, "write list", sure)
    if own_rows:
        sure = "A row of a token look-up, which was not steered for this token: not tested."
        return _resolved(resolved, own_rows[0], others, "nearest anchor", sure)
    if usable:
        best = usable[0]
        return _resolved(resolved, best.feature, others, "intervention", _measured(best), best)
    live = [ref for ref in resolved.features if ref.verdict != "dead"] or resolved.features
    if not live:
        return None
    sure = "No write list holds the token: it is only the anchor nearest to this feature's direction."
    return _resolved(resolved, live[0], others, "nearest anchor", sure)


def judged(store: Store, ref: FeatureRef) -> ResolvedFeature:
    """A feature given by its id, and the token that its effect is judged on: what steering it raised most
    above its controls; else the first of its write list; else its nearest anchor.
    """
    if ref.row:
        return ResolvedFeature(feature=ref, token=ref.name, sure="It is this token's own direction.")
    if raised := store.raised_by(ref):
        sure = _measured(raised.measured)
        return ResolvedFeature(feature=ref, token=raised.token, sure=sure, measured=raised.measured)
    if ref.writes:
        sure = f"The first token of its write list; {TESTED[ref.write_verdict]}."
        return ResolvedFeature(feature=ref, token=ref.writes[0], sure=sure)
    sure = "The anchor nearest to its direction: the index has no write list of it."
    return ResolvedFeature(feature=ref, token=ref.name, sure=sure)


def firing(resolved: ResolvedName) -> ResolvedFeature | None:
    """A feature that fires on the word; else one in another relation to it; else by nearest anchor."""
    if resolved.firing:
        best, *_ = resolved.firing
        words = ", ".join(word.shown for word in best.words)
        share = 100 * (best.share or 0)
        sure = f"Fires {best.relation} {words} in {share:.0f} % of its firings ({best.verdict})."
        return _resolved(resolved, best, resolved.firing, "what it fires on", sure)
    if resolved.features:
        sure = "No feature is named by this word: it is only the anchor nearest to this feature's direction."
        return _resolved(resolved, resolved.features[0], resolved.features, "nearest anchor", sure)
    return None


def _resolved(
    resolved: ResolvedName,
    feature: FeatureRef,
    others: Sequence[FeatureRef],
    by: Literal["intervention", "write list", "what it fires on", "nearest anchor"],
    sure: str,
    measured: RaisedBy | None = None,
) -> ResolvedFeature:
    least = 0.0 if measured is None else measured.rise
    above = [one for one in resolved.written.measured if one.above and one.rise > least]
    return ResolvedFeature(
        feature=feature,
        by=by,
        token=resolved.token,
        sure=sure,
        measured=measured,
        stronger=[] if by == "what it fires on" else above,
        others=[other for other in others if other.id != feature.id],
    )


def _once(*lists: Sequence[FeatureRef]) -> list[FeatureRef]:
    return list({ref.id: ref for refs in lists for ref in refs}.values())


def _measured(one: RaisedBy) -> str:
    beside = "above" if one.above else "not above"
    return (
        f"Added to neutral text at a KL divergence of 0.5 nats, it raises the token's probability by "
        f"{_percent(one.rise)}, {beside} every control ({_percent(one.control)})."
    )


def _percent(rise: float) -> str:
    return f"{100 * rise:.2g} %"


def _untested(ref: FeatureRef, places: Sequence[IndexedDictionary]) -> str:
    share = next(
        (place.write_steering for place in places if (place.model, place.source) == (ref.model, ref.source)),
        None,
    )
    known = (
        "no feature of its dictionary was"
        if share is None
        else f"of the features of its dictionary that were, {100 * share:.0f} % raise the first token of "
        "their write list above every control"
    )
    return f"By its write list; this feature was not steered for the token: {known}."


def _nowhere(store: Store, model: str, resolved: ResolvedName, layer: int | None) -> str:
    everywhere = store.resolve_token(model, resolved.token.id)
    refs = [*everywhere.features, *everywhere.firing, *everywhere.written.listed]
    layers = ", ".join(map(str, sorted({ref.layer for ref in refs})))
    known = f"features of this name are at layers {layers}" if layers else "no other layer has one either"
    where = "" if layer is None else f" at layer {layer}"
    return f"no feature of {model} is named {resolved.token.shown}{where}; {known}"
