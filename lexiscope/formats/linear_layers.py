"""ReLU dictionaries saved as two linear layers: Goodfire's `…-SAE-l19.pth` and the DeepSeek R1 ones
(`…-l37.pt`).

x̂ = W_dec ReLU(W_enc x + b_enc) + b_dec. The layer is in the file's name.
"""

import re
from pathlib import Path

import torch

from lexiscope.dictionary import Dictionary
from lexiscope.formats.stored import Format, StoredDictionary, check_widths, named, read_plain_pickle
from lexiscope.selection import Threshold

FILE = re.compile(r"(?P<name>.+?)[-_.](l|layer[-_]?)(?P<layer>\d+)([-_.].*)?\.(pt|pth|bin)", re.IGNORECASE)
PREFIXES = (("encoder_linear", "decoder_linear"), ("encoder", "decoder"))
MODELS = {
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama-3.3-70B-Instruct": "meta-llama/Llama-3.3-70B-Instruct",
    "DeepSeek-R1-Distill-Llama-8B": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
}


def at(path: Path) -> list[Path]:
    """The file that `path` is, or those in the folder `path` whose names say SAE: any model may be saved like
    this.
    """
    if path.is_file():
        return [path] if FILE.fullmatch(path.name) else []
    return sorted(file for file in path.iterdir() if FILE.fullmatch(file.name) and "SAE" in file.name)


def read(file: Path) -> StoredDictionary:
    state = read_plain_pickle(file)
    encoder, decoder = next((p for p in PREFIXES if f"{p[0]}.weight" in state), PREFIXES[0])
    wanted = (f"{encoder}.weight", f"{encoder}.bias", f"{decoder}.weight", f"{decoder}.bias")
    w = named(state, wanted, where=file, what="a dictionary of two linear layers")
    b_enc = w[wanted[1]]
    dictionary = Dictionary(
        w[wanted[0]].T, b_enc, w[wanted[2]].T.contiguous(), w[wanted[3]], Threshold(torch.zeros_like(b_enc))
    )
    check_widths(file, dictionary, None, None)
    name = FILE.fullmatch(file.name)
    assert name is not None
    model = next((full for short, full in MODELS.items() if short in name["name"]), "")
    return StoredDictionary(
        dictionary, "linear-layers", "standard", f"blocks.{name['layer']}.hook_resid_post", model, {}
    )


FORMAT = Format("two linear layers (Goodfire)", "<name>-l<N>.pth", at, read)
