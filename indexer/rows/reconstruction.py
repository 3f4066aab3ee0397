"""How well a dictionary reconstructs the text that was just read: the sign that it is read on the layer,
model and scale that it was trained on.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import ReconstructionSums
from lexiscope.text import batches

SAMPLE_TOKENS = 4096
ENCODED_AT_ONCE = 512
KEPT_BYTES = 1 << 30
"""Of residual streams kept for the other dictionaries of one job."""


class Streams(NamedTuple):
    """Of one batch of passages at one layer, BOS left out."""

    x: Tensor
    """[n, d_model] float32"""
    tokens: Tensor
    """[n] that they stand on"""


class StreamSample:
    """The residual streams of the first SAMPLE_TOKENS tokens of some passages, in whole passages. They are
    read once for all layers where that takes KEPT_BYTES at most, else layer by layer.
    """

    def __init__(
        self, model: LanguageModel, layers: Sequence[int], passages: Mapping[int, np.ndarray]
    ) -> None:
        """`layers` holds the layer of each dictionary."""
        self.model = model
        self._passages: list[np.ndarray] = []
        n = 0
        for number in sorted(int(number) for number in passages):
            if n >= SAMPLE_TOKENS:
                break
            if len(passages[number]) > 1:
                self._passages.append(np.asarray(passages[number]))
                n += len(passages[number]) - 1
        self._together = sorted(set(layers))
        if 4 * n * model.d_model * len(self._together) > KEPT_BYTES:
            self._together = []
        self._kept: dict[int, list[Streams]] = {}

    @torch.inference_mode()
    def __call__(self, layer: int) -> list[Streams]:
        """The sample after `layer`."""
        if layer not in self._kept:
            layers = self._together or [layer]
            self._kept = {each: [] for each in layers}
            for batch in batches(self._passages, tokens=SAMPLE_TOKENS):
                found = self.model.read(batch.tokens.to(self.model.device), layers, fast=True)
                mask = batch.mask
                for each, stream in found.items():
                    x = stream[mask.to(stream.device)].float()
                    self._kept[each].append(Streams(x, batch.tokens[mask].to(x.device)))
        return self._kept[layer]


@torch.inference_mode()
def reconstruction(dictionary: Dictionary, layer: int, sample: StreamSample) -> float:
    """The fraction of variance explained (FVE) on the sample."""
    device = sample.model.device
    dictionary = dictionary.map(lambda tensor: tensor.to(device)).fast()
    sums = ReconstructionSums(dictionary.d_in, device)
    for streams in sample(layer):
        for x, tokens in zip(*(part.split(ENCODED_AT_ONCE) for part in streams), strict=True):
            code = dictionary.encode(x, tokens)
            sums.add(x, dictionary.parts(code, x, tokens), code)
    return sums.fve
