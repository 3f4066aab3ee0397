"""Measures of a run while it trains: the fields of a line of `train.jsonl` that are drawn as curves."""

from lexiscope.measures.measure import Measure, by_name

TRAINING = by_name(
    [
        Measure(
            "loss",
            "loss",
            "number",
            "mean squared error a dimension of the reconstruction since the last line, in the space of "
            "training: roughly 1 − FVE where that is centred and scaled",
        ),
        Measure(
            "live",
            "live in training",
            "share",
            "share of the features that fired since the last restart of dead ones, or since the epoch began",
        ),
        Measure(
            "validation_loss",
            "validation loss",
            "number",
            "the loss on the validation passages at the end of an epoch",
            absent="where the recipe does not stop by it",
        ),
        Measure("tokens_per_second", "speed", "number", "training tokens a second since the last line"),
    ]
)
