"""What text to read: files or data sets, and the field of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

FORMATS = ".txt .jsonl .json .parquet .csv .tsv, also .gz .xz .bz2 .zst"


@dataclass(frozen=True)
class Text(Sequence[str]):
    """Sources of text, read in turn. It takes the place of a sequence of them."""

    sources: tuple[str, ...]
    """files (FORMATS), or names of Hugging Face data sets"""
    field: str | None = None
    """of each row, dots for nested fields; `text`, else `messages`, unless given"""
    chat: bool = False
    """read every document as the user's message or, where it spells out special tokens, as those tokens"""

    @classmethod
    def of(cls, text: "Text | Sequence[str]") -> "Text":
        return text if isinstance(text, Text) else cls(tuple(text))

    def __getitem__(self, index: Any) -> Any:
        return self.sources[index]

    def __len__(self) -> int:
        return len(self.sources)

    def __str__(self) -> str:
        return ", ".join(self.sources)

    def names(self) -> list[str]:
        """Of files without their folders, and of data sets."""
        return [Path(source).name if Path(source).exists() else source for source in self.sources]


def fingerprint(text: Text | Sequence[str]) -> str:
    """A short id of a text: file names and contents, or a data set's name, and how they are read."""
    text = Text.of(text)
    digest = sha256()
    for source in text.sources:
        digest.update(Path(source).name.encode())
        if Path(source).is_file():
            with open(source, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    if text.field is not None:
        digest.update(f"field {text.field}".encode())
    if text.chat:
        digest.update(b"chat")
    return digest.hexdigest()[:12]
