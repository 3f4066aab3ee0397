"""A dictionary on disk: SAELens's folder layout, plus one `metadata.lexiscope` block and the anchors' fit.

    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec, and where there are any
                              dense_in, dense_out, lookup (bf16)
    cfg.json                  SAELens's keys; metadata.lexiscope: recipe, seed, text, tokens seen, scale, …
    anchors.safetensors       anchors [vocab, d_in], counts [vocab], mean [d_in], assigned, lift [d_sae]
    metrics.json              held-out figures (docs/method.md#measures)
    train.jsonl               one line per log step

A dictionary loads in SAELens as it is where SAELens has its architecture. One with a dense path or a token
look-up names an architecture of its own, so that SAELens refuses it instead of reconstructing wrongly.
`load_checkpoint` loads other libraries' dictionaries too (`lexiscope.formats`). Pickle is never executed.
"""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lexiscope import formats
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.files import new_folder, replace_file
from lexiscope.formats import saelens
from lexiscope.formats.saelens import CONFIG, WEIGHTS
from lexiscope.formats.stored import metadata_of, read_json, read_tensors

ANCHORS, METRICS, LOG = "anchors.safetensors", "metrics.json", "train.jsonl"
HOOK_FOLDER = re.compile(
    r"((transformer|model|gpt_neox)\.)*(blocks|layers?|h)[._-]?\d+.*|seed\d+|final_\d+|best|\d+",
    re.IGNORECASE,
)
"""Folders named after a hook point, a seed or a step: the set's name is their parent's."""


AFTER_BLOCK = re.compile(
    r"blocks\.(\d+)\.hook_(?:resid_post|out)|(?:\w+\.)*(?:layers|h|blocks)\.(\d+)(?:\.output)?"
)
"""Hook points after a block: as HookedTransformer, as the bridge and as Hugging Face's modules call them."""
MLP_INPUT, MLP_OUTPUT = re.compile(r"blocks\.(\d+)\.mlp\.hook_in"), re.compile(r"blocks\.(\d+)\.hook_mlp_out")
"""What a transcoder of an MLP reads (after the norm) and writes, as the bridge calls them."""
BEFORE_BLOCK = re.compile(r"blocks\.(\d+)\.hook_(?:resid_pre|in)|(?:\w+\.)*(?:layers|h|blocks)\.(\d+)\.input")


class AnchorFit(NamedTuple):
    """The vectors that names and cosines are computed from."""

    anchors: Tensor
    """[vocab, d_in] directions of anchors (any norm), in the centred raw space of the hook point"""
    counts: Tensor
    """[vocab] occurrences of each token in the training text"""
    mean: Tensor
    """[d_in] mean residual stream"""
    assigned: Tensor
    """[d_sae] the token each row was held near, −1 for none"""
    lift: Tensor | None = None
    """[d_sae] the training token of highest lift, −1 where the feature was silent; None in older checkpoints
    """
    kind: str = ""
    """a description of anchors that were fitted after training; the checkpoint's own are described in its
    details
    """


