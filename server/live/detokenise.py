"""Text as it arrives: each token's new text, with a character split over tokens held back until it is whole."""

from collections.abc import Callable, Sequence

PARTIAL = "\ufffd"
CONTEXT = 6


class Detokeniser:
    """Turns one row's tokens into text pieces whose concatenation is its text.

    A window of earlier tokens is decoded along, because some tokenizers drop the space of the first token
    they decode.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._tokens = list(prompt[-CONTEXT:])
        self._start = 0
        self._given = len(self._tokens)
        self.text = ""

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is partial."""
        self._tokens.append(token)
        return self._take(partial=False)

    def rest(self) -> str:
        """What is still held back, partial or not: at the end of the row."""
        return self._take(partial=True)

    def _take(self, *, partial: bool) -> str:
        known = self._decode(self._tokens[self._start : self._given])
        whole = self._decode(self._tokens[self._start :])
        if len(whole) <= len(known) or (whole.endswith(PARTIAL) and not partial):
            return ""
        self._start, self._given = self._given, len(self._tokens)
        self.text += whole[len(known) :]
        return whole[len(known) :]
