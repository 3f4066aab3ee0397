"""`lexiscope methods`: what `lexiscope train --recipe` takes."""

from dataclasses import fields

from rich.console import Console
from rich.text import Text

from trainer import Config, described
from trainer.objectives import TERMS


def show(console: Console) -> None:
    """A line a recipe and a line of its settings; then the settings that all share, and the terms."""
    for recipe in described():
        line = Text.assemble((recipe.config.name, "bold"), f"  {recipe.summary}")
        console.print(line, soft_wrap=True)
        own = [f"{field}={getattr(recipe.config, field)}" for field in recipe.own_fields]
        console.print(f"    {' '.join(own)}", soft_wrap=True, highlight=False)
    usual = Config(name="")
    common = [
        f"{field.name}={getattr(usual, field.name)}" for field in fields(Config) if field.name != "name"
    ]
    console.print(
        f"\nAll recipes have, unless their line says otherwise: {' '.join(common)}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"Terms of the loss (--set terms=NAME:WEIGHT): {', '.join(TERMS) or 'none'}.")
