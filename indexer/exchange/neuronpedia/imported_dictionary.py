"""A dictionary as imported files describe it, in the terms of the index: token ids, chosen contexts, rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexer.exchange.neuronpedia.choose_contexts import ChosenContexts, ImportedTexts
from indexer.exchange.neuronpedia.dashboards import DashboardFeature, Dashboards
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import LIVE_RATE

NO_TOKEN = -2
"""No top logit is given or known; −1 is the end of a text."""


@dataclass(frozen=True)
class ImportedDictionary:
    """Rows are the features that get a page, in order of their index: those that fire in a context, or whose
    logits are given.
    """

    model: LanguageModel
    layer: int
    source: str
    d_sae: int
    dashboards: Dashboards
    token_ids: np.ndarray
    """[strings] the token of each of `dashboards.strings`, −1 where it is none"""
    texts: ImportedTexts
    contexts: ChosenContexts

    @cached_property
    def index(self) -> np.ndarray:
        """[rows] the number of each feature, ascending"""
        fires = set(np.unique(self.contexts.feature).tolist())
        features = self.dashboards.features.items()
        numbers = sorted(number for number, feature in features if number in fires or feature.positive)
        return np.array(numbers, np.int64)

    @cached_property
    def features(self) -> list[DashboardFeature]:
        """Of each row."""
        return [self.dashboards.features[int(number)] for number in self.index]

    @property
    def n_without_page(self) -> int:
        """Features that were skipped, or of which the files tell nothing."""
        return len(self.dashboards.features) + len(self.dashboards.skipped) - len(self.index)

    @property
    def corpus(self) -> str:
        return f"{self.dashboards.run.dataset or 'unknown text'} ({self.dashboards.kind})"

    def rows_of(self, features: np.ndarray) -> np.ndarray:
        """The row of each feature number."""
        return np.searchsorted(self.index, features)

    @cached_property
    def live(self) -> np.ndarray:
        """[rows] bool"""
        return np.array([feature.density >= LIVE_RATE for feature in self.features], bool)

    @cached_property
    def maxima(self) -> np.ndarray:
        """[rows] the greatest activation: what the file gives, or that of the strongest context"""
        strongest = np.zeros(len(self.index))
        contexts = self.contexts
        np.maximum.at(strongest, self.rows_of(contexts.feature), contexts.value.astype(np.float64))
        pairs = zip(self.features, strongest, strict=True)
        return np.array([own if f.maximum is None else f.maximum for f, own in pairs])

    @cached_property
    def top_logits(self) -> np.ndarray:
        """[rows] the token whose logit is raised most, NO_TOKEN where none is known"""
        first = [feature.positive[0][0] if feature.positive else None for feature in self.features]
        tokens = [NO_TOKEN if string is None else int(self.token_ids[string]) for string in first]
        return np.array([token if token >= 0 else NO_TOKEN for token in tokens], np.int64)
