"""Checks, before a text is read, that one model id stands for one language model: its weights and its
vocabulary.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from lexiscope.checkpoint import Checkpoint
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel
from lexiscope.settings import Settings
from store import IndexedDictionary, NoIndex, Store, WrongVersion

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
                "weights or vocabularies differ. Index them in two calls, one of them with an id of its own "
                "(--model-id)."
            )
        joined[model.id] = (first, chain(others, checkpoints))
    return list(joined.values())


def refuse_other_model(model: LanguageModel, sources: Iterable[str], settings: Settings) -> list[str]:
    """Raises ModelError where the index would keep dictionaries of another model under `model`'s id beside
    `sources`. Returns what `sources` replace, a line each.
    """
    held = {entry.source: entry for entry in _indexed(settings) if entry.model == model.id}
    replaced = [held.pop(source) for source in sources if source in held]
    others = [entry for entry in held.values() if entry.model_identity not in ("", model.identity)]
    if others:
        raise ModelError(
            f"The index holds another model under the id '{model.id}', read from {others[0].model_path}, "
            f"with {', '.join(entry.source for entry in others)}: the weights or the vocabulary of "
            f"{model.path} differ. {OWN_ID}"
        )
    return [_replacement(model, entry) for entry in replaced]


def trained_on_other(model: LanguageModel, checkpoint: Checkpoint) -> str:
    """A warning where the checkpoint records that it was trained on other weights; empty otherwise."""
    weights = (checkpoint.details.get("plan") or {}).get("weights")
    if weights in (None, model.fingerprint) or checkpoint.details.get("model_id", model.id) != model.id:
        return ""
    return f"{checkpoint.path} was trained on other weights of {model.id} than those of {model.path}"


def _replacement(model: LanguageModel, entry: IndexedDictionary) -> str:
    other = (
        "" if entry.model_identity == model.identity else f", read with another model ({entry.model_path})"
    )
    source = entry.checkpoint_path or "an import"
    return f"{entry.model}/{entry.source} replaces the one in the index, from {source}{other}"


def _indexed(settings: Settings) -> list[IndexedDictionary]:
    store = Store(settings)
    try:
        return store.dictionaries()
    except (NoIndex, WrongVersion):
        return []
    finally:
        store.close()
