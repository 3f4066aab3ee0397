"""The dictionaries to index, as they are checked, identified and named; their weights are read again where
they are needed.

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

from indexer.counts.state import IndexingError
from indexer.geometry import LogitEffect, logit_effect, name_features
from indexer.text_pass.text_pass import Subject
from lexiscope.anchors import NearestTokens
from lexiscope.checkpoint import AnchorFit, Checkpoint, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel


class Member(NamedTuple):
    """A checkpoint with the identity it is indexed under."""

    checkpoint: Checkpoint
    """without weights and anchors"""
    source: str
    layer: int
    set_name: str
    recipe: str
    anchor_kind: str
    fingerprint: str
    """of weights and anchors"""
    anchored: bool
    """does it carry anchors of its own?"""

    @property
    def d_sae(self) -> int:
        return self.checkpoint.dictionary.d_sae

    def dictionary(self) -> Dictionary:
        """Read again, with all its weights."""
        return load_checkpoint(self.checkpoint.path, anchors=False).dictionary

    def fit(self) -> AnchorFit:
        found = load_checkpoint(self.checkpoint.path).fit
        if found is None:
            raise CheckpointError(
                f"{self.checkpoint.path} carries no anchors (anchors.safetensors): it cannot be named."
            )
        return found


def identify(model: LanguageModel, checkpoint: Checkpoint) -> Member:
    """Raises CheckpointError: a width or a vocabulary that is not the model's, a layer it lacks."""
    dictionary, fit = checkpoint.dictionary, checkpoint.fit
    other = "it was trained on another model."
    if dictionary.d_in != model.d_model:
        raise CheckpointError(
            f"{checkpoint.path} reads activations of width {dictionary.d_in}, but {model.id} has {model.d_model}: {other}"
        )
    if fit is not None and len(fit.anchors) != model.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path} has anchors for {len(fit.anchors):,} tokens, but {model.id} has {model.vocab_size:,}: {other}"
        )
    layer, set_name = checkpoint.layer, checkpoint.set_name
    model.check_layers([layer])
    nothing = torch.empty(0)
    light = replace(
        dictionary,
        W_enc=torch.empty(1, 1).expand(dictionary.W_enc.shape),
        b_enc=nothing,
        b_dec=nothing,
        W_dec=torch.empty(1, 1).expand(dictionary.W_dec.shape),
        selection=dictionary.selection.map(lambda _: nothing),
        dense_in=None,
        dense_out=None,
    )
    return Member(
        checkpoint=checkpoint._replace(dictionary=light, fit=None),
        source=f"{layer}-{set_name}",
        layer=layer,
        set_name=set_name,
        recipe=str(checkpoint.details.get("recipe", set_name)),
        anchor_kind=checkpoint.anchor_kind,
        fingerprint=_fingerprint(dictionary, fit),
        anchored=fit is not None,
    )


def identify_all(
    groups: Sequence[tuple[LanguageModel, Iterable[Checkpoint]]],
) -> list[tuple[LanguageModel, list[Member]]]:
    """Raises CheckpointError as `identify`; IndexingError where two dictionaries would have one identity."""
    found = [
        (model, [identify(model, checkpoint) for checkpoint in checkpoints]) for model, checkpoints in groups
    ]
    identities = [(model.id, member.source) for model, members in found for member in members]
    if len(set(identities)) < len(identities):
        twice = next(i for i in identities if identities.count(i) > 1)
        raise IndexingError(
            f"Two dictionaries would be called {twice[0]}/{twice[1]}; train one of them with another --set."
        )
    return found


def _fingerprint(dictionary: Dictionary, fit: AnchorFit | None) -> str:
    digest = sha256(f"{dictionary.selection.max_active or 0} {dictionary.normalise}".encode())
    for tensor in [*dictionary.tensors().values(), *([] if fit is None else [fit.anchors, fit.counts])]:
        bits = tensor.float().contiguous().view(torch.int32)
        digest.update(
            f"{tuple(bits.shape)} {bits.sum(dtype=torch.int64).item()} {bits[::7].sum(dtype=torch.int64).item()}".encode()
        )
    return digest.hexdigest()[:12]


class Named(NamedTuple):
    """What the weights alone say of a dictionary before the text is read."""

    names: NearestTokens
    """[d_sae, 1 + NEXT_NAMES]"""
    effect: LogitEffect
    counts: Tensor
    """[vocab] occurrences of each token in the text its anchors were fitted on"""


def name(model: LanguageModel, member: Member, fit: AnchorFit) -> Named:
    dictionary = member.dictionary()
    names = name_features(dictionary, fit)
    return Named(names, logit_effect(model, dictionary.directions, names.tokens[:, 0]), fit.counts)


def subject(model: LanguageModel, member: Member, named: Named) -> Subject:
    """Its encoder alone, on the model's device."""
    whole = member.dictionary()

    def on_device(tensor: Tensor) -> Tensor:
        return tensor.clone().to(model.device)

    encoder = replace(
        whole,
        W_enc=on_device(whole.W_enc),
        b_enc=on_device(whole.b_enc),
        selection=whole.selection.map(on_device),
        W_dec=torch.empty(1, 1).expand(whole.W_dec.shape),
        b_dec=torch.empty(0),
        dense_in=None,
        dense_out=None,
    )
    first = named.effect.positive.tokens[:, 0]
    return Subject(
        member.layer,
        encoder,
        named.names.tokens[:, 0].numpy().astype(np.int64),
        first.numpy().astype(np.int64),
    )


def neighbouring(members: Sequence[Member]) -> tuple[dict[int, int], dict[int, int]]:
    """For each member, the member of the same set at the layer before, and after."""
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for set_name in {member.set_name for member in members}:
        of_set = sorted(
            (member.layer, at) for at, member in enumerate(members) if member.set_name == set_name
        )
        for (_, low), (_, high) in pairwise(of_set):
            before[high], after[low] = low, high
    return before, after
