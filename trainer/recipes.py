"""Training recipes: one frozen config each, selected by name. `cfg.json` carries the whole config of a run."""

from dataclasses import dataclass

from lexiscope.errors import LexiscopeError


class RecipeError(LexiscopeError):
    """A recipe or an option of it that cannot be used."""


@dataclass(frozen=True)
class Recipe:
    """How one dictionary is trained. Activations are centred and scaled to mean-square norm d first (METHOD.md §4 item 6)."""

    name: str
    anchored: bool
    """Start each row at a sample of a token and hold it in the cone around that token's mean state (items 1 and 3)."""
    cosine: float = 0.802
    """The cone: cosine of a row to its assigned anchor is at least this after every step (0.8 and a margin for fp16 anchors)."""
    dense_rank: int = 16
    """Rank of the dense path, started at the top principal directions (item 8); 0 for none."""
    k: int = 32
    """Active features a token."""
    learning_rate: float = 1e-3
    """Adam's, after warm-up over the first twentieth and before linear decay over the last third."""
    batch: int = 2048
    """Tokens a step."""
    restarts: int = 4
    """How often, over the first 60 % of the steps, rows that no longer fire are restarted at badly reconstructed tokens (item 7)."""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("plain", anchored=False, dense_rank=0),
        Recipe("vasae", anchored=True),
        Recipe("matched", anchored=False),
    )
}


def recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise RecipeError(f"There is no recipe '{name}'; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
