"""The bytes that each token of a vocabulary stands for, and the form in which it is shown."""

from collections.abc import Iterable
from typing import Any

from lexiscope.records import Token

MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def _byte_of() -> dict[str, int]:
    """The inverse of GPT-2's `bytes_to_unicode`, which writes each byte as a printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)})
    return table


BYTE_OF = _byte_of()


def raw_bytes(piece: str, *, byte_level: bool) -> bytes:
    """The bytes that a piece stands for: byte-level BPE ('Ġthe') or SentencePiece ('▁the', '<0x0A>')."""
    if byte_level:
        if all(char in BYTE_OF for char in piece):
            return bytes(BYTE_OF[char] for char in piece)
        return piece.encode()
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def shown(raw: bytes) -> str:
    """One line that differs for different bytes: ␣ ↵ ⇥ for white space, ⟨hex⟩ for parts of a character."""
    parts: list[str] = []
    rest = raw
    while rest:
        try:
            text, rest = rest.decode(), b""
        except UnicodeDecodeError as error:
            text, bad, rest = rest[: error.start].decode(), rest[error.start : error.end], rest[error.end :]
            parts += [_visible(text), "".join(f"⟨{byte:02X}⟩" for byte in bad)]
            continue
        parts.append(_visible(text))
    return "".join(parts)


def _visible(text: str) -> str:
    return "".join(MARKS.get(char, char if char.isprintable() else f"⟨U+{ord(char):04X}⟩") for char in text)


def folded(raw: bytes) -> str:
    """The spelling without case and surrounding space, which search without exact case compares."""
    return raw.decode(errors="replace").strip().casefold()


class Vocabulary:
    """Bytes and shown form of every row of W_E. Rows without a token (padding) are shown as ⟨unused id⟩."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        pieces = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
        pieces += [None] * (size - len(pieces))
        special = set(tokenizer.all_special_ids)
        byte_level = is_byte_level(pieces)
        self.raw: list[bytes] = []
        self.shown: list[str] = []
        for index, piece in enumerate(pieces):
            if piece is None:
                raw, text = b"", f"⟨unused {index}⟩"
            elif index in special:
                raw, text = piece.encode(), piece
            else:
                raw = raw_bytes(piece, byte_level=byte_level)
                text = shown(raw) or "⟨empty⟩"
            self.raw.append(raw)
            self.shown.append(text)

    def __len__(self) -> int:
        return len(self.raw)

    def token(self, index: int) -> Token:
        return Token(id=index, shown=self.shown[index], raw=self.raw[index].hex())

    def folded(self) -> list[str]:
        return [folded(raw) for raw in self.raw]


def is_byte_level(pieces: Iterable[str | None]) -> bool:
    """Whether pieces are byte-level BPE, which writes a leading space as Ġ; SentencePiece: ▁."""
    known = [piece for piece in pieces if piece]
    return sum(piece.startswith("Ġ") for piece in known) >= sum(piece.startswith("▁") for piece in known)
