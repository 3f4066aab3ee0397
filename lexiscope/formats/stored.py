"""What every format shares: the result of reading one, and files of weights opened without executing anything
in them.
"""

import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.files import size_text
from lexiscope.foreign_json import parse_json
from lexiscope.selection import Threshold

LEAST_NORM = 1e-8
"""of a decoder row that is divided by its norm, as in SAELens"""
PICKLES = (".pt", ".pth", ".pkl", ".bin")


class StoredDictionary(NamedTuple):
    """A dictionary as a library stored it, with what its files record."""

    dictionary: Dictionary
    origin: str
    """saelens, sparsify, vasae"""
    architecture: str
    """as its own library calls it"""
    hook: str
    """the hook point it reads, as its own library writes it; empty where it is not recorded"""
    model: str
    """the language model it was trained on; empty where it is not recorded"""
    config: dict[str, Any]
    """its settings as they stand"""
    hook_out: str = ""
    """the hook point that a transcoder writes; empty for a dictionary that reconstructs what it reads"""
    place: Path = Path()
    """the file or folder that it was read from"""
    set_name: str = ""
    """what its set is called, where its files or folders tell"""
    notes: tuple[str, ...] = ()
    """conventions of its library that were recognised and folded in, in words"""


class Format(NamedTuple):
    """One library's layout on disk."""

    library: str
    files: str
    """the files that make it up, in words"""
    at: Callable[[Path], list[Path]]
    """the dictionaries that a file or folder is, or directly holds; empty where it is none of this format"""
    read: Callable[[Path], StoredDictionary]
    """one of those; raises CheckpointError"""


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError: no readable JSON, or something other than an object."""
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON: {str(error).splitlines()[0]}.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a JSON {type(value).__name__}, where an object with the dictionary's settings is "
            "expected."
        )
    return value


def metadata_of(config: dict[str, Any]) -> dict[str, Any]:
    """The `metadata` block of settings; empty where there is none, or something other than an object."""
    found = config.get("metadata")
    return found if isinstance(found, dict) else {}


def block_of(path: Path, settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings under a name; empty where there are none. Raises CheckpointError where they are no
    object.
    """
    found = settings.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {name} is {str(found)[:80]!r}, where an object is expected.")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory. Raises CheckpointError: truncated, damaged, a
    pickle, not readable, larger than this machine's memory.
    """
    try:
        size, memory = path.stat().st_size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory:
            raise CheckpointError(
                f"{path} has {size_text(size)}, more than this machine's memory of {size_text(memory)}."
            )
        with open(path, "rb") as file:
            start = file.read(2)
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except SafetensorError as error:
        if start in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"{path} is a pickle, not safetensors; it is never executed.") from error
        raise CheckpointError(f"{path} is truncated or damaged: {error}.") from error


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """A torch file of tensors and plain values, mapped into memory. Raises CheckpointError where it holds
    anything that would run.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle that holds more than tensors and plain values: it would have to be "
            "executed, and never is."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged: {str(error).splitlines()[0] if str(error) else error!r}."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path} holds a {type(found).__name__}, where a dictionary of settings and weights is expected."
        )
    return found


def drop_unit_scaling(tensors: dict[str, Tensor], path: Path) -> None:
    """Remove a `scaling_factor` of ones, which several libraries wrote and their own readers drop. Raises
    CheckpointError for any other.
    """
    scaling = tensors.get("scaling_factor")
    if scaling is not None:
        if not torch.allclose(scaling.float(), torch.ones(())):
            raise CheckpointError(
                f"{path}: scaling_factor is not 1 everywhere: activations finetuned by a factor are not read "
                "here."
            )
        del tensors["scaling_factor"]


def gated_dictionary(
    W_enc: Tensor, W_dec: Tensor, b_dec: Tensor, *, gate: Tensor, magnitude: Tensor, log_gain: Tensor
) -> Dictionary:
    """A gated dictionary as one with thresholds; biases and log gain r are [d_sae].

    A feature fires where x W + gate > 0, which is where its magnitude x W e^r + magnitude is above magnitude
    − gate e^r.
    """
    gain = log_gain.exp()
    return Dictionary(W_enc * gain, magnitude, W_dec, b_dec, Threshold(magnitude - gate * gain))


def named(
    tensors: dict[str, Tensor], wanted: tuple[str, ...], *, where: Path, what: str
) -> dict[str, Tensor]:
    """Exactly the wanted tensors as float32. Raises CheckpointError for one that is missing, or one that this
    kind of file has not.
    """
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointError(f"{where}: {', '.join(missing)} is missing, which {what} has.")
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        raise CheckpointError(
            f"{where} also holds {', '.join(extra)}, which {what} has not: it would be read wrongly."
        )
    return {name: tensors[name].float() for name in wanted}


def whole_k(path: Path, settings: dict[str, Any], b_enc: Tensor) -> int:
    k = settings.get("k")
    if (
        not isinstance(k, int | float)
        or isinstance(k, bool)
        or not math.isfinite(k)
        or k != int(k)
        or not 0 < k <= len(b_enc)
    ):
        raise CheckpointError(
            f"{path}: k is {k!r}, which is not a whole number between 1 and d_sae {len(b_enc)}."
        )
    return int(k)


def check_widths(path: Path, dictionary: Dictionary, d_in: Any, d_sae: Any, d_out: Any = None) -> None:
    """Raises CheckpointError: tensors that disagree in their widths, or with the recorded ones (None: not
    recorded; d_out is d_in except for a transcoder); NaN, Inf.
    """
    if dictionary.W_dec.ndim != 2:
        raise CheckpointError(
            f"{path}: W_dec has shape {tuple(dictionary.W_dec.shape)}; two axes are expected."
        )
    d_out = d_out or d_in or dictionary.d_out
    d_in, d_sae = d_in or d_out, d_sae or dictionary.d_sae
    expected = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    if dictionary.dense_in is not None:
        rank = dictionary.dense_in.shape[-1:]
        expected |= {"dense_in": (d_in, *rank), "dense_out": (*rank, d_out)}
    tensors = dictionary.tensors()
    for name, shape in (expected | dict.fromkeys(dictionary.selection.tensors(), (d_sae,))).items():
        found = tensors[name]
        if tuple(found.shape) != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(found.shape)}; d_in {d_in} and d_sae {d_sae} need {shape}."
            )
    if dictionary.lookup is not None and dictionary.lookup.shape[1:] != (d_in,):
        raise CheckpointError(
            f"{path}: lookup has shape {tuple(dictionary.lookup.shape)}; d_in {d_in} needs (vocabulary, "
            f"{d_in})."
        )
    for found in tensors.values():
        if not all(
            bool(torch.isfinite(part).all()) for part in found.split(4096)
        ):  # parts: no copy of the whole
            raise CheckpointError(f"{path}: the weights hold NaN or Inf.")
