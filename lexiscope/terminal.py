"""The console that commands print on."""

from rich.console import Console


def terminal(*, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """A console that prints every text as it is: tokens, labels and paths may look like markup (`[/INST]`) or
    the name of an emoji (`:key:`) of Rich. Styles are given by `rich.text.Text`.
    """
    return Console(markup=False, emoji=False, quiet=quiet, soft_wrap=soft_wrap)
