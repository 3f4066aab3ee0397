"""JSON that was written elsewhere: every way in which it cannot be read is one exception."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError: no JSON, no UTF-8, a number of thousands of digits, or
    values nested deeper than the interpreter's stack.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
