"""Tokens as other tools spell them, and back to ids.

Files of SAEDashboard and Neuronpedia hold tokens as strings, spelled in one of four ways that they do not
name:

- the tokenizer's own pieces: 'ĠParis', 'ãĤ±', '▁Paris', '<0x0A>';
- SAEDashboard's: those pieces with ten sequences replaced ('Ġ' by a space, 'Ċ' by a newline, 'âĢĶ' by —, …),
  so that a piece that is no whole character keeps its stand-in characters: 'âĢ';
- Neuronpedia's: pieces with '▁' or 'Ġ' as a space;
- plain text: ' Paris'.

`TokenizerSpellings` reads a string in the way that most strings of the files fit, then in the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lexiscope.tokens import PieceFormat, plain, spelled_out

OUT_OF_RANGE = "<|outofrange|>"
"""What SAEDashboard writes for an id past the tokenizer's last: a padding row of the embedding."""
UNKNOWN = -1
SAEDASHBOARD = {
    **{"âĢĶ": "—", "âĢĵ": "–", "âĢľ": "“", "âĢĿ": "”", "âĢĺ": "‘", "âĢĻ": "’", "âĢĭ": " "},
    **{"Ġ": " ", "Ċ": "\n", "ĉ": "\t"},
}


class TokenizerSpellings:
    """The ids of a tokenizer's tokens by each way of spelling them. Where two tokens share a spelling, the
    one that the tokenizer would produce for a text wins: neither special nor a single byte's, then the lower
    id.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        form = PieceFormat.of(tokenizer)
        spelled = spelled_out(tokenizer, form)
        self.size = size
        self.ways: dict[str, dict[str, int]] = {
            way: {} for way in ("plain", "saedashboard", "spaces", "pieces")
        }
        last: list[tuple[str, int, bytes]] = []
        for piece, token in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if token >= size:
                continue
            raw = piece.encode() if token in spelled else form.raw(piece)
            if spelled.get(token) or (form.byte_fallback and piece.startswith("<0x")):
                last.append((piece, token, raw))
            else:
                self._add(piece, token, raw)
        for piece, token, raw in last:
            self._add(piece, token, raw)
        self.order = list(self.ways)

    def _add(self, piece: str, token: int, raw: bytes) -> None:
        dashboard = piece
        for sequence, char in SAEDASHBOARD.items():
            dashboard = dashboard.replace(sequence, char)
        spaced = piece.replace("Ġ", " ").replace("▁", " ")
        for way, spelling in zip(
            self.ways.values(), (plain(raw, piece), dashboard, spaced, piece), strict=True
        ):
            way.setdefault(spelling, token)

    def choose(self, counts: Mapping[str, int]) -> str:
        """Prefer the way in which most of these strings, by their counts, are tokens; returns that way."""
        known = {
            way: sum(times for text, times in counts.items() if text in ids) for way, ids in self.ways.items()
        }
        self.order = sorted(self.ways, key=lambda way: -known[way])
        return self.order[0]

    def ids(self, strings: Sequence[str]) -> list[int]:
        """The id of each string, UNKNOWN where it is no token in any way of spelling."""
        first = self.ways[self.order[0]]
        return [first[text] if text in first else self._otherwise(text) for text in strings]

    def _otherwise(self, text: str) -> int:
        return next((self.ways[way][text] for way in self.order[1:] if text in self.ways[way]), UNKNOWN)
