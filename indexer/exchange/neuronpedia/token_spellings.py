"""Tokens as other tools spell them, and back to ids.

Files of SAEDashboard and Neuronpedia hold tokens as strings in one of four ways, and do not say which:

- the tokenizer's own pieces: 'ĠParis', 'ãĤ±', '▁Paris', '<0x0A>';
- SAEDashboard's: those pieces with ten sequences replaced ('Ġ' by a space, 'Ċ' by a newline, 'âĢĶ' by —, …),
  so that a piece that is
  no whole character stays in stand-ins: 'âĢ';
- Neuronpedia's: pieces with '▁' or 'Ġ' as a space;
- plain text: ' Paris'.

`Spellings` reads a string in the way that most strings of the file fit, then in the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lexiscope.tokens import BYTE_OF, PieceFormat, spelled_out

STAND_IN = {byte: char for char, byte in BYTE_OF.items()}
OUT_OF_RANGE = "<|outofrange|>"
"""What SAEDashboard writes for an id past the tokenizer's last: a padding row of the embedding."""
UNKNOWN = -1
SAEDASHBOARD = {
    **{"âĢĶ": "—", "âĢĵ": "–", "âĢľ": "“", "âĢĿ": "”", "âĢĺ": "‘", "âĢĻ": "’", "âĢĭ": " "},
    **{"Ġ": " ", "Ċ": "\n", "ĉ": "\t"},
}


def plain(raw: bytes, shown: str) -> str:
    """A token as text; parts of a character as their stand-ins, which SAEDashboard writes too."""
    if not raw:
        return shown
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(STAND_IN[byte] for byte in raw)


class Spellings:
    """The ids of a tokenizer's tokens by each way of spelling them. Where two tokens share a spelling, the
    one a text would give wins: neither special nor a single byte's, then the lower id.
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

    def settle(self, met: Mapping[str, int]) -> str:
        """Read first in the way that most of these strings, counted, fit, and say which that is."""
        fits = {
            way: sum(times for text, times in met.items() if text in known)
            for way, known in self.ways.items()
        }
        self.order = sorted(self.ways, key=lambda way: -fits[way])
        return self.order[0]

    def ids(self, strings: Sequence[str]) -> list[int]:
        """The ids of a text's tokens, UNKNOWN where no way of spelling knows a string."""
        first = self.ways[self.order[0]]
        return [first[text] if text in first else self._otherwise(text) for text in strings]

    def _otherwise(self, text: str) -> int:
        return next((self.ways[way][text] for way in self.order[1:] if text in self.ways[way]), UNKNOWN)
