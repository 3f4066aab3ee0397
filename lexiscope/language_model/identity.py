"""Which language model it is: its weights and its vocabulary, whatever its folder is called."""

from hashlib import sha256
from typing import Any

import torch


@torch.inference_mode()
def identity_of(weights: Any, tokenizer: Any) -> str:
    """A short id of a transformers model and its tokenizer. Weights are rounded to bfloat16 first, so that a
    model loaded in bfloat16 has the id that it has in float32; names of modules play no part.
    """
    digest = sha256()
    for line in sorted(_summary(parameter) for parameter in weights.parameters()):
        digest.update(line.encode())
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{number} {token}".encode(errors="surrogatepass"))
    return digest.hexdigest()[:12]


def _summary(parameter: torch.Tensor) -> str:
    bits = parameter.detach().bfloat16().flatten().view(torch.int16)
    sums = [part.sum(dtype=torch.int64).item() for part in (bits, bits[::7], bits[::11])]
    return f"{tuple(parameter.shape)} {sums}"
