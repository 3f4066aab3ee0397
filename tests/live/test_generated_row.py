"""The text of a row during generation, and the reason for its end."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from server.live.generation import GeneratedRow

MODEL = SimpleNamespace(text=lambda tokens: "".join(map(chr, tokens)), end_tokens=frozenset({0}))


def written(text, *, stop=(), max_tokens=10**6):
    row, shown = GeneratedRow(MODEL, [], max_tokens=max_tokens, stop=stop), []
    for character in text:
        shown.append(row.add(ord(character)))
        if row.end:
            break
    return row, shown


def test_a_row_ends_before_a_stop_text_that_spans_tokens():
    row, shown = written("one two, three", stop=["o, t", "three"])
    assert row.text == "".join(shown) == "one tw" and row.end == "stop"


def test_the_earlier_of_two_stop_texts_counts():
    assert written("abcd", stop=["cd", "bc"])[0].text == "a"


def test_text_that_only_began_like_a_stop_text_is_shown():
    row, _ = written("one, two, four", stop=["two, three"], max_tokens=14)
    assert row.text == "one, two, four" and row.end == "length"


def test_the_end_of_text_token_releases_text_that_was_held_back():
    row, _ = written("ab\0", stop=["bc"])
    assert row.text == "ab" and row.end == "end" and len(row.tokens) == 3


@given(text=st.text("abc", max_size=30), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_shown_is_the_text_before_the_first_stop(text, stop):
    row, shown = written(text, stop=stop, max_tokens=len(text))
    # A stop text counts when it is whole: the row ends there, before whichever began first in what was
    # written so far.
    ends = [n for n in range(len(text) + 1) if any(s in text[:n] for s in stop)]
    expected = (
        text if not ends else text[: min(text[: ends[0]].find(s) for s in stop if s in text[: ends[0]])]
    )
    assert row.text == "".join(shown) == expected
