"""The command line: the one place that knows every package. Each is imported when its command runs."""

from cli.main import app, run

__all__ = ["app", "run"]
