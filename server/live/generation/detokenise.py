"""Incremental decoding: the text that each new token adds. A character made of several tokens is held back
until it is complete.
"""

from collections.abc import Callable, Sequence

PARTIAL = "\ufffd"
CONTEXT = 6
"""earlier tokens that are decoded together with a new one"""


class Detokeniser:
    """Turns the tokens of one row into pieces of text whose concatenation is the row's text.

    Some tokenizers drop the leading space of the first token they decode, so earlier tokens are decoded too.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._tokens = list(prompt[-CONTEXT:])
        self._start = 0
        self._given = len(self._tokens)
        self.text = ""

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._tokens.append(token)
        return self._take(partial=False)

    def rest(self) -> str:
        """The text that is still held back, complete or not. For the end of the row."""
        return self._take(partial=True)

    def _take(self, *, partial: bool) -> str:
        known = self._decode(self._tokens[self._start : self._given])
        whole = self._decode(self._tokens[self._start :])
        if len(whole) <= len(known) or (whole.endswith(PARTIAL) and not partial):
            return ""
        self._start, self._given = self._given, len(self._tokens)
        self.text += whole[len(known) :]
        return whole[len(known) :]
