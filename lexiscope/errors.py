"""Errors of the domain, one type a cause. A message gives what was wrong, with the value, and what would be
right.
"""


class LexiscopeError(Exception):
    """Base of every error that is shown to a person as one line, without a traceback."""


class ModelError(LexiscopeError):
    """A language model that cannot be loaded, or lacks what was requested."""


class TextError(LexiscopeError):
    """A text that cannot be read or is too short to use."""


class CheckpointError(LexiscopeError):
    """A dictionary checkpoint that cannot be read, or does not fit."""
