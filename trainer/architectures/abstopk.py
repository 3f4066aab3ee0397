"""AbsTopK: the k pre-activations of largest magnitude of each token, with their sign, so that one feature
carries both poles of a concept (arXiv 2510.00404). Everything else is TopK's.
"""

from dataclasses import dataclass

from lexiscope import selection
from trainer.architectures.topk import TopKArchitecture, TopKConfig


@dataclass(frozen=True, kw_only=True)
class AbsTopKConfig(TopKConfig):
    name: str = "abstopk"


class AbsTopK(TopKArchitecture):
    name = "abstopk"
    summary = "TopK by magnitude: a feature has a positive and a negative pole"
    config_type = AbsTopKConfig
    config: AbsTopKConfig
    signed = True

    def selection(self) -> selection.Selection:
        return selection.AbsTopK(self.config.k)
