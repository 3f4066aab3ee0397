"""Where the tiny model and its random dictionaries lie, and jobs that steer it."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from lexiscope.records import FeatureRef, Token
from server.live import Intervention, SteerJob

D, WIDTH, VOCAB, CONTEXT, MEAN_NORM = 32, 48, 300, 512, 5.0
SILENT = 7
"""a feature whose encoder bias keeps it silent everywhere"""


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
            verdict="reads",
            density=0.1,
        )

    def job(self, *features: tuple[int, int, str, float], **given) -> SteerJob:
        """A job from (layer, index, mode, strength) of each intervention."""
        interventions = [
            Intervention(feature=self.ref(layer, index), checkpoint_path=self.checkpoints[layer], mode=mode, strength=strength)
            for layer, index, mode, strength in features
        ]
        asked = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 1.0, "seed": 1} | given
        return SteerJob(model="tiny", model_path=self.model_path, interventions=interventions, **asked)


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a thread of its own: the browser tests' playwright keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
