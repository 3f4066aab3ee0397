"""What is computed once a vocabulary: the families of its tokens, and their words.

Both stay with the model in memory. Families of large vocabularies, which take seconds to minutes, are kept on
disk too (`Settings.tables`); a file that cannot be read, or is of other tokens, is written again.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lexiscope.checkpoint import write_tensors
from lexiscope.evidence.families import FAMILY, families
from lexiscope.evidence.words import words_of
from lexiscope.language_model import LanguageModel
from lexiscope.settings import Settings

LARGE = 1 << 34
"""Tokens² · width from which families are kept on disk."""


def family_table(model: LanguageModel) -> Tensor:
    """[vocab, FAMILY] int32, on the CPU: the family of each token (`evidence.families`)."""
    table: Tensor | None = model.kept.get("families")
    if table is None:
        large = model.vocab_size**2 * model.embedding.shape[1] >= LARGE
        table = _kept_on_disk(model, Settings().tables) if large else _families(model)
        model.kept["families"] = table
    return table


def word_table(model: LanguageModel) -> np.ndarray:
    """[vocab] the word of each token (`evidence.words_of`)."""
    words: np.ndarray | None = model.kept.get("words")
    if words is None:
        words = model.kept["words"] = words_of(model.vocabulary.raw)
    return words


def _families(model: LanguageModel) -> Tensor:
    return families(model.embedding, model.vocabulary.folded()).cpu()


def _kept_on_disk(model: LanguageModel, folder: Path) -> Tensor:
    path = folder / f"families-{_fingerprint(model)}.safetensors"
    try:
        table = load_file(path)["families"]
        if _is_of_tokens(table, model.vocab_size):
            return table
    except (OSError, SafetensorError, KeyError):
        pass
    table = _families(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"families": table})
    except OSError:
        pass  # a full disk, or one that is read-only: the table is computed again the next time
    return table


def _is_of_tokens(table: Tensor, vocab: int) -> bool:
    if table.shape != (vocab, FAMILY) or table.dtype is not torch.int32:
        return False
    return int(table.min()) >= -1 and int(table.max()) < vocab


def _fingerprint(model: LanguageModel) -> str:
    """Of the embedding and the spellings."""
    digest = sha256(model.embedding.cpu().contiguous().numpy().data)
    for raw in model.vocabulary.raw:
        digest.update(len(raw).to_bytes(4, "little") + raw)
    return digest.hexdigest()[:16]
