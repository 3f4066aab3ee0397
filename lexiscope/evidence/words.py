"""Words: tokens that differ in case, outer space or inflection are one.

Punctuation, digits and pieces of characters are words of their own.
"""

from collections.abc import Sequence

import numpy as np

from lexiscope.runs import run_starts
from lexiscope.tokens import folded

ENDINGS = ("s", "es", "ed", "d", "ing", "ly", "'s")
"""what an inflection adds to a spelling"""
VOWELS = frozenset("aeiouy")
MIN_STEM = 3


def words_of(raws: Sequence[bytes]) -> np.ndarray:
    """[vocab] the word of each token, from the tokens' bytes: the smallest token id of that word.

    Tokens of one spelling but for case and outer space are one word. So is an inflected spelling with its
    stem, where both occur with a space before them: otherwise the beginnings of other words (`str`, `thi`)
    would pass for stems.
    """
    spellings = [folded(raw) if _is_letters(raw) else "" for raw in raws]
    begins = {spelling for raw, spelling in zip(raws, spellings, strict=True) if spelling and raw[:1] == b" "}
    first: dict[str, int] = {}
    found = np.arange(len(raws), dtype=np.int32)
    for token, spelling in enumerate(spellings):
        if spelling:
            found[token] = first.setdefault(_root(spelling, begins), token)
    return found


def shown_tokens(words: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    """[vocab] the token that shows each word, its commonest (of equals the smallest id), at the word's
    number; occurrences [vocab] of the tokens.
    """
    order = np.lexsort((np.arange(len(words)), -occurrences, words))
    ordered = words[order]
    first = run_starts(ordered)
    shown = np.arange(len(words), dtype=np.int32)
    shown[ordered[first]] = order[first]
    return shown


def _is_letters(raw: bytes) -> bool:
    try:
        return raw.decode().strip().isalpha()
    except UnicodeDecodeError:
        return False


def _root(spelling: str, begins: set[str]) -> str:
    """The spelling without its endings, as long as what is left begins words of the vocabulary."""
    while spelling in begins:
        stems = (spelling.removesuffix(ending) for ending in ENDINGS if _may_end(spelling, ending))
        stem = next((stem for stem in stems if stem in begins), None)
        if stem is None:
            break
        spelling = stem
    return spelling


def _may_end(spelling: str, ending: str) -> bool:
    """Whether the ending could be one: `used` is `use` + d, but `card` is not `car` + d."""
    stem = spelling.removesuffix(ending)
    if stem == spelling or len(stem) < MIN_STEM or not VOWELS & set(stem):
        return False
    if ending == "d":
        return stem.endswith("e") and not stem.endswith("ee")
    return not (ending == "s" and stem.endswith(("s", "u", "i")))
