"""The bytes that each token of a vocabulary stands for, and the forms in which it is shown.

How a tokenizer writes bytes as pieces is read from its own parts (`PieceFormat.of`), not from its pieces.
"""

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lexiscope.records import Token

MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def _byte_of() -> dict[str, int]:
    """The inverse of GPT-2's `bytes_to_unicode`, which writes each byte as a printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)})
    return table


BYTE_OF = _byte_of()
_STAND_INS = frozenset(BYTE_OF)
_STAND_IN = {byte: char for char, byte in BYTE_OF.items()}
_TO_BYTES = {ord(char): byte for char, byte in BYTE_OF.items()}


class PieceFormat(NamedTuple):
    """How a tokenizer writes the bytes of a token as a piece of its vocabulary."""

    byte_level: bool = False
    """each byte is one printable character, as in GPT-2: 'Ġthe'"""
    space: str = ""
    """the character that stands for a space, as in SentencePiece: '▁the'"""
    byte_fallback: bool = False
    """'<0x0A>' is one byte"""
    continues: str = ""
    """begins a piece that goes on with a word, as in WordPiece and some BPE: '##ing'"""
    ends: str = ""
    """ends a piece that ends a word, as in GPT-1: 'the</w>'"""
    joins: bool = False
    """the bytes of a text's tokens, one after another, are the text; its own decoder would do otherwise"""

    @classmethod
    def of(cls, tokenizer: Any) -> "PieceFormat":
        """The format of a Hugging Face tokenizer."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return cls._of_python_tokenizer(tokenizer)
        parts = [
            part for which in ("normalizer", "pre_tokenizer", "decoder") for part in _parts(backend, which)
        ]
        kinds = {part["type"] for part in parts}
        model = backend.model
        space = next((space for space in map(_space, parts) if space), "")
        byte_level = "ByteLevel" in kinds
        return cls(
            byte_level=byte_level,
            space=space,
            byte_fallback="ByteFallback" in kinds or bool(getattr(model, "byte_fallback", False)),
            continues=getattr(model, "continuing_subword_prefix", None) or "",
            ends=getattr(model, "end_of_word_suffix", None) or "",
            # a byte-level decoder takes an added token such as 'đem' for the stand-ins of bytes; without a
            # decoder, tokens are joined by spaces
            joins=byte_level or (backend.decoder is None and _keeps_spaces(backend, space)),
        )

    @classmethod
    def _of_python_tokenizer(cls, tokenizer: Any) -> "PieceFormat":
        """For tokenizers without a `tokenizers` backend."""
        if hasattr(tokenizer, "byte_encoder"):
            return cls(byte_level=True, joins=True)
        pieces = tokenizer.get_vocab()
        return cls(
            space="▁" if hasattr(tokenizer, "sp_model") else "",
            byte_fallback="<0x0A>" in pieces,
            continues="##" if hasattr(tokenizer, "wordpiece_tokenizer") else "",
        )

    def raw(self, piece: str | bytes) -> bytes:
        """The bytes that a piece of the model's vocabulary stands for."""
        if isinstance(piece, bytes):  # tiktoken's own vocabularies
            return piece
        if self.byte_level:
            return (
                piece.translate(_TO_BYTES).encode("latin-1")
                if _STAND_INS.issuperset(piece)
                else piece.encode()
            )
        if self.byte_fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        if self._goes_on(piece):
            piece = piece.removeprefix(self.continues)
        if self.ends and piece.endswith(self.ends):
            piece = piece.removesuffix(self.ends) + " "
        return (piece.replace(self.space, " ") if self.space else piece).encode()

    def shown(self, piece: str | bytes, raw: bytes) -> str:
        """One line that differs for different pieces; `raw` is what the piece stands for."""
        return self.continues + shown(raw) if self._goes_on(piece) else shown(raw) or "⟨empty⟩"

    def _goes_on(self, piece: str | bytes) -> bool:
        if not self.continues or isinstance(piece, bytes):
            return False
        return piece.startswith(self.continues) and piece != self.continues


def _parts(backend: Any, which: str) -> Iterator[dict[str, Any]]:
    """The settings of a tokenizer's normalizer, pre-tokenizer or decoder, sequences taken apart."""
    component = getattr(backend, which)
    if component is None:
        return
    try:
        waiting = [json.loads(component.__getstate__())]
    except Exception:  # written in Python: it has no settings to read
        return
    while waiting:
        part = waiting.pop(0)
        yield part
        for name in ("normalizers", "pretokenizers", "decoders"):
            waiting += part.get(name, [])