class Checkpoint(NamedTuple):
    path: Path
    dictionary: Dictionary
    config: dict[str, Any]
    """the content of cfg.json"""
    fit: AnchorFit | None
    metrics: dict[str, Any]
    origin: str = "lexiscope"
    """who trained it: lexiscope, saelens, sparsify, vasae"""
    architecture: str = "topk"
    """as its own library calls it"""
    hook: str = ""
    """the hook point it reads, as its own library writes it; empty where that is not recorded"""
    model: str = ""
    """the language model it was trained on, as recorded: a folder or a hub's name; empty where it is not"""
    hook_out: str = ""
    """the hook point that a transcoder writes; empty for a dictionary that reconstructs what it reads"""
    notes: tuple[str, ...] = ()
    """conventions of its library that were recognised and folded into the weights, in words"""
    stored_set: str = ""
    """what its set is called, where its files or folders tell"""
    chosen_layer: int | None = None
    """the layer given by --layer"""
    chosen_set: str | None = None
    """the set's name given by --set-name"""

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata block of its settings; empty where there is none."""
        return metadata_of(self.config)

    @property
    def details(self) -> dict[str, Any]:
        """The metadata.lexiscope block; empty for a foreign dictionary."""
        details: dict[str, Any] = self.metadata.get("lexiscope") or {}
        return details

    @property
    def layer(self) -> int:
        """The block after which it reads the residual stream. Raises CheckpointError where it reads something
        else, is a transcoder, or no layer is known.
        """
        self.refuse_transcoder()
        recorded = self.details.get("layer")
        if not self.hook:
            known = self.chosen_layer if recorded is None else recorded
            if known is None:
                raise CheckpointError(
                    f"{self.path} does not record which layer it reads; give it with --layer."
                )
            return int(known)
        layer = layer_of(self.hook, self.path)
        if self.chosen_layer not in (None, layer):
            raise CheckpointError(
                f"{self.path} reads {self.hook}, which is layer {layer}, not {self.chosen_layer}."
            )
        if recorded not in (None, layer):
            raise CheckpointError(
                f"{self.path}/{CONFIG} contradicts itself: metadata.lexiscope.layer is {recorded}, but "
                f"hook_name is {self.hook}."
            )
        return layer

    @property
    def mlp(self) -> int | None:
        """The block whose MLP a transcoder reads and reconstructs; None for any other dictionary."""
        reads, writes = MLP_INPUT.fullmatch(self.hook), MLP_OUTPUT.fullmatch(self.hook_out)
        return int(reads[1]) if reads and writes and reads[1] == writes[1] else None

    def refuse_transcoder(self) -> None:
        """Raises CheckpointError for a dictionary that writes another hook point than it reads."""
        if self.hook_out:
            raise CheckpointError(
                f"{self.path} is a transcoder: it reads {self.hook or 'one hook point'} and writes "
                f"{self.hook_out}. Only dictionaries that reconstruct what they read can be named, indexed "
                "and steered here."
            )

    @property
    def set_name(self) -> str:
        """The name that dictionaries of one kind share over layers: as given by --set-name, as trained, as on
        Neuronpedia, or by its folder.
        """
        if self.chosen_set or "set" in self.details:
            return _slug(self.chosen_set or str(self.details["set"]))
        listed = self.metadata.get("neuronpedia_id") or self.config.get("neuronpedia_id")
        if isinstance(listed, str) and "/" in listed:
            return _slug(listed.rsplit("/", 1)[1])
        if self.stored_set:
            return _slug(self.stored_set)
        folder = self.path.resolve()
        folder = folder if folder.is_dir() else folder.parent
        while HOOK_FOLDER.fullmatch(folder.name) and folder.parent != folder:
            folder = folder.parent
        return _slug(re.sub(r"^.*_L\d+_", "", folder.name))

    @property
    def anchor_kind(self) -> str:
        """A description of its anchors."""
        return (self.fit.kind if self.fit is not None else "") or str(self.details.get("anchors", "unknown"))


def layer_of(hook: str, path: Path) -> int:
    """The block after which the residual stream is what `hook` names. Raises CheckpointError for any other
    hook point.
    """
    after = AFTER_BLOCK.fullmatch(hook)
    if after:
        return int(after[1] or after[2])
    before = BEFORE_BLOCK.fullmatch(hook)
    if before and int(before[1] or before[2]) > 0:
        return int(before[1] or before[2]) - 1  # the same tensor as the one after the block before
    what = (
        "the embedding before the first block"
        if before
        else "something other than the residual stream after a block"
    )
    raise CheckpointError(
        f"{path} reads {hook}, {what}: only the residual stream after a block can be named and indexed here."
    )


def _slug(name: str) -> str:
    """For URLs, without the layer that may open it (`10-plain` is of the set `plain`)."""
    return re.sub(r"[^a-z0-9._]+", "-", re.sub(r"^\d+-", "", name.lower())).strip("-.") or "unnamed"


@contextmanager
def new_checkpoint(path: Path) -> Iterator[Path]:
    """A folder to fill, moved to `path` when the block ends well and removed when it does not.

    Raises CheckpointError where `path` already holds something: an existing run is never overwritten.
    """
    refuse_existing(path)
    try:
        with new_folder(path) as partial:
            yield partial
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror or error}. Nothing that was there has changed."
        ) from error


def refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(
            f"{path} already holds a run; it is kept. Give another folder with --out, or remove it first."
        )


def save_weights(
    folder: Path,
    dictionary: Dictionary,
    *,
    fit: AnchorFit | None,
    model: str,
    hook: str,
    context: int,
    details: dict[str, Any],
    hook_out: str = "",
) -> None:
    """Write weights, anchors and cfg.json into `folder`; `hook_out` is the hook point that a transcoder
    writes.

    The architecture follows from the selection, the dense path and `hook_out`.
    """
    layout = saelens.layout(dictionary, transcoder=bool(hook_out))
    write_tensors(folder / WEIGHTS, layout.tensors)
    if fit is not None:
        anchors = {
            "anchors": _in_half(fit.anchors),
            "counts": fit.counts,
            "mean": fit.mean.float(),
            "assigned": fit.assigned,
        }
        write_tensors(folder / ANCHORS, anchors | ({} if fit.lift is None else {"lift": fit.lift}))
    metadata = {
        "model_name": model,
        "hook_name": hook,
        "hook_head_index": None,
        "context_size": context,
        "prepend_bos": True,
        "neuronpedia_id": None,
        "lexiscope": details,
    }
    if hook_out:
        metadata["hook_name_out"] = hook_out
    write_json(folder / CONFIG, layout.config | {"metadata": metadata})


def _in_half(anchors: Tensor) -> Tensor:
    """[vocab, d] in fp16. Rows whose largest entry is no normal number there are multiplied by a power of
    two: only the directions of anchors count.
    """
    largest = anchors.abs().amax(-1, keepdim=True)
    kind = torch.finfo(torch.float16)
    outside = (largest > kind.max) | (largest < kind.tiny)
    exponent = torch.where(outside, largest.frexp().exponent, 0)
    return anchors.ldexp(-exponent).half().contiguous()


def export_saelens(checkpoint: Checkpoint, out: Path) -> None:
    """Write a folder that SAELens 6 loads (`SAE.load_from_disk`) and encodes with as we do: topk, jumprelu,
    standard, transcoder or jumprelu_transcoder.

    Raises CheckpointError: a dense path, a look-up or another combination that no architecture of SAELens
    has; `out` holds something already.
    """
    layout = saelens.layout(checkpoint.dictionary, transcoder=bool(checkpoint.hook_out))
    if layout.own:
        if checkpoint.dictionary.lookup is not None:
            has = "has a token look-up beside its features"
        elif checkpoint.dictionary.dense_in is not None:
            has = "has a dense path beside its features (or reads a centred residual stream)"
        elif checkpoint.hook_out:
            has = "is a transcoder that selects by TopK"
        else:
            has = f"selects by {type(checkpoint.dictionary.selection).__name__}"
        raise CheckpointError(
            f"{checkpoint.path} {has}: no architecture of SAELens describes that, and SAELens would "
            "reconstruct wrongly. Nothing was written."
        )
    recorded = checkpoint.metadata
    metadata = {
        "sae_lens_version": "6.0.0",  # of this file's keys; earlier ones are read with other defaults
        "model_name": checkpoint.model,
        "hook_name": checkpoint.hook if checkpoint.hook_out else f"blocks.{checkpoint.layer}.hook_resid_post",
        "hook_head_index": None,
        "context_size": recorded.get("context_size"),
        "prepend_bos": recorded.get("prepend_bos", True),
        "neuronpedia_id": recorded.get("neuronpedia_id"),
        "exported_from": {
            "origin": checkpoint.origin,
            "architecture": checkpoint.architecture,
            "hook": checkpoint.hook,
        },
    }
    if checkpoint.hook_out:
        metadata["hook_name_out"] = checkpoint.hook_out
    with new_checkpoint(out) as folder:
        write_tensors(folder / WEIGHTS, layout.tensors)
        write_json(folder / CONFIG, layout.config | {"metadata": metadata})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """The file appears whole or not at all. Raises OSError."""
    with replace_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, which appears whole or not at all. Raises OSError."""
    with replace_file(path) as partial:
        partial.touch()
        mode = (
            partial.stat().st_mode
        )  # as the user's umask has it; safetensors makes files of its owner alone
        try:
            save_file(tensors, partial)
        except SafetensorError as error:  # a full disk, among others
            raise OSError(errno.EIO, str(error).splitlines()[0]) from error
        partial.chmod(mode)


