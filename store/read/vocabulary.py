"""One model's vocabulary, held in memory for search: which tokens a query matches, in what order, and how
many features each token names.

Tokens are in the order of their occurrences in the corpus, so that matches come best first and a search may
stop when it has enough. All spellings are joined into one string; Python's substring search takes about a
millisecond for a whole vocabulary.
"""

import heapq
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from lexiscope import tokens
from lexiscope.records import Token

MATCHES = ("exact", "exact", "exact", "id", "prefix", "substring")
"""Tiers of a search, best first: as spelled; but for case and outer space; other tokens of these words; by
id; beginnings; middles.
"""
SEPARATOR = "\ud800"
"""A lone surrogate, which no token's text can hold."""
MAX_QUERY = 200
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r"}
"""White space that a field of one line cannot hold, as it is written in most languages."""
HEX_BYTE = re.compile(r"(?:<?0x|\\x|⟨)([0-9a-fA-F]{2})[>⟩]?[\s,]*")
HEXADECIMAL = re.compile(rf"\s*(?:{HEX_BYTE.pattern})+")
MAX_ID = 2**31 - 1


class VocabularyEntry(NamedTuple):
    """A row of `token`, with the number of features that it names."""

    token: Token
    folded: str
    word: int
    """the smallest token id of its word"""
    occurrences: int
    n_features: int


class JoinedSpellings:
    """Texts in an order, joined to be searched together."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._joined = SEPARATOR + SEPARATOR.join(texts) + SEPARATOR
        self._ends = list(accumulate(len(text) + 1 for text in texts))

    def find(self, wanted: str) -> Iterator[int]:
        """Places of the texts that contain `wanted`, ascending; SEPARATOR in it is a text's
        beginning or end.
        """
        at = self._joined.find(wanted)
        while at >= 0:
            place = bisect_right(self._ends, at)
            yield place
            at = self._joined.find(wanted, self._ends[place])


class SearchVocabulary:
    """The tokens of a model; `place` is a token's rank by occurrences, 0 the most frequent."""

    def __init__(self, model: str, entries: Sequence[VocabularyEntry]) -> None:
        self.model = model
        self.entries = sorted(entries, key=lambda entry: (-entry.occurrences, entry.token.id))
        self.n_tokens = sum(entry.occurrences for entry in entries)
        self.place_of = {entry.token.id: place for place, entry in enumerate(self.entries)}
        self._by_id = {entry.token.id: entry.token for entry in entries}
        self._by_word: dict[int, list[int]] = {}
        for place, entry in enumerate(self.entries):
            self._by_word.setdefault(entry.word, []).append(place)
        self._shown = JoinedSpellings([entry.token.shown for entry in self.entries])
        self._folded = JoinedSpellings([entry.folded for entry in self.entries])

    def get(self, token_id: int) -> Token:
        """A token by id. One outside the vocabulary is shown as a padding row of W_E, or (−1) as an unknown
        string of an import.
        """
        known = self._by_id.get(token_id)
        return known or Token(id=token_id, shown="⟨unknown⟩" if token_id < 0 else f"⟨unused {token_id}⟩")

    def shown(self, token_ids: Sequence[int]) -> list[Token]:
        """Tokens by id."""
        try:
            return list(map(self._by_id.__getitem__, token_ids))
        except KeyError:
            return list(map(self.get, token_ids))

    def spelled(self, shown: str) -> list[Token]:
        """Tokens whose shown form is exactly this, by id."""
        places = self._shown.find(SEPARATOR + shown + SEPARATOR)
        return sorted((self.entries[place].token for place in places), key=lambda token: token.id)

    def variants(self, token_id: int) -> list[VocabularyEntry]:
        """Other tokens of the same folded spelling, most frequent first."""
        own = self.entries[self.place_of[token_id]]
        alike = (self.entries[place] for place in self._folded.find(SEPARATOR + own.folded + SEPARATOR))
        return [entry for entry in alike if entry.token.id != token_id]

    def word(self, token_id: int) -> int:
        """The smallest token id of a token's word; a token outside the vocabulary is a word of its own."""
        place = self.place_of.get(token_id)
        return token_id if place is None else self.entries[place].word

    def of_word(self, token_id: int) -> list[int]:
        """Ids of all tokens of a token's word, itself included, most frequent first."""
        places = self._by_word.get(self.word(token_id))
        return [token_id] if places is None else [self.entries[place].token.id for place in places]

    def naming(self, entry: VocabularyEntry) -> Token | None:
        """The commonest token of an entry's word that names features; None where the entry itself does."""
        if entry.n_features:
            return None
        forms = (self.entries[place] for place in self._by_word[entry.word])
        return next((form.token for form in forms if form.n_features), None)

    def _same_words(self, places: Iterator[int]) -> Iterator[int]:
        """Places of all tokens of the words of some tokens, ascending."""
        words = {self.entries[place].word for place in places}
        return iter(sorted(place for word in words for place in self._by_word[word]))

    def matches(self, readings: Sequence["TokenQuery"]) -> list[Iterator[int]]:
        """For each tier of MATCHES, the places of the tokens that match any reading of a query, ascending; a
        token may come again, in the same tier or a later one.
        """
        tiers = [self._matches(query) for query in readings]
        return [heapq.merge(*of_tier) for of_tier in zip(*tiers, strict=True)] or [iter(())] * len(MATCHES)

    def _matches(self, query: "TokenQuery") -> list[Iterator[int]]:
        shown, folded, outside = self._shown, self._folded, SEPARATOR
        by_id = [self.place_of[query.token_id]] if query.token_id in self.place_of else []
        exact = shown.find(outside + query.shown + outside)
        if query.only_id:
            return [exact, iter(()), iter(()), iter(by_id), iter(()), iter(())]
        if not query.folded:  # white space alone folds to nothing, which is in every token
            begins = (place for place in shown.find(outside + query.shown) if not self.entries[place].folded)
            return [exact, iter(()), iter(()), iter(()), begins, iter(())]
        return [
            exact,
            folded.find(outside + query.folded + outside),
            self._same_words(folded.find(outside + query.folded + outside)),
            iter(by_id),
            heapq.merge(folded.find(outside + query.folded), shown.find(outside + query.shown)),
            heapq.merge(folded.find(query.folded), shown.find(query.shown)),
        ]


