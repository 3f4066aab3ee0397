"""Streamed text is the decoded text, whatever tokens its characters are split over."""

from hypothesis import given
from hypothesis import strategies as st

from server.live.generation.detokenise import Detokeniser


def decode(tokens):
    return bytes(tokens).decode(errors="replace")


@given(prompt=st.text(), text=st.text())
def test_each_character_is_returned_once_and_complete(prompt, text):
    row = Detokeniser(decode, list(prompt.encode()))
    pieces = [row.add(byte) for byte in text.encode()]
    assert "".join(pieces) + row.rest() == text == row.text
    assert all("\ufffd" not in piece for piece in pieces if "\ufffd" not in text)


@given(tokens=st.lists(st.integers(0, 255)))
def test_bytes_that_are_not_text_are_returned_at_the_end(tokens):
    row = Detokeniser(decode, [])
    pieces = [row.add(byte) for byte in tokens]
    assert "".join(pieces) + row.rest() == decode(tokens)


def test_a_tokenizer_that_drops_the_first_space_does_not_drop_it_here():
    words = {0: " once", 1: " upon", 2: " a"}
    row = Detokeniser(lambda tokens: "".join(words[token] for token in tokens).removeprefix(" "), [0])
    assert [row.add(1), row.add(2)] == [" upon", " a"]
