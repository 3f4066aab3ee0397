"""One row during generation: its tokens, its text, and whether and why it has ended."""

from collections.abc import Sequence

from lexiscope.language_model import LanguageModel
from lexiscope.records.live import RowEnd
from server.live.generation.detokenise import Detokeniser


class GeneratedRow:
    """The tokens and the text of one row so far. `end` is the reason why it ended, None while it continues.

    A row ends at a token that ends the model's texts or turns, which adds no text, before the first of the
    stop texts, or at `max_tokens`.
    """

    def __init__(
        self, model: LanguageModel, prompt: Sequence[int], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.end: RowEnd | None = None
        self._detokeniser = Detokeniser(model.text, prompt)
        self._ends = model.end_tokens
        self._max_tokens = max_tokens
        self._stop = tuple(stop)
        self._held = ""

    def add(self, token: int) -> str:
        """The text to show after `token`. Text that may become a stop text is held back."""
        self.tokens.append(token)
        if token in self._ends:
            self.end = "end"
            return self._show(self._held + self._detokeniser.rest())
        text = self._held + self._detokeniser.add(token)
        last = len(self.tokens) >= self._max_tokens
        if last:
            text += self._detokeniser.rest()
        stops = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if stops:
            self.end = "stop"
            return self._show(text[: min(stops)])
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
    """The number of characters at the end of `text` that may be the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
