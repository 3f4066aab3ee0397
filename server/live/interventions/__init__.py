"""Interventions on the residual stream: a request becomes a plan, and a plan becomes the
patches of a forward pass.
"""

from server.live.interventions.features import (
    ENCODE_POSITIONS,
    DictionaryFeature,
    LoadDictionary,
    LoadedDictionary,
    load_direction,
    load_feature,
)
from server.live.interventions.patches import Cancelled, patches_of
from server.live.interventions.plan import SteerPlan, make_plan

__all__ = [
    "ENCODE_POSITIONS",
    "Cancelled",
    "DictionaryFeature",
    "LoadDictionary",
    "LoadedDictionary",
    "SteerPlan",
    "load_direction",
    "load_feature",
    "make_plan",
    "patches_of",
]
