"""A token's bytes are those that the tokenizer means, and different tokens look different."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from lexiscope.language_model import LanguageModel
from lexiscope.tokens import BYTE_OF, PieceFormat, Vocabulary, folded, shown, whole_characters

TEXT = ["Café größe naïve ½ đem č the cat sat on the mat 女の子 ילדה\n"] * 20
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<s>"], vocab_size=400, initial_alphabet=alphabet)
    made.train_from_iterator(TEXT, trainer)
    return made


def byte_level_without_decoder() -> Tokenizer:
    made = byte_level()
    made.decoder = decoders.Fuse()
    return made


def byte_level_after_a_split() -> Tokenizer:
    """As DeepSeek and Llama 3."""
    made = byte_level()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return made


def sentencepiece() -> Tokenizer:
    """As Llama 2: byte fallback, and spaces by a normalizer."""
    pieces = ["<s>", *BYTES, "▁", "▁the", "▁cat", "é", "č", "女", "▁▁"]
    made = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<s>")
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<s>"])
    return made


def unigram() -> Tokenizer:
    """As XGLM: no byte fallback, so that '<0x0A>' is six characters."""
    pieces = [("<s>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("é", -2.0), ("č", -2.0), ("<0x0A>", -3.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<s>"])
    return made


def wordpiece() -> Tokenizer:
    """As BERT, and Chinese GPT-2."""
    pieces = ["<s>", "the", "##ing", "é", "##é", "č", "女", "##", "[unused1]"]
    made = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["<s>"])
    return made


def bpe_with_continuations() -> Tokenizer:
    """As XLM's and other BPE that marks what goes on with a word, like WordPiece."""
    pieces = ["<s>", "the", "##ing", "##é", "é", "##"]
    made = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], continuing_subword_prefix="##", unk_token="<s>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>"])
    return made


def character_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=["<s>"]))
    return made


def words() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"<s>": 0, "the": 1, "größe": 2, "č": 3, "Ġ": 4}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>"])
    return made


def word_endings() -> Tokenizer:
    """As GPT-1 and CLIP."""
    pieces = ["<s>", "the</w>", "the", "é</w>", "č"]
    made = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], end_of_word_suffix="</w>"))
    made.decoder = decoders.BPEDecoder("</w>")
    made.add_special_tokens(["<s>"])
    return made


def wrapped(made: Tokenizer, *added: str | AddedToken) -> Any:
    made.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def vocabulary(made: Tokenizer, *added: str | AddedToken) -> dict[str, tuple[bytes, str]]:
    """{piece: (bytes, shown form)}"""
    tokenizer = wrapped(made, *added)
    known = Vocabulary(tokenizer, len(tokenizer))
    return {piece: (known.raw[token], known.shown[token]) for piece, token in tokenizer.get_vocab().items()}


@pytest.mark.parametrize(
    ("make", "piece", "raw", "form"),
    [
        (byte_level, "Ġ", b" ", "␣"),
        (byte_level, "Ċ", b"\n", "↵"),
        (byte_level, "ç", b"\xe7", "⟨E7⟩"),
        (byte_level_without_decoder, "Ġ", b" ", "␣"),
        (byte_level_after_a_split, "Ġ", b" ", "␣"),
        (sentencepiece, "▁the", b" the", "␣the"),
        (sentencepiece, "▁▁", b"  ", "␣␣"),
        (sentencepiece, "<0x0A>", b"\n", "↵"),
        (sentencepiece, "<0xE5>", b"\xe5", "⟨E5⟩"),
        (sentencepiece, "é", "é".encode(), "é"),
        (sentencepiece, "女", "女".encode(), "女"),
        (unigram, "▁the", b" the", "␣the"),
        (unigram, "é", "é".encode(), "é"),
        (unigram, "<0x0A>", b"<0x0A>", "<0x0A>"),
        (wordpiece, "the", b"the", "the"),
        (wordpiece, "##ing", b"ing", "##ing"),
        (wordpiece, "##é", "é".encode(), "##é"),
        (wordpiece, "é", "é".encode(), "é"),
        (wordpiece, "女", "女".encode(), "女"),
        (wordpiece, "##", b"##", "##"),
        (bpe_with_continuations, "##ing", b"ing", "##ing"),
        (bpe_with_continuations, "##é", "é".encode(), "##é"),
        (bpe_with_continuations, "##", b"##", "##"),
        (character_level, "é", "é".encode(), "é"),
        (character_level, "ß", "ß".encode(), "ß"),
        (character_level, "½", "½".encode(), "½"),
        (character_level, " ", b" ", "␣"),
        (character_level, "\n", b"\n", "↵"),
        (words, "größe", "größe".encode(), "größe"),
        (words, "Ġ", "Ġ".encode(), "Ġ"),
        (word_endings, "the</w>", b"the ", "the␣"),
        (word_endings, "the", b"the", "the"),
        (word_endings, "é</w>", "é ".encode(), "é␣"),
    ],
)
def test_a_piece_stands_for_the_bytes_its_tokenizer_means(
    make: Callable[[], Tokenizer], piece: str, raw: bytes, form: str
) -> None:
    assert vocabulary(make())[piece] == (raw, form)


