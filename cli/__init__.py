"""The command line: the one place that knows every room. Each room is imported when its command runs."""

from cli.main import app, run

__all__ = ["app", "run"]
