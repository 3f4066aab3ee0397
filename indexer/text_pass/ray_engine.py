"""The engine of a Ray cluster (`pip install lexiscope[ray]`): the same blocks and states as on one machine,
merged in a tree on the cluster.

There is one reader a node, or one a GPU. Each loads the model and the encoders once; the model must be at the
same path on every node. Every ROUND_SECONDS the states are merged on this machine and saved, so that a node
that dies costs one round at most.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from indexer.counts.state import PassState, StateShape, merge
from indexer.errors import IndexingError
from indexer.text_pass.blocks import Block
from indexer.text_pass.local_engine import PassEngine
from indexer.text_pass.text_pass import NamedEncoder, TextPass
from lexiscope.dictionary import Dictionary
from lexiscope.errors import ModelError
from lexiscope.evidence import NameTables
from lexiscope.language_model import LanguageModel, load_language_model

ROUND_SECONDS = 300.0
BLOCKS_QUEUED = 2
"""Blocks that wait at each reader, so that none waits for the driver."""


class BlockReader:
    """The text pass of one node or GPU; becomes a Ray actor. Raises ModelError where the node holds another
    model at `path` than the one that is indexed, of which `identity` is.
    """

    def __init__(
        self,
        path: str,
        model_id: str,
        identity: str,
        encoders: Sequence[NamedEncoder],
        tables: NameTables,
        shape: StateShape,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        model = load_language_model(path, model_id=model_id)
        if model.identity != identity:
            raise ModelError(
                f"{path} on {platform.node()} is another model than on the machine that started this job: its"
                " weights or its vocabulary differ."
            )
        own = [encoder._replace(dictionary=_aligned(encoder.dictionary)) for encoder in encoders]
        self._text_pass = TextPass(model, own, tables, shape)

    def read(self, block: Block) -> int:
        self._text_pass.read(block._replace(passages=[np.array(passage) for passage in block.passages]))
        return block.n_tokens

    def take_arrays(self) -> dict[str, np.ndarray]:
        return self._text_pass.take_state().arrays()


def _aligned(dictionary: Dictionary) -> Dictionary:
    """The encoder copied into memory that torch allocated: the last bits of a matrix product depend on how
    its operands are aligned.
    """
    return replace(
        dictionary,
        W_enc=dictionary.W_enc.clone(),
        b_enc=dictionary.b_enc.clone(),
        encoder=None if dictionary.encoder is None else dictionary.encoder.copied(),
        selection=dictionary.selection.map(torch.clone),
    )


def merge_arrays(
    shape: StateShape, a: dict[str, np.ndarray], b: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`merge` of states given as arrays."""
    return merge(_state(shape, a), _state(shape, b)).arrays()


def _state(shape: StateShape, arrays: dict[str, np.ndarray]) -> PassState:
    writable = {name: np.array(array) for name, array in arrays.items()}  # Ray's arrays are read-only
    return PassState.from_arrays(shape, writable)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise IndexingError(
            "The Ray engine needs Ray, which is not installed: pip install 'lexiscope[ray]'"
        ) from None
    return ray


def ray_engine(
    model: LanguageModel,
    encoders: Sequence[NamedEncoder],
    tables: NameTables,
    shape: StateShape,
) -> PassEngine:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine. Raises IndexingError where Ray
    is not installed.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)

    def read(
        state: PassState,
        blocks: Iterable[Block],
        *,
        advance: Callable[[int], None],
        save: Callable[[PassState], None],
    ) -> PassState:
        shared = (ray.put(list(encoders)), ray.put(tables))
        readers = _readers(ray, model, shared, shape)
        rest = iter(blocks)
        try:
            while begun := list(islice(rest, len(readers))):
                _read_round(ray, readers, begun, rest, advance)
                state = merge(state, _gather(ray, readers, shape))
                save(state)
        except ray.exceptions.RayError as error:
            raise IndexingError(
                f"A reader on the cluster failed: {str(error).strip().splitlines()[-1]}"
            ) from error
        finally:
            for reader in readers:
                ray.kill(reader)
        return state

    return read


def _readers(ray: Any, model: LanguageModel, shared: tuple[Any, Any], shape: StateShape) -> list[Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor = ray.remote(BlockReader)
    which = model.path, model.id, model.identity
    readers = []
    for node in (node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")):
        gpus = int(node["Resources"].get("GPU", 0))
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        for _ in range(max(1, gpus)):
            chosen = actor.options(num_cpus=1, num_gpus=1 if gpus else 0, scheduling_strategy=where)
            readers.append(chosen.remote(*which, *shared, shape, torch.get_num_threads()))
    if not readers:
        raise IndexingError("The Ray cluster has no node with a CPU to read on.")
    return readers


def _read_round(
    ray: Any, readers: list[Any], begun: list[Block], rest: Iterator[Block], advance: Callable[[int], None]
) -> None:
    """Read every block of `begun`, and of `rest` as many as fit in the round."""
    end = time.monotonic() + ROUND_SECONDS
    running = {reader.read.remote(block): reader for reader, block in zip(readers, begun, strict=False)}
    for reader, block in zip(readers * (BLOCKS_QUEUED - 1), rest, strict=False):
        running[reader.read.remote(block)] = reader
    while running:
        [done], _ = ray.wait(list(running))
        reader = running.pop(done)
        advance(ray.get(done))
        following = next(rest, None) if time.monotonic() < end else None
        if following is not None:
            running[reader.read.remote(following)] = reader


def _gather(ray: Any, readers: list[Any], shape: StateShape) -> PassState:
    """What the readers counted since the last call, merged in pairs on the cluster."""
    merging = ray.remote(num_cpus=0)(merge_arrays)  # the readers, which hold the CPUs, are idle meanwhile
    parts = [reader.take_arrays.remote() for reader in readers]
    while len(parts) > 1:
        paired = [merging.remote(shape, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + parts[2 * len(paired) :]
    return _state(shape, ray.get(parts[0]))
