"""Tokens are shown so that different tokens look different."""

from hypothesis import given
from hypothesis import strategies as st

from lexiscope.language_model import LanguageModel
from lexiscope.tokens import BYTE_OF, Vocabulary, folded, raw_bytes, shown


def test_paris_with_and_without_its_space_look_different() -> None:
    assert shown(b" Paris") == "␣Paris" != shown(b"Paris")


def test_newline_tab_and_a_partial_character_are_visible() -> None:
    assert shown(b"\n\t") == "↵⇥"
    assert shown("é".encode()[:1]) == "⟨C3⟩"
    assert shown(b"a" + "é".encode()[:1]) == "a⟨C3⟩"


@given(st.binary(max_size=12))
def test_every_byte_string_round_trips_through_its_byte_level_piece(raw: bytes) -> None:
    char_of = {byte: char for char, byte in BYTE_OF.items()}
    assert raw_bytes("".join(char_of[b] for b in raw), byte_level=True) == raw


@given(st.binary(min_size=1, max_size=6), st.binary(min_size=1, max_size=6))
def test_different_single_tokens_of_whole_characters_are_shown_differently(one: bytes, other: bytes) -> None:
    if (
        one != other
        and one.isascii()
        and other.isascii()
        and one.decode().isprintable()
        and other.decode().isprintable()
    ):
        assert shown(one) != shown(other)


def test_sentencepiece_spaces_and_byte_pieces_are_decoded() -> None:
    assert raw_bytes("▁the", byte_level=False) == b" the"
    assert raw_bytes("<0x0A>", byte_level=False) == b"\n"


def test_folding_forgets_case_and_leading_space() -> None:
    assert folded(b" Paris") == folded(b"PARIS") == "paris"


def test_every_row_of_the_embedding_has_a_form_even_where_the_tokenizer_knows_none(
    model: LanguageModel,
) -> None:
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size + 2)
    assert len(vocabulary) == model.vocab_size + 2
    assert "unused" in vocabulary.token(model.vocab_size + 1).shown
    for text in ("the", " cat", " Paris"):
        (first, *_) = model.tokenise(text)
        assert text.startswith(vocabulary.raw[first].decode())
