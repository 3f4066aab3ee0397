"""One model id stands for one language model: its weights and its vocabulary. Checked before a text is
read.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from lexiscope.checkpoint import Checkpoint
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel
from lexiscope.settings import Settings
from store import NoIndex, Place, Store, WrongVersion

OWN_ID = "Give this model an id of its own with --model-id."
Groups = Sequence[tuple[LanguageModel, Iterable[Checkpoint]]]


def by_model(groups: Groups) -> Groups:
    """One group a model: those that were loaded from different places but are the same model are joined.
    Raises ModelError where two models have one id.
    """
    joined: dict[str, tuple[LanguageModel, Iterable[Checkpoint]]] = {}
    for model, checkpoints in groups:
        first, others = joined.get(model.id, (model, ()))
        if first.identity != model.identity:
            raise ModelError(
                f"{first.path} and {model.path} are different models under the id '{model.id}': their "
                f"weights or vocabularies differ. Index them in two calls. {OWN_ID}"
            )
        joined[model.id] = (first, chain(others, checkpoints))
    return list(joined.values())


def refuse_other_model(model: LanguageModel, sources: Iterable[str], settings: Settings) -> list[str]:
    """Raises ModelError where the index would keep dictionaries of another model under `model`'s id beside
    `sources`. Returns what `sources` replace, a line each.
    """
    held = {place.source: place for place in _held(settings) if place.model == model.id}
    replaced = [held.pop(source) for source in sources if source in held]
    others = [place for place in held.values() if place.model_identity not in ("", model.identity)]
    if others:
        raise ModelError(
            f"The index holds another model under the id '{model.id}', read from {others[0].model_path}, "
            f"with {', '.join(place.source for place in others)}: the weights or the vocabulary of "
            f"{model.path} differ. {OWN_ID}"
        )
    return [_replacement(model, place) for place in replaced]


def trained_on_other(model: LanguageModel, checkpoint: Checkpoint) -> str:
    """In words, where a dictionary records that it was trained on other weights; empty otherwise."""
    weights = (checkpoint.details.get("plan") or {}).get("weights")
    if weights in (None, model.fingerprint) or checkpoint.details.get("model_id", model.id) != model.id:
        return ""
    return f"{checkpoint.path} was trained on other weights of {model.id} than those of {model.path}"


def _replacement(model: LanguageModel, place: Place) -> str:
    other = (
        "" if place.model_identity == model.identity else f", read with another model ({place.model_path})"
    )
    source = place.checkpoint_path or "an import"
    return f"{place.model}/{place.source} replaces the one in the index, from {source}{other}"


def _held(settings: Settings) -> list[Place]:
    store = Store(settings)
    try:
        return store.places()
    except (NoIndex, WrongVersion):
        return []
    finally:
        store.close()
