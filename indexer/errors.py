"""The indexer's own error."""

from lexiscope.errors import LexiscopeError


class IndexingError(LexiscopeError):
    """Dictionaries or a text that cannot be indexed together, or a job that cannot go on."""
