"""The loss: what architectures minimise (`losses`), and the terms that any of them takes by configuration
(`terms`), in scaled space.
"""

from trainer.objectives.losses import AnchorMode, SilentRows, anchor_pull, aux_k, mse
from trainer.objectives.terms import MODEL_TERMS, TERMS, term_weights

__all__ = [
    "MODEL_TERMS",
    "TERMS",
    "AnchorMode",
    "SilentRows",
    "anchor_pull",
    "aux_k",
    "mse",
    "term_weights",
]
