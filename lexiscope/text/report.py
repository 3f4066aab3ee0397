"""Counts of what was read of a text and what was left out."""

from collections import Counter
from dataclasses import dataclass, field

SHOWN = 3
"""special tokens that are named"""


@dataclass
class TextReport:
    """One reading of a text, counted as it goes on."""

    documents: int = 0
    """that gave at least one passage"""
    passages: int = 0
    tokens: int = 0
    """of the passages, BOS not counted"""
    empty: int = 0
    """documents without text: null, or white space alone"""
    short: int = 0
    """documents too short for a passage"""
    longest_short: int = 0
    """tokens of the longest of these"""
    ends: int = 0
    """tokens at the ends of documents, too few for a passage"""
    surrogates: int = 0
    """documents in which half a surrogate pair became U+FFFD"""
    unknown: int = 0
    """tokens that stand for what the tokenizer does not know"""
    spelled: Counter[str] = field(default_factory=Counter)
    """documents that spell out a special token, by token"""
    ended: bool = False
    """the text was read to its end"""
    notes: list[str] = field(default_factory=list)
    """about sources"""

    def sentence(self) -> str:
        """One line of words."""
        read = (
            f"Read {_counted(self.tokens, 'token')} in {_counted(self.passages, 'passage')}"
            f" of {_counted(self.documents, 'document')}"
        )
        parts = [f"{read}{'' if self.ended else ', where reading stopped'}; {self.left_out()}"]
        if self.surrogates:
            parts.append(f"half a surrogate pair was replaced in {_counted(self.surrogates, 'document')}")
        if self.unknown:
            parts.append(f"the tokenizer does not know what {_counted(self.unknown, 'token')} stood for")
        if self.spelled:
            named = ", ".join(token for token, _ in self.spelled.most_common(SHOWN))
            more = " and others" if len(self.spelled) > SHOWN else ""
            parts.append(
                f"{named}{more} spelled out in the text were read as characters (--chat reads them as tokens)"
            )
        return "; ".join([*parts, *self.notes]) + "."

    def left_out(self) -> str:
        """What was not read, in words."""
        parts = [
            f"{_counted(self.empty, 'document')} without text" if self.empty else "",
            f"{_counted(self.short, 'document')} too short for a passage" if self.short else "",
            f"{_counted(self.ends, 'token')} at the ends of documents" if self.ends else "",
        ]
        said = [part for part in parts if part]
        return f"left out: {', '.join(said)}" if said else "nothing was left out"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
