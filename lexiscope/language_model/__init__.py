"""The language model: load, tokenise, read and patch the residual stream, run from a layer on, generate.

The only user of transformer-lens. Token ids go in and tensors come out.
"""

from lexiscope.language_model.loading import load_language_model, model_slug
from lexiscope.language_model.model import GeneratedTokens, LanguageModel, hook_name
from lexiscope.language_model.patching import MlpPoint, Patch, Point, block_of
from lexiscope.language_model.resume import ReadPassages

__all__ = [
    "GeneratedTokens",
    "LanguageModel",
    "MlpPoint",
    "Patch",
    "Point",
    "ReadPassages",
    "block_of",
    "hook_name",
    "load_language_model",
    "model_slug",
]
