"""One feature of a loaded dictionary: its activation and its direction, for residual streams x [n,
d_model].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError, ModelError
from lexiscope.language_model import LanguageModel
from lexiscope.language_model.jacobian import read_lens
from server.live.messages import LocatedFeature

ENCODE_POSITIONS = 256
"""positions encoded at once; bounds the memory of [positions, d_sae] pre-activations"""


class LoadedDictionary(NamedTuple):
    """A dictionary in memory."""

    dictionary: Dictionary
    mean_norm: float | None
    """the layer's mean residual norm; None if the checkpoint does not contain it"""
    identity: str = ""
    """`Dictionary.identity`"""


LoadDictionary = Callable[[str], LoadedDictionary]
"""Loads a dictionary by its checkpoint path."""


@dataclass(frozen=True)
class DictionaryFeature:
    """One feature of a dictionary. `alone` is the dictionary with this feature only, whose pre-activation
    costs one row instead of d_sae.
    """

    dictionary: Dictionary
    index: int
    alone: Dictionary

    def activation(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[n] the feature's activation in the code of each x, on tokens [n]. The full code is computed only
        at positions where the feature's pre-activation is positive, if it must be.
        """
        if self.dictionary.selection.independent:
            return self.alone.encode(x, tokens).values.sum(-1)
        activation = torch.zeros(len(x), device=x.device)
        pre = self.alone.pre_activations(x, tokens)[:, 0]
        selection = self.dictionary.selection
        able = ((pre > 0) | selection.signed | selection.iterative).nonzero().squeeze(1)
        for rows in able.split(ENCODE_POSITIONS):
            code = self.dictionary.encode(x[rows], tokens[rows])
            activation[rows] = torch.where(code.indices == self.index, code.values, 0).sum(-1)
        return activation

    def unit_length(self, x: Tensor) -> Tensor:
        """[n] the norm of what one unit of the feature's activation adds to the reconstruction of each x."""
        ones = torch.ones(len(x), device=x.device)
        indices = torch.full((len(x),), self.index, device=x.device)
        return self.dictionary.writes(x, indices, ones).norm(dim=-1)

    @property
    def direction(self) -> Tensor:
        """[d_model], of norm 1"""
        return F.normalize(self.dictionary.W_dec[self.index], dim=0)


def load_direction(located: LocatedFeature, load: LoadDictionary, model: LanguageModel) -> Tensor:
    """[d_model] of norm 1: the direction of a feature or of a token: its row of the look-up, its raw
    embedding (centred), or what the Jacobian lens says writes it. Raises as `load_feature`, and ModelError
    where the lens is not there.
    """
    ref = located.feature
    if ref.direction == "feature":
        return load_feature(located, load, model).direction
    dictionary = load(located.checkpoint_path).dictionary
    _check_width(located, dictionary, model)
    match ref.direction:
        case "row":
            token = torch.tensor([ref.index], device=dictionary.W_dec.device)
            return dictionary.lookup_directions(token)[0]
        case "embedding":
            return model.embedding_directions(torch.tensor([ref.index]))[0]
    vectors, lens = model.unembedding(), read_lens(located.lens_path, ref.layer, model.n_layers)
    vector = vectors[ref.index] - vectors.mean(0)
    return F.normalize(vector if lens is None else vector @ lens.to(vector), dim=0)


def load_feature(located: LocatedFeature, load: LoadDictionary, model: LanguageModel) -> DictionaryFeature:
    """Raises ModelError for a dictionary of another width or the direction of a token, CheckpointError for an
    index out of range.
    """
    if located.feature.row:
        raise ModelError(
            f"{located.feature.id} is the direction of a token, which has no activation of its own: it can "
            "be added, and nothing else."
        )
    dictionary, index = load(located.checkpoint_path).dictionary, located.feature.index
    _check_width(located, dictionary, model)
    if not 0 <= index < dictionary.d_sae:
        raise CheckpointError(
            f"{located.feature.id}: {located.checkpoint_path} has {dictionary.d_sae:,} features. "
            "Index the checkpoint again."
        )
    return DictionaryFeature(dictionary, index, dictionary.of_feature(index))


def _check_width(located: LocatedFeature, dictionary: Dictionary, model: LanguageModel) -> None:
    if dictionary.d_in != model.d_model:
        raise ModelError(
            f"{located.feature.id} reads {dictionary.d_in} dimensions, but {model.id} has {model.d_model}."
        )
    dictionary.check_vocabulary(model.vocab_size, what=located.checkpoint_path)
