"""What the trainer refuses, and how training can fail."""

from math import isfinite

from lexiscope.errors import LexiscopeError


class RecipeError(LexiscopeError):
    """A recipe or a setting of it that cannot be used."""


class TrainingDiverged(LexiscopeError):
    """A loss that is no longer finite, or far above that of predicting zeros; training ended at that step."""

    def __init__(
        self, step: int, losses: dict[str, float], learning_rate: float, *, name: str = "", kept: str = ""
    ) -> None:
        """`name` of the run and what was `kept` of it, in words."""
        self.step, self.losses, self.learning_rate = step, losses, learning_rate
        terms = ", ".join(f"{term} {value:g}" for term, value in losses.items())
        advice = f"Try a lower learning rate (--set learning_rate={learning_rate / 10:g})"
        if len(losses) > 1:
            advice += ", or smaller weights for the other terms of the loss"
        where = f"{name}: the" if name else "The"
        what = "is far too large" if all(map(isfinite, losses.values())) else "is not finite"
        message = f"{where} loss {what} at step {step:,} ({terms}), and training has stopped."
        super().__init__(" ".join(part for part in (message, kept, f"{advice}.") if part))
