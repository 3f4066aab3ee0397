"""Log lines of the server and the model worker: text for a terminal, or one JSON object a line for a
collector. A line that repeats is written once in a while, so that no fault fills a disk.
"""

import json
import logging
import time
from datetime import UTC, datetime

from lexiscope.settings import Settings

REPEAT_SECONDS = 10.0
FIELDS = ("method", "path", "status", "milliseconds", "client", "key", "request")
"""what a request's line has beside its message"""


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, a request's FIELDS, and `error` with the
    traceback of an exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class OnceInAWhile(logging.Filter):
    """Drops a warning or an error whose template was logged less than REPEAT_SECONDS ago; the next one that
    passes says how many were dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg)[:200], record.lineno)
        last, dropped = self._seen.get(key, (float("-inf"), 0))
        now = time.monotonic()
        if now - last < REPEAT_SECONDS:
            self._seen[key] = (last, dropped + 1)
            return False
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if dropped:
            record.msg, record.args = f"{record.getMessage()} (and {dropped:,} times more)", ()
        return True


def configure(settings: Settings) -> None:
    """Log to stderr as the settings say."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(OnceInAWhile())
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