class TokenQuery(NamedTuple):
    """What a person typed, in the spellings of the vocabulary."""

    shown: str
    folded: str
    token_id: int
    """−1 where the query is not a token id"""
    only_id: bool
    """it was written `#123`"""


def parse(query: str) -> list[TokenQuery]:
    """What a query may mean, the likeliest first; none for one that matches nothing: an empty one, or one too
    long to be a token. `\\n` is a line break or, in code, a backslash and an n; `0x0A` is a byte.
    """
    if not query or len(query) > MAX_QUERY:
        return []
    if re.fullmatch(r"#[0-9]+", query):
        return [TokenQuery(query, "", _id(query[1:]), True)]
    if raw := _bytes(query):
        return [_query(raw), _query(query.encode(errors="replace"))]
    plain = unmarked(query)
    unescaped = plain
    for written, meant in ESCAPES.items():
        unescaped = unescaped.replace(written, meant)
    return [_query(text.encode(errors="replace")) for text in dict.fromkeys((unescaped, plain))]


def _query(natural: bytes) -> TokenQuery:
    folded = storable(tokens.folded(natural))
    number = _id(folded) if re.fullmatch(r"[0-9]+", folded) else -1
    return TokenQuery(tokens.shown(natural), folded, number, False)


def _bytes(query: str) -> bytes:
    """The bytes of `0xE2 0x80`, `\\xe2\\x80`, `<0xE2><0x80>` or ⟨E2⟩⟨80⟩; none for other text."""
    if not HEXADECIMAL.fullmatch(query):
        return b""
    return bytes.fromhex("".join(HEX_BYTE.findall(query)))


def unmarked(query: str) -> str:
    """The text that a query stands for: ␣ typed by hand is a space."""
    for plain, mark in tokens.MARKS.items():
        query = query.replace(mark, plain)
    return query


def storable(text: str) -> str:
    """PostgreSQL cannot hold NUL in text; both databases hold ␀ instead."""
    return text.replace("\0", "␀")


def _id(digits: str) -> int:
    return int(digits) if len(digits) < 11 and int(digits) <= MAX_ID else -1