def _keeps_spaces(backend: Any, space: str) -> bool:
    """Whether the pieces of a text hold its white space, itself or as `space`."""
    text = "a b"
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is not None:
        text = "".join(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    return (text.replace(space, " ") if space else text).strip() == "a b"


def _space(part: dict[str, Any]) -> str:
    """The character that a part of a tokenizer puts in the place of a space, if it does."""
    if part["type"] == "Metaspace":
        return str(part.get("replacement", "▁"))
    if part["type"] == "Replace":
        pattern = part.get("pattern", {}).get("String", "")
        if part.get("content") == " ":
            return str(pattern)
        return str(part.get("content", "")) if pattern == " " else ""
    return ""


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


def plain(raw: bytes, shown: str) -> str:
    """A token as the text it stands for, as other tools write it: parts of a character as the characters that
    GPT-2 writes for bytes ('âĢ'), a token without bytes as it is shown.
    """
    if not raw:
        return shown
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(_STAND_IN[byte] for byte in raw)


def _visible(text: str) -> str:
    if text.isprintable():
        return text.replace(" ", "␣")
    return "".join(MARKS.get(char, char if char.isprintable() else f"⟨U+{ord(char):04X}⟩") for char in text)


class Run(NamedTuple):
    """Consecutive tokens that are read as one: no character or joined emoji is cut at its ends."""

    first: int
    end: int
    """after the last"""
    text: str
    """to be read in a line of text; bytes that are no character as ⟨hex⟩"""


JOINER = "\u200d"
JOINS_THE_NEXT = {"⟨U+200C⟩": "\u200c", "⟨U+200D⟩": JOINER}
"""Characters without a form of their own that shape those around them, as in Persian and in emoji."""
IN_A_LINE = {"␣": " ", **JOINS_THE_NEXT}


def readable_runs(raws: Sequence[bytes], forms: Sequence[str]) -> list[Run]:
    """The runs of a passage's tokens, given their bytes and shown forms."""
    runs: list[Run] = []
    for first, end in whole_characters(raws):
        text = forms[first] if end == first + 1 else shown(b"".join(raws[first:end]))
        for mark, char in IN_A_LINE.items():
            text = text.replace(mark, char)
        if runs and (text.startswith(JOINER) or runs[-1].text.endswith(JOINER)):
            before = runs.pop()
            runs.append(Run(before.first, end, before.text + text))
        else:
            runs.append(Run(first, end, text))
    return runs


def whole_characters(raws: Sequence[bytes]) -> list[tuple[int, int]]:
    """Consecutive runs (first, after the last) of tokens at whose ends no character is cut; `raws` are the
    tokens' bytes. Bytes that belong to no character cut nothing.
    """
    runs: list[tuple[int, int]] = []
    first = 0
    pending = b""
    for place, raw in enumerate(raws):
        if pending and not _goes_on(pending, raw):
            runs.append((first, place))
            first, pending = place, b""
        pending = _cut_character(pending + raw)
        if not pending:
            runs.append((first, place + 1))
            first = place + 1
    return [*runs, (first, len(raws))] if first < len(raws) else runs


def _cut_character(raw: bytes) -> bytes:
    """The bytes at the end that begin a character and do not end it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(raw)
    return decoder.getstate()[0]


def _goes_on(pending: bytes, raw: bytes) -> bool:
    """Whether `raw` goes on with the character that `pending` begins."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(pending + raw[:1])
    except UnicodeDecodeError:
        return False
    return bool(raw)


def folded(raw: bytes) -> str:
    """The spelling without case and surrounding space, which search without exact case compares."""
    return raw.decode(errors="replace").strip().casefold()


class Vocabulary:
    """Bytes and shown form of every row of W_E. Rows without a token (padding) are shown as ⟨unused id⟩.

    Special tokens and tokens that were added to a byte-level vocabulary are spelled as they are.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.format = PieceFormat.of(tokenizer)
        self.raw: list[bytes] = [b""] * size
        self.shown: list[str] = [f"⟨unused {index}⟩" for index in range(size)]
        spelled = spelled_out(tokenizer, self.format)
        for piece, index in tokenizer.get_vocab().items():
            if index >= size:
                continue
            if index in spelled:
                self.raw[index] = piece.encode()
                self.shown[index] = piece if spelled[index] else shown(self.raw[index])
            else:
                self.raw[index] = raw = self.format.raw(piece)
                self.shown[index] = self.format.shown(piece, raw)

    def __len__(self) -> int:
        return len(self.raw)

    def token(self, index: int) -> Token:
        return Token(id=index, shown=self.shown[index], raw=self.raw[index].hex())

    def folded(self) -> list[str]:
        return [folded(raw) for raw in self.raw]


def spelled_out(tokenizer: Any, form: PieceFormat) -> dict[int, bool]:
    """{id: whether it is special} of the tokens whose piece is their text and not in the vocabulary's format.

    Tokens added to a SentencePiece vocabulary are matched after spaces became '▁', and so are in its format.
    """
    special = set(tokenizer.all_special_ids)
    added = {index: token.special for index, token in tokenizer.added_tokens_decoder.items()}
    added |= dict.fromkeys(special, True)
    return {index: is_special for index, is_special in added.items() if is_special or not form.space}
