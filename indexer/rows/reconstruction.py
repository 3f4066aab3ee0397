"""How well a dictionary reconstructs the text that was just read: the sign that it is read on the layer,
model and scale that it was trained on.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import ReconstructionSums

SAMPLE_TOKENS = 4096
CACHE_BYTES = 1 << 30
"""Of residual streams kept for the other dictionaries of one job."""


class StreamCache:
    """The residual streams of passages at each dictionary's layer. With several dictionaries, a passage is
    read once for all of them, up to CACHE_BYTES.
    """

    def __init__(
        self, model: LanguageModel, layers: Sequence[int], passages: Mapping[int, np.ndarray]
    ) -> None:
        """`layers` holds the layer of each dictionary."""
        self.model, self.passages = model, passages
        self._layers = sorted(set(layers))
        self._kept: dict[int, dict[int, Tensor]] = {}
        self._room = CACHE_BYTES if len(layers) > 1 else 0

    @torch.inference_mode()
    def __call__(self, passage: int, layer: int) -> Tensor:
        """[n, d_model] after `layer`, of a passage of n tokens."""
        if passage not in self._kept:
            ids = np.asarray(self.passages[passage]).astype(np.int64)
            tokens = torch.from_numpy(ids)[None].to(self.model.device)
            if self._room <= 0:
                return self.model.read(tokens, [layer])[layer][0]
            self._kept[passage] = self.model.read(tokens, self._layers)
            self._room -= sum(stream.nbytes for stream in self._kept[passage].values())
        return self._kept[passage][layer][0]


@torch.inference_mode()
def reconstruction(dictionary: Dictionary, layer: int, streams: StreamCache) -> float:
    """The fraction of variance explained (FVE) on the first SAMPLE_TOKENS tokens of the passages in
    `streams`, BOS left out.
    """
    dictionary = dictionary.map(lambda tensor: tensor.to(streams.model.device))
    sums = ReconstructionSums(dictionary.d_in, streams.model.device)
    for number in sorted(int(number) for number in streams.passages):
        if sums.n >= SAMPLE_TOKENS:
            break
        x = streams(number, layer)[1:].float()
        if len(x):
            tokens = torch.as_tensor(streams.passages[number][1:], device=x.device).long()
            code = dictionary.encode(x, tokens)
            sums.add(x, dictionary.parts(code, x, tokens), code)
    return sums.fve
