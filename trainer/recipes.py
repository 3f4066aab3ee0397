"""Training recipes: one frozen config each, selected by name. `cfg.json` carries the whole config of a run."""

from dataclasses import dataclass

from lexiscope.anchor_sets import ANCHOR_SETS
from lexiscope.errors import LexiscopeError

BAKE_OFF = "auto"
"""As `anchors`: the set that names a briefly trained plain dictionary best (lexiscope.anchor_sets.bake_off).
"""


class RecipeError(LexiscopeError):
    """A recipe or an option of it that cannot be used."""


@dataclass(frozen=True)
class Recipe:
    """How one dictionary is trained. Activations are centred and scaled to mean-square norm d first
    (METHOD.md §4 item 6).
    """

    name: str
    anchored: bool
    """Start each row at a sample of a token and hold it in the cone around that token's anchor (items 1 and
    3).
    """
    anchors: str = "current"
    """The anchor set: what rows are held to, and what names are read off (lexiscope.anchor_sets)."""
    cosine: float = 0.802
    """The cone: cosine of a row to its assigned anchor is at least this after every step (0.8 and a margin
    for fp16 anchors).
    """
    dense_rank: int = 16
    """Rank of the dense path, started at the top principal directions (item 8); 0 for none. Rows and anchors
    start outside them.
    """
    k: int = 32
    """Active features a token."""
    learning_rate: float = 2e-3
    """Adam's, after warm-up over the first twentieth and before linear decay over the last third."""
    batch: int = 2048
    """Tokens a step."""
    restarts: int = 4
    """How often, over the first 60 % of the steps, rows that no longer fire are restarted at badly
    reconstructed tokens (item 7).
    """
    aux_k: int = 64
    """Rows that have long been silent which also reconstruct each token's error (AuxK, arXiv 2406.04093
    §A.2); 0 for none.
    """
    aux_after: int = 100
    """Steps without firing after which a row counts as silent."""
    aux_weight: float = 1 / 32
    """Weight of AuxK's mean squared error."""

    def __post_init__(self) -> None:
        if self.anchors != BAKE_OFF and self.anchors not in ANCHOR_SETS:
            raise RecipeError(
                f"There is no anchor set '{self.anchors}'; there are {BAKE_OFF}, {', '.join(ANCHOR_SETS)}."
            )
        if not 0 < self.cosine < 1:
            raise RecipeError(f"The cone's cosine is {self.cosine}: it must lie between 0 and 1.")


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
