"""Qwen Scope's TopK dictionaries: `SAE-Res-<model>-W32K-L0_50/layer0.sae.pt`, one file a layer.

k and the model are in the folder's name alone.
"""

import re
from pathlib import Path

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.formats.stored import Format, StoredDictionary, check_widths, named, read_plain_pickle, whole_k
from lexiscope.selection import TopK

FILE = re.compile(r"layer(\d+)\.sae\.pt")
REPOSITORY = re.compile(r"SAE-Res-(.+?)-W(\d+)K-L0_(\d+)")


def at(path: Path) -> list[Path]:
    """The file that `path` is, or those in the folder `path`."""
    if path.is_file():
        return [path] if FILE.fullmatch(path.name) else []
    files = [file for file in path.glob("layer*.sae.pt") if FILE.fullmatch(file.name)]
    return sorted(files, key=lambda file: int(FILE.fullmatch(file.name)[1]))  # type: ignore[index]


def read(file: Path) -> StoredDictionary:
    w = named(
        read_plain_pickle(file),
        ("W_enc", "b_enc", "W_dec", "b_dec"),
        where=file,
        what="a Qwen Scope dictionary",
    )
    repository, layer = REPOSITORY.search(str(file.absolute())), FILE.fullmatch(file.name)
    if repository is None or layer is None:
        raise CheckpointError(
            f"{file} does not record how many features are active (k). Keep it in a folder with its "
            "repository's name, for example SAE-Res-Qwen3-1.7B-Base-W32K-L0_50."
        )
    k = whole_k(file, {"k": int(repository[3])}, w["b_enc"])
    dictionary = Dictionary(w["W_enc"].T, w["b_enc"], w["W_dec"].T.contiguous(), w["b_dec"], TopK(k))
    check_widths(file, dictionary, None, None)
    return StoredDictionary(
        dictionary,
        "qwen-scope",
        "topk",
        f"blocks.{layer[1]}.hook_resid_post",
        f"Qwen/{repository[1]}",
        {},
        set_name=f"qwenscope-res-{repository[2]}k-l0-{k}",
    )


FORMAT = Format("Qwen Scope", "layer<N>.sae.pt", at, read)
