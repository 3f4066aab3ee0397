"""One row as it is written: the new text of each token, and the end of the row."""

from collections.abc import Sequence
from typing import Any, Literal

from lexiscope.language_model import LanguageModel
from server.live.detokenise import Detokeniser

End = Literal["length", "stop", "end"]


class Row:
    """The tokens and the text of one row so far; `end` says why it ended, None while it goes on.

    A row ends at the end of text, whose token carries none, before the first of the stop texts, or at
    `max_tokens`.
    """

    def __init__(
        self, model: LanguageModel, prompt: Sequence[int], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        tokenizer: Any = model.tokenizer
        self.tokens: list[int] = []
        self.text = ""
        self.end: End | None = None
        self._detokeniser = Detokeniser(model.text, prompt)
        self._eos = tokenizer.eos_token_id
        self._max_tokens = max_tokens
        self._stop = tuple(stop)
        self._held = ""

    def add(self, token: int) -> str:
        """The text that may be shown after `token`: what could still become a stop text is held back."""
        self.tokens.append(token)
        if token == self._eos:
            self.end = "end"
            return self._show(self._held + self._detokeniser.rest())
        text = self._held + self._detokeniser.add(token)
        last = len(self.tokens) >= self._max_tokens
        if last:
            text += self._detokeniser.rest()
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.end = "stop"
            return self._show(text[: min(found)])
        if last:
            self.end = "length"
            return self._show(text)
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return self._show(text[: len(text) - keep])

    def _show(self, text: str) -> str:
        self.text += text
        return text


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` may be the first ones of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
