"""The engine of a Ray cluster (`pip install lexiscope[ray]`): the same blocks, the same states, merged in a
tree on the cluster.

One reader a node, or one a GPU, each loading the model and the encoders once; the model must lie at the same
path on every node. Rounds of ROUND seconds end with a merged state on this machine, which is saved: a node
that dies costs one round.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from indexer.counts.name_counts import Relatives
from indexer.counts.state import IndexingError, Shape, State, merge
from indexer.text_pass.blocks import Block
from indexer.text_pass.local_engine import Engine, Saving
from indexer.text_pass.text_pass import Reading, Subject
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, load_language_model

ROUND = 300.0
IN_FLIGHT = 2
"""Blocks each reader has before it, so that none waits for the driver."""


class Reader:
    """Of one node; becomes a Ray actor."""

    def __init__(
        self,
        path: str,
        model_id: str,
        subjects: Sequence[Subject],
        relatives: Relatives,
        length: int,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        model = load_language_model(path, model_id=model_id)
        self._reading = Reading(
            model,
            [subject._replace(dictionary=_aligned(subject.dictionary)) for subject in subjects],
            relatives,
            length=length,
        )

    def read(self, block: Block) -> int:
        self._reading.read(block._replace(passages=[np.array(passage) for passage in block.passages]))
        return block.n_tokens

    def take(self) -> dict[str, np.ndarray]:
        return self._reading.take().arrays()


def _aligned(dictionary: Dictionary) -> Dictionary:
    """Its encoder in memory of torch's own: a matrix product's last bits depend on how its operands are
    aligned.
    """
    return replace(
        dictionary,
        W_enc=dictionary.W_enc.clone(),
        b_enc=dictionary.b_enc.clone(),
        selection=dictionary.selection.map(torch.clone),
    )


def merge_arrays(shape: Shape, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`merge` for states as they travel."""
    return merge(_state(shape, a), _state(shape, b)).arrays()


def _state(shape: Shape, arrays: dict[str, np.ndarray]) -> State:
    return State.from_arrays(
        shape, {name: np.array(array) for name, array in arrays.items()}
    )  # Ray's arrays are read-only


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise IndexingError(
            "The Ray engine needs Ray, which is not installed: pip install 'lexiscope[ray]'"
        ) from None
    return ray


def on_ray(model: LanguageModel, subjects: Sequence[Subject], relatives: Relatives, *, length: int) -> Engine:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine. Raises IndexingError where Ray
    is not installed.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)

    def read(
        state: State,
        blocks: Iterable[Block],
        *,
        advance: Callable[[int], None],
        save: Callable[[State], None],
    ) -> State:
        saving = Saving(save)
        shared = (ray.put(list(subjects)), ray.put(relatives))
        readers = _readers(ray, model, shared, length)
        rest = iter(blocks)
        try:
            while begun := list(islice(rest, len(readers))):
                _round(ray, readers, begun, rest, advance)
                state = merge(state, _gathered(ray, readers, state.shape))
                saving(state)
        except ray.exceptions.RayError as error:
            raise IndexingError(
                f"A reader on the cluster failed: {str(error).strip().splitlines()[-1]}"
            ) from error
        finally:
            for reader in readers:
                ray.kill(reader)
        return state

    return read


def _readers(ray: Any, model: LanguageModel, shared: tuple[Any, Any], length: int) -> list[Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor = ray.remote(Reader)
    readers = []
    for node in (node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")):
        gpus = int(node["Resources"].get("GPU", 0))
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        for _ in range(max(1, gpus)):
            chosen = actor.options(num_cpus=1, num_gpus=1 if gpus else 0, scheduling_strategy=where)
            readers.append(chosen.remote(model.path, model.id, *shared, length, torch.get_num_threads()))
    if not readers:
        raise IndexingError("The Ray cluster has no node with a CPU to read on.")
    return readers


def _round(
    ray: Any, readers: list[Any], begun: list[Block], rest: Iterator[Block], advance: Callable[[int], None]
) -> None:
    """Every block of `begun`, and of `rest` as many as fit in the round."""
    end = time.monotonic() + ROUND
    running = {reader.read.remote(block): reader for reader, block in zip(readers, begun, strict=False)}
    for reader, block in zip(readers * (IN_FLIGHT - 1), rest, strict=False):
        running[reader.read.remote(block)] = reader
    while running:
        [done], _ = ray.wait(list(running))
        reader = running.pop(done)
        advance(ray.get(done))
        block = next(rest, None) if time.monotonic() < end else None
        if block is not None:
            running[reader.read.remote(block)] = reader


def _gathered(ray: Any, readers: list[Any], shape: Shape) -> State:
    """What the readers learned since they were last asked, merged in pairs where it lies."""
    merging = ray.remote(num_cpus=0)(merge_arrays)  # the readers, which hold the CPUs, are idle meanwhile
    parts = [reader.take.remote() for reader in readers]
    while len(parts) > 1:
        paired = [merging.remote(shape, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + parts[2 * len(paired) :]
    return _state(shape, ray.get(parts[0]))
