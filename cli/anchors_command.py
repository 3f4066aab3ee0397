"""`lexiscope anchors`: how well each anchor set names the features of a briefly trained plain dictionary, by
layer.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lexiscope.anchor_sets import CONTROLS, DESCRIPTIONS
from lexiscope.language_model import LanguageModel
from lexiscope.text import passages
from trainer import Survey, anchor_sources, harvest, survey


def survey_layers(
    model: LanguageModel,
    sources: Sequence[str],
    layers: Sequence[int],
    *,
    tokens: int,
    k: int,
    width: int | None,
) -> dict[int, Survey]:
    """One pass of the model over the text, and one over its vocabulary a layer. Raises as
    `trainer.activations.harvest`.
    """
    model.check_layers(layers)
    with harvest(model, list(passages(model, sources, tokens=tokens)), layers=layers) as harvested:
        width = width or model.vocab_size
        return {
            layer: survey(model, harvested, layer, anchor_sources(model, harvested, layer), k=k, width=width)
            for layer in layers
        }


def show(surveys: dict[int, Survey], console: Console) -> None:
    for layer, result in surveys.items():
        table = Table(
            "anchors",
            "cosine, live",
            "by firing",
            "random",
            "≥ 0.5",
            "what they are",
            title=f"layer {layer}: {result.best}",
        )
        ranked = sorted(result.found.items(), key=lambda item: (item[0] in CONTROLS, -item[1].excess))
        for name, fit in ranked:
            table.add_row(name, *(f"{value:.2f}" for value in fit), DESCRIPTIONS[name])
        console.print(table)