def load_checkpoint(
    path: Path, *, anchors: bool = True, layer: int | None = None, set_name: str | None = None
) -> Checkpoint:
    """Read a dictionary: one of ours, a SAELens folder, a sparsify folder (or a run's that holds one), the
    authors' `checkpoint.pt`.

    With `anchors=False` the anchors' fit stays on disk. `layer` and `set_name` are what a person says of a
    dictionary that does not record them. Raises CheckpointError: nothing there, a missing or
    truncated file, a pickle that would run, widths that disagree, an unknown architecture, a convention of
    another library that would be read wrongly.
    """
    stored = formats.load(path)
    path = stored.place
    own = (
        metadata_of(stored.config).get("lexiscope") is not None
        or saelens.OWN.fullmatch(stored.architecture) is not None
    )
    fit = _read_fit(path / ANCHORS) if anchors and own and (path / ANCHORS).is_file() else None
    metrics = read_json(path / METRICS) if own and (path / METRICS).is_file() else {}
    if own:
        _check_details(path, metadata_of(stored.config).get("lexiscope") or {})
    origin = "lexiscope" if own else stored.origin
    return Checkpoint(
        path,
        stored.dictionary,
        stored.config,
        fit,
        metrics,
        origin,
        stored.architecture,
        stored.hook,
        stored.model,
        stored.hook_out,
        stored.notes,
        stored.set_name,
        layer,
        set_name,
    )


class _Details(BaseModel):
    """What is computed with, of the metadata.lexiscope block."""

    layer: NonNegativeInt | None = None
    seed: int = 0
    mean_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    plan: dict[str, Any] | None = None


def _check_details(path: Path, details: Any) -> None:
    """Raises CheckpointError where the block holds values of another type."""
    try:
        _Details.model_validate(details, strict=True)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(('metadata.lexiscope', *map(str, found['loc'])))} is "
            f"{str(found['input'])[:80]!r}: {found['msg']}"
            for found in error.errors()[:3]
        )
        raise CheckpointError(f"{path}/{CONFIG}: {wrong}.") from error


def _read_fit(path: Path) -> AnchorFit:
    tensors = read_tensors(path)
    try:
        return AnchorFit(
            tensors["anchors"].float(),
            tensors["counts"],
            tensors["mean"],
            tensors["assigned"],
            tensors.get("lift"),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing from it.") from error
