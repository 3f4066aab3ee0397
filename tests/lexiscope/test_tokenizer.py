"""A model's tokenizer gives no id that the model lacks; conversations go through the model's template."""

import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.language_model.tokenizer import ModelTokenizer
from tests import tiny

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.fixture
def byte_level(tmp_path: Path) -> Any:
    tiny.save_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def characters(**names: str) -> Any:
    pieces = ["?", *names.values(), "a", "b", "c"]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def test_a_tokenizer_without_an_opening_token_is_refused() -> None:
    with pytest.raises(ModelError, match="m has no BOS, EOS or CLS token to open a passage with"):
        ModelTokenizer(characters(), 10, "m")


@pytest.mark.parametrize(
    ("names", "opens"),
    [
        ({"bos_token": "<b>", "eos_token": "<e>"}, "<b>"),
        ({"eos_token": "<e>"}, "<e>"),
        ({"cls_token": "<c>", "sep_token": "<s>"}, "<c>"),
    ],
)
def test_a_passage_opens_with_bos_or_what_stands_for_it(names: dict[str, str], opens: str) -> None:
    tokenizer = characters(**names)
    assert ModelTokenizer(tokenizer, 10, "m").bos == tokenizer.convert_tokens_to_ids(opens)


def test_an_opening_token_without_a_row_is_refused() -> None:
    tokenizer = characters()
    tokenizer.add_special_tokens({"bos_token": "<b>"})
    with pytest.raises(ModelError, match=r"bos_token of m, '<b>' \(id 4\), has no row among the 4"):
        ModelTokenizer(tokenizer, 4, "m")


def test_a_vocabulary_that_is_larger_than_the_embedding_is_refused(byte_level: Any) -> None:
    with pytest.raises(ModelError, match="tokens beyond the 40 rows"):
        ModelTokenizer(byte_level, 40, "m")


def test_an_added_token_without_a_row_is_read_as_text_and_that_is_said(
    byte_level: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before, n_rows = byte_level.encode("two wug here"), len(byte_level)
    byte_level.add_tokens(["wug", "đem"])
    assert max(byte_level.encode("two wug here")) >= n_rows
    with caplog.at_level(logging.WARNING):
        tokenizer = ModelTokenizer(byte_level, n_rows, "m")
    assert tokenizer.encode("two wug here") == before
    assert f"'wug' (id {n_rows}), 'đem' (id {n_rows + 1}): they are read as ordinary text" in caplog.text
    assert tokenizer.decode(before) == "two wug here"


def test_a_special_token_without_a_row_never_comes_from_a_text(
    byte_level: Any, caplog: pytest.LogCaptureFixture
) -> None:
    n_rows = len(byte_level)
    byte_level.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer = ModelTokenizer(byte_level, n_rows, "m")
    assert max(tokenizer.encode("the [PAD] cat")) < n_rows and not caplog.text
    byte_level.chat_template = "[PAD]{{ messages[0].content }}"
    with pytest.raises(ModelError, match=r"no row for '\[PAD\]'"):
        tokenizer.encode_chat("cat")


def test_a_model_whose_tokenizer_grew_loads_and_reads(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "m")
    grown = AutoTokenizer.from_pretrained(folder)
    grown.add_tokens(["wug"])
    grown.save_pretrained(folder)
    model = load_language_model(str(folder))
    assert max(model.tokenise("two wug here")) < model.vocab_size
    assert model.text(model.tokenise("two wug here")) == "two wug here"


def test_a_model_without_bos_and_eos_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "m")
    plain = PreTrainedTokenizerFast(tokenizer_object=AutoTokenizer.from_pretrained(folder).backend_tokenizer)
    plain.save_pretrained(folder)
    with pytest.raises(ModelError, match="no BOS, EOS or CLS token"):
        load_language_model(str(folder))


def test_added_tokens_are_written_as_their_text(byte_level: Any) -> None:
    byte_level.add_tokens(["đem", "naïve"])
    tokenizer = ModelTokenizer(byte_level, len(byte_level), "m")
    text = "the đem and naïve cat 女"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_a_surrogate_pair_is_a_replacement_character(model: LanguageModel) -> None:
    assert model.text(model.tokenise("a \ud83d cat")) == "a \ufffd cat"
    assert model.text(model.tokenise("a \ud83d\ude00 cat")) == "a \U0001f600 cat"


