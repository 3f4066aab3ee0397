"""The dictionaries to index: checked, identified and named before the text is read.

A dictionary passes through these stages, each of which adds to the one before:

    Checkpoint            files on disk, read (`lexiscope.checkpoint`)
    IdentifiedCheckpoint  + the identity it is indexed under; weights are dropped and read again when needed
    NamedFeatures         + what the weights alone say: names and logit effects
    NamedEncoder          the encoder and the names, which is all that the pass over the text needs
    DictionaryCounts      + what the text says (`indexer.counts.state`)
    AnalysedDictionary    + evidence, geometry and causal effects: all that rows need (`indexer.rows`)

Only encoders stay in memory while the text is read: at GPT-2's width twelve dictionaries with their anchors
are 6 GB.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.errors import IndexingError
from indexer.geometry import LogitEffect, logit_effect, name_features
from indexer.text_pass.text_pass import NamedEncoder
from lexiscope.anchors import NearestTokens
from lexiscope.checkpoint import AnchorFit, Checkpoint, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel


class IdentifiedCheckpoint(NamedTuple):
    checkpoint: Checkpoint
    """without weights and anchors"""
    source: str
    layer: int
    set_name: str
    recipe: str
    anchor_kind: str
    fingerprint: str
    """of weights and anchors"""
    has_anchors: bool

    @property
    def d_sae(self) -> int:
        return self.checkpoint.dictionary.d_sae

    def load_dictionary(self) -> Dictionary:
        """All weights, read again."""
        return load_checkpoint(self.checkpoint.path, anchors=False).dictionary

    def load_fit(self) -> AnchorFit:
        """The checkpoint's own anchors, read again."""
        fit = load_checkpoint(self.checkpoint.path).fit
        if fit is None:
            raise CheckpointError(
                f"{self.checkpoint.path} carries no anchors (anchors.safetensors): it cannot be named."
            )
        return fit


def identify(model: LanguageModel, checkpoint: Checkpoint) -> IdentifiedCheckpoint:
    """Raises CheckpointError: a width or a vocabulary that is not the model's. Raises ModelError: a layer
    that the model lacks.
    """
    dictionary, fit = checkpoint.dictionary, checkpoint.fit
    if dictionary.d_in != model.d_model:
        raise CheckpointError(
            f"{checkpoint.path} reads activations of width {dictionary.d_in}, but {model.id} has "
            f"{model.d_model}: it was trained on another model."
        )
    if fit is not None and len(fit.anchors) != model.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path} has anchors for {len(fit.anchors):,} tokens, but {model.id} has "
            f"{model.vocab_size:,}: it was trained on another model."
        )
    dictionary.check_vocabulary(model.vocab_size, what=checkpoint.path)
    layer, set_name = checkpoint.layer, checkpoint.set_name
    model.check_layers([layer])
    nothing = torch.empty(0)
    without_weights = replace(
        dictionary,
        W_enc=torch.empty(1, 1).expand(dictionary.W_enc.shape),
        b_enc=nothing,
        b_dec=nothing,
        W_dec=torch.empty(1, 1).expand(dictionary.W_dec.shape),
        selection=dictionary.selection.map(lambda _: nothing),
        dense_in=None,
        dense_out=None,
        lookup=None,
    )
    return IdentifiedCheckpoint(
        checkpoint=checkpoint._replace(dictionary=without_weights, fit=None),
        source=f"{layer}-{set_name}",
        layer=layer,
        set_name=set_name,
        recipe=str(checkpoint.details.get("recipe", set_name)),
        anchor_kind=checkpoint.anchor_kind,
        fingerprint=_fingerprint(dictionary, fit),
        has_anchors=fit is not None,
    )


def identify_all(
    groups: Sequence[tuple[LanguageModel, Iterable[Checkpoint]]],
) -> list[tuple[LanguageModel, list[IdentifiedCheckpoint]]]:
    """The checkpoints of each model, taken one at a time. Raises as `identify`, and IndexingError where two
    dictionaries would have one identity.
    """
    identified = [
        (model, [identify(model, checkpoint) for checkpoint in checkpoints]) for model, checkpoints in groups
    ]
    first: dict[tuple[str, str], IdentifiedCheckpoint] = {}
    for model, members in identified:
        for member in members:
            other = first.setdefault((model.id, member.source), member)
            if other is not member:
                raise IndexingError(
                    f"Two dictionaries would be called {model.id}/{member.source}: {other.checkpoint.path} "
                    f"and {member.checkpoint.path}. Index them in two calls, one of them with --set-name."
                )
    return identified


def _fingerprint(dictionary: Dictionary, fit: AnchorFit | None) -> str:
    digest = sha256(dictionary.identity.encode())
    for tensor in () if fit is None else (fit.anchors, fit.counts):
        digest.update(tensor.float().contiguous().numpy().data)
    return digest.hexdigest()[:12]


class NamedFeatures(NamedTuple):
    """What a dictionary's weights alone say of its features."""

    names: NearestTokens
    """[d_sae, 1 + NEXT_NAMES]"""
    logits: LogitEffect
    token_counts: Tensor
    """[vocab] occurrences of each token in the text that the anchors were fitted on"""

    @property
    def first(self) -> Tensor:
        """[d_sae] the name of each feature, a token id"""
        return self.names.tokens[:, 0]


def name_dictionary(model: LanguageModel, member: IdentifiedCheckpoint, fit: AnchorFit) -> NamedFeatures:
    directions = member.load_dictionary().directions
    names = name_features(directions, fit)
    return NamedFeatures(names, logit_effect(model, directions, names.tokens[:, 0]), fit.counts)


def named_encoder(model: LanguageModel, member: IdentifiedCheckpoint, named: NamedFeatures) -> NamedEncoder:
    """What encodes, on the model's device: without decoder rows, unless the selection reads them."""
    dictionary = member.load_dictionary()

    def on_device(tensor: Tensor) -> Tensor:
        return tensor.clone().to(model.device)

    nothing = torch.empty(1, 1).expand(dictionary.W_dec.shape)
    encoder = replace(
        dictionary,
        W_enc=on_device(dictionary.W_enc),
        b_enc=on_device(dictionary.b_enc),
        b_dec=on_device(dictionary.b_dec),
        selection=dictionary.selection.map(on_device),
        lookup=None if dictionary.lookup is None else on_device(dictionary.lookup),
        W_dec=nothing if dictionary.selects_from_encoder else on_device(dictionary.W_dec),
        dense_in=None,
        dense_out=None,
    ).fast()
    if encoder.encoder is not None:
        encoder = replace(encoder, W_enc=torch.empty(1, 1).expand(dictionary.W_enc.shape))
    logit_tokens = named.logits.positive.tokens[:, 0]
    return NamedEncoder(
        member.layer, encoder, named.first.numpy().astype(np.int64), logit_tokens.numpy().astype(np.int64)
    )


class LayerNeighbours(NamedTuple):
    """Indices of the dictionaries of the same set in the next layers below and above that have one."""

    previous: int | None
    next: int | None


def layer_neighbours(members: Sequence[IdentifiedCheckpoint]) -> list[LayerNeighbours]:
    """Of each member."""
    neighbours = [LayerNeighbours(None, None)] * len(members)
    for set_name in {member.set_name for member in members}:
        of_set = [(member.layer, at) for at, member in enumerate(members) if member.set_name == set_name]
        for (_, low), (_, high) in pairwise(sorted(of_set)):
            neighbours[low] = neighbours[low]._replace(next=high)
            neighbours[high] = neighbours[high]._replace(previous=low)
    return neighbours
