"""Controls of a steer: the same change along directions that are not the feature's."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.records.live import ControlKind
from server.live.interventions import LoadDictionary, load_direction
from server.live.messages import ControlSources, DictionaryPath, Intervention


class ControlDirections(NamedTuple):
    """One control: a direction for each intervention."""

    kind: ControlKind
    directions: list[Tensor]
    feature_ids: list[str]
    """the features that have these directions; empty for the embedding"""


class ControlSet(NamedTuple):
    """The controls of one steer."""

    controls: list[ControlDirections]
    missing: list[str]
    """the controls that could not be made, with the reason"""


def make_controls(
    model: LanguageModel,
    load: LoadDictionary,
    interventions: Sequence[Intervention],
    sources: ControlSources,
) -> ControlSet:
    """The raw embedding of each watched token (centred), random features of similar density, and the nearest
    plain features.
    """
    written = [one.written for one in interventions]
    embeddings = [*model.embedding_directions(torch.tensor([one.watched.id for one in written]))]
    controls, missing = [ControlDirections("embedding", embeddings, [])], []
    for refs in sources.random:
        directions = [
            load_direction(one.model_copy(update={"feature": ref}), load, model)
            for one, ref in zip(written, refs, strict=True)
        ]
        controls.append(ControlDirections("random", directions, [ref.id for ref in refs]))
    if not sources.random:
        missing.append("random: the index has nothing else of similar density")
    if sources.plain:
        nearest = [
            _nearest(load, plain, load_direction(one, load, model))
            for plain, one in zip(sources.plain, written, strict=True)
        ]
        ids = [
            f"{one.feature.model}/{plain.source}/{index}"
            for plain, one, (index, _) in zip(sources.plain, written, nearest, strict=True)
        ]
        controls.append(ControlDirections("plain", [direction for _, direction in nearest], ids))
    else:
        missing.append("plain: the index has no other plain dictionary at every steered layer")
    return ControlSet(controls, missing)


def _nearest(load: LoadDictionary, plain: DictionaryPath, direction: Tensor) -> tuple[int, Tensor]:
    """The index and direction of the plain dictionary's feature with the highest cosine to a direction."""
    rows = load(plain.checkpoint_path).dictionary.W_dec
    cosines = (rows @ direction) / rows.norm(dim=-1).clamp_min(1e-12)
    best = int(cosines.argmax())
    return best, rows[best]
