"""The paths of the tiny model and its random dictionaries, and jobs that steer it."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lexiscope.records import FeatureRef, Token
from server.live import DictionaryPath, Intervention, LocatedFeature, SteerJob
from server.live.generation import Batches, JobSteps, Pause
from server.live.messages import Event

D, WIDTH, VOCAB, CONTEXT, MEAN_NORM = 32, 48, 300, 512, 5.0
CHAT_TEMPLATE = "{{ bos_token }}Q: {{ messages[0].content }}{% if add_generation_prompt %} A:{% endif %}"
SILENT = 7
"""a feature that never fires, because of its encoder bias"""


class Tiny(NamedTuple):
    model_path: str
    checkpoints: dict[int, str]
    """layer → checkpoint folder"""

    def ref(self, layer: int = 0, index: int = 3) -> FeatureRef:
        name = Token(id=(40 + index) % VOCAB, shown="x")
        source = f"{layer}-random"
        return FeatureRef(
            id=f"tiny/{source}/{index}",
            model="tiny",
            source=source,
            layer=layer,
            index=index,
            name=name,
            cosine=0.5,
            verdict="partial",
            density=0.1,
        )

    def at(self, layer: int, index: int) -> LocatedFeature:
        return LocatedFeature(feature=self.ref(layer, index), checkpoint_path=self.checkpoints[layer])

    def source(self, layer: int) -> DictionaryPath:
        return DictionaryPath(source=f"{layer}-random", layer=layer, checkpoint_path=self.checkpoints[layer])

    def does(self, layer: int, index: int, mode: str, strength: float = 0.0, **given) -> Intervention:
        return Intervention(
            feature=self.ref(layer, index),
            checkpoint_path=self.checkpoints[layer],
            mode=mode,
            strength=strength,
            **given,
        )

    def job(self, *features: tuple[int, int, str, float] | Intervention, **given) -> SteerJob:
        """A job from interventions, or (layer, index, mode, strength) of each."""
        interventions = [one if isinstance(one, Intervention) else self.does(*one) for one in features]
        fields = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 1.0, "seed": 1} | given
        return SteerJob(model="tiny", model_path=self.model_path, interventions=interventions, **fields)


def some_tokens(x: Tensor) -> Tensor:
    """[rows, columns] for residual streams [rows, columns, d]; only a token look-up makes a difference."""
    return torch.zeros(x.shape[:2], dtype=torch.long)


def within_rounding(found: Tensor, expected: Tensor) -> bool:
    """Logits that differ by at most 1e-5 of the largest: what holds between rows of other batch shapes, other
    places in a batch, or other thread counts.
    """
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def events_of(work: JobSteps, batches: Batches | None = None) -> Iterator[Event]:
    """The events of one job that runs alone."""
    batches = batches or Batches()
    for found in work:
        if found is Pause.STEP:
            batches.step()
        elif not isinstance(found, Pause):
            yield found


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a thread of its own: the browser tests' playwright keeps a loop running
    in this one.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
