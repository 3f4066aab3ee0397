"""What features are called in a study's tables."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lexiscope.checkpoint import Checkpoint
from lexiscope.evidence import lift_names
from lexiscope.language_model import LanguageModel
from lexiscope.records import FeatureCell, FeatureRef
from lexiscope.settings import Settings
from lexiscope.sparse_code import SparseCode
from store import NotFound, Store, StoreError

LOOKED_UP = 64
"""features that the store looks up in one query"""


def names_on(code: SparseCode, tokens: Tensor, *, d_sae: int, vocab_size: int) -> Tensor:
    """[d_sae] the token of highest lift of each feature on the study's own text, −1 where it is silent."""
    fired = code.values != 0
    on = tokens[:, None].expand_as(code.indices)[fired]
    counts = torch.bincount(tokens, minlength=vocab_size)
    return lift_names(code.indices[fired], on, counts, d_sae)


class FeatureNames:
    """The names of one dictionary's features: from the index where it holds these very weights (with a link
    to the feature), else the token of highest lift on the study's text.
    """

    def __init__(self, model: LanguageModel, checkpoint: Checkpoint, lift: Tensor) -> None:
        """lift [d_sae]: `names_on`."""
        self._lift, self._vocabulary = lift.tolist(), model.vocabulary
        self._store: Store | None = Store(Settings())
        self._prefix = f"{model.id}/{checkpoint.layer}-{checkpoint.set_name}"
        try:
            held = {f"{each.model}/{each.source}": each for each in self._store.dictionaries()}
            entry = held.get(self._prefix)
            if entry is None or entry.dictionary_identity != checkpoint.dictionary.identity:
                self._store = None
        except StoreError:
            self._store = None

    def __call__(self, features: Sequence[int]) -> list[FeatureCell]:
        """The cells of features, in their order."""
        if self._store is None:
            return [FeatureCell(id="", text=self.lift(feature)) for feature in features]
        cells = []
        for first in range(0, len(features), LOOKED_UP):
            ids = [f"{self._prefix}/{feature}" for feature in features[first : first + LOOKED_UP]]
            try:
                cells += [FeatureCell(id=ref.id, text=_words(ref)) for ref in self._store.feature_refs(ids)]
            except NotFound:  # the index was replaced in the meantime
                some = features[first : first + LOOKED_UP]
                cells += [FeatureCell(id="", text=self.lift(feature)) for feature in some]
        return cells

    def lift(self, feature: int) -> str:
        """The token that a feature fires on most, as it is shown; its number where it is silent."""
        token = self._lift[feature]
        return self._vocabulary.shown[token] if token >= 0 else f"#{feature}"


def _words(ref: FeatureRef) -> str:
    if ref.relation is None or not ref.words:
        return ref.name.shown
    return f"{ref.relation} {ref.words[0].shown}"
