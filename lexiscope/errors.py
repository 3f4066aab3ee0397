"""What a person can get wrong in the domain, each with its own type. The message says what was wrong and what
would be right.
"""


class LexiscopeError(Exception):
    """Base of every error that is shown to a person as one line, without a traceback."""


class ModelError(LexiscopeError):
    """A language model that cannot be loaded or asked for what was asked."""


class TextError(LexiscopeError):
    """A text that cannot be read or is too short to use."""


class CheckpointError(LexiscopeError):
    """A dictionary checkpoint that cannot be read, or does not fit."""
