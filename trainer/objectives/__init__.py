"""The loss: what architectures minimise (`losses`), and the terms that any of them takes by configuration
(`terms`), in scaled space.
"""

from trainer.objectives.losses import AnchorMode, SilentRows, anchor_pull, aux_k, mse
from trainer.objectives.terms import TERMS, term_weights

__all__ = ["TERMS", "AnchorMode", "SilentRows", "anchor_pull", "aux_k", "mse", "term_weights"]