def test_a_conversation_is_read_through_the_models_template(byte_level: Any) -> None:
    byte_level.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    byte_level.chat_template = TEMPLATE
    tokenizer = ModelTokenizer(byte_level, len(byte_level), "m")
    turn = byte_level.convert_tokens_to_ids("<|turn|>")
    question = {"role": "user", "content": "the cat"}
    asked = tokenizer.encode_chat([question])
    assert asked.count(turn) == 2 and tokenizer.bos not in asked  # the caller opens every passage with it
    assert tokenizer.decode(asked) == "<|turn|>user\nthe cat\n<|turn|>assistant\n"
    assert tokenizer.encode_chat("the cat") == asked
    assert tokenizer.encode_chat(tokenizer.decode(asked)) == asked  # already made by the template
    answered = tokenizer.encode_chat([question, {"role": "assistant", "content": "sat"}])
    assert tokenizer.decode(answered) == "<|turn|>user\nthe cat\n<|turn|>assistant\nsat\n"


def test_a_model_without_a_template_and_messages_it_refuses_are_said(byte_level: Any) -> None:
    tokenizer = ModelTokenizer(byte_level, len(byte_level), "m")
    with pytest.raises(ModelError, match="m has no chat template"):
        tokenizer.encode_chat("cat")
    byte_level.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelError, match="refuses these messages: roles must alternate"):
        tokenizer.encode_chat("cat")


def unigram() -> Any:
    pieces = ["<unk>", "</s>", "▁", "▁the", "▁cat", "<", "/", "s", ">"]
    made = Tokenizer(models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(pieces)], unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")


def words() -> Any:
    pieces = ["<unk>", "</s>", "the", "cat"]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


@pytest.mark.parametrize(
    ("make", "pieces"),
    [
        (unigram, ["▁the", "▁", "<", "/", "s", ">", "▁cat", "▁", "<unk>"]),
        (words, ["the", "<unk>", "<unk>", "<unk>", "<unk>", "cat", "<unk>"]),
    ],
)
def test_a_vocabulary_that_finds_special_tokens_as_pieces_reads_their_characters(
    make: Any, pieces: list[str]
) -> None:
    tokenizer = ModelTokenizer(made := make(), 9, "m")
    tokens = tokenizer.encode("the </s> cat ?")
    assert made.convert_ids_to_tokens(tokens) == pieces
    assert tokens.count(tokenizer.unknown) == pieces.count("<unk>")


def test_a_special_token_of_one_character_is_that_character() -> None:
    tokenizer = ModelTokenizer(made := characters(bos_token="\n"), 5, "m")
    assert made.convert_ids_to_tokens(tokenizer.encode("a\nb")) == ["a", "\n", "b"]


def test_the_text_of_characters_has_no_spaces_between_them_and_that_of_words_has() -> None:
    by_character = ModelTokenizer(characters(bos_token="\n"), 5, "m")
    assert by_character.decode(by_character.encode("ab\nc")) == "ab\nc"
    by_word = ModelTokenizer(words(), 4, "m")
    assert by_word.decode(by_word.encode("the cat")) == "the cat"


def test_special_tokens_in_a_text_are_characters_and_are_found(byte_level: Any) -> None:
    byte_level.add_special_tokens({"additional_special_tokens": [AddedToken("<|turn|>", special=True)]})
    tokenizer = ModelTokenizer(byte_level, len(byte_level), "m")
    text = f"<|turn|>user {tiny.END} <|turn|>"
    assert byte_level.convert_tokens_to_ids("<|turn|>") not in tokenizer.encode(text)
    assert byte_level.convert_tokens_to_ids("<|turn|>") in tokenizer.encode(text, special=True)
    assert tokenizer.special_tokens_in(text) == [tiny.END, "<|turn|>"]
    assert tokenizer.special_tokens_in("the cat <|turn") == []