MAKERS = (byte_level, sentencepiece, unigram, wordpiece, character_level, words, word_endings)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("piece", ["đem", "größe", "½", "Ġx", "小さな", "naïve", "a b"])
def test_an_added_token_is_its_own_text(make: Callable[[], Tokenizer], piece: str) -> None:
    known = vocabulary(make(), piece, "wug")
    assert known[piece] == (piece.encode(), piece.replace(" ", "␣"))


@pytest.mark.parametrize("make", MAKERS)
def test_special_tokens_are_shown_as_they_are_spelled(make: Callable[[], Tokenizer]) -> None:
    special = AddedToken("<|é ▁|>", special=True)
    known = vocabulary(make(), special)
    assert known["<|é ▁|>"] == ("<|é ▁|>".encode(), "<|é ▁|>")
    assert known["<s>"] == (b"<s>", "<s>")


def test_a_space_added_to_sentencepiece_is_a_space() -> None:
    assert vocabulary(sentencepiece(), "▁wug")["▁wug"] == (b" wug", "␣wug")


@pytest.mark.parametrize("make", [byte_level, sentencepiece, character_level])
def test_the_bytes_of_a_texts_tokens_are_the_text(make: Callable[[], Tokenizer]) -> None:
    tokenizer = wrapped(make(), "đem", "naïve")
    known = Vocabulary(tokenizer, len(tokenizer))
    text = " the cat č" if make is sentencepiece else "Café größe naïve đem č the cat"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    spelled = [token for token in tokens if known.shown[token] != "<s>"]
    assert b"".join(known.raw[token] for token in spelled).decode().strip() in text
    assert make is sentencepiece or b"".join(known.raw[token] for token in tokens).decode() == text


def test_paris_with_and_without_its_space_look_different() -> None:
    assert shown(b" Paris") == "␣Paris" != shown(b"Paris")


def test_newline_tab_and_a_partial_character_are_visible() -> None:
    assert shown(b"\n\t") == "↵⇥"
    assert shown("é".encode()[:1]) == "⟨C3⟩"
    assert shown(b"a" + "é".encode()[:1]) == "a⟨C3⟩"
    assert shown("a\u200db".encode()) == "a⟨U+200D⟩b"


@given(st.binary(max_size=12))
def test_every_byte_string_round_trips_through_its_byte_level_piece(raw: bytes) -> None:
    char_of = {byte: char for char, byte in BYTE_OF.items()}
    assert PieceFormat(byte_level=True).raw("".join(char_of[b] for b in raw)) == raw


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


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=12))
def test_runs_of_whole_characters_hold_every_token_once_and_join_what_a_cut_parts(raws: list[bytes]) -> None:
    runs = whole_characters(raws)
    assert [place for first, end in runs for place in range(first, end)] == list(range(len(raws)))
    whole = b"".join(raws).decode(errors="replace")
    assert "".join(b"".join(raws[a:b]).decode(errors="replace") for a, b in runs) == whole


@given(st.text(max_size=8), st.integers(1, 3))
def test_the_tokens_of_a_whole_text_join_into_its_characters(text: str, size: int) -> None:
    raw = text.encode()
    raws = [raw[start : start + size] for start in range(0, len(raw), size)]
    for first, end in whole_characters(raws):
        b"".join(raws[first:end]).decode()


def test_a_character_is_joined_over_its_tokens_and_no_further() -> None:
    girl = "女".encode()
    assert whole_characters([b"a", girl[:2], girl[2:], b"b"]) == [(0, 1), (1, 3), (3, 4)]
    assert whole_characters([girl[:1], b"x", girl[2:]]) == [(0, 1), (1, 2), (2, 3)]
    assert whole_characters([girl[:2], girl[2:] + girl[:1], girl[1:]]) == [(0, 3)]
    assert whole_characters([girl[:2]]) == [(0, 1)]


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
