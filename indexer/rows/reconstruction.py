"""How well a dictionary reconstructs the text that was just read: the sign that it is read on the layer,
model and scale that it was trained on.
"""

import torch

from indexer.causal.ablation import StreamCache
from lexiscope.dictionary import Dictionary
from lexiscope.metrics import ReconstructionSums

SAMPLE_TOKENS = 4096


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
        length = len(streams.passages[number])
        x = streams(number, layer, length)[0, 1:].float()
        if len(x):
            tokens = torch.as_tensor(streams.passages[number][1:], device=x.device).long()
            code = dictionary.encode(x, tokens)
            sums.add(x, dictionary.parts(code, x, tokens), code)
    return sums.fve
