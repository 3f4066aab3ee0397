"""A model's tokenizer: text and conversations to token ids and back, checked against the model's rows."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from lexiscope.errors import ModelError
from lexiscope.tokens import Vocabulary

logger = logging.getLogger(__name__)

NAMED = 3
"""Tokens that a message names."""


class ModelTokenizer:
    """The Hugging Face tokenizer of a model whose embedding has `n_rows` rows. It gives no id beyond them.
    `name` is the model in messages.

    Raises ModelError: no token to open a passage with, or a vocabulary with more tokens than rows.
    """

    def __init__(self, tokenizer: Any, n_rows: int, name: str) -> None:
        self._name = name
        self._n_rows = n_rows
        self.tokenizer = tokenizer
        self.bos = self._opening_token()
        self._check_rows()

    def _check_rows(self) -> None:
        """Added tokens without a row are dropped, and said: the model was trained on their characters."""
        beyond = {
            token: piece for piece, token in self.tokenizer.get_vocab().items() if token >= self._n_rows
        }
        added = self.tokenizer.added_tokens_decoder
        if not beyond.keys() <= added.keys():
            raise ModelError(
                f"The tokenizer of {self._name} has tokens beyond the {self._n_rows:,} rows of the model's"
                f" embedding, {_listed(beyond)}: it is another model's, or the model was made too small."
            )
        text = {token: piece for token, piece in beyond.items() if not added[token].special}
        if not text:  # special tokens are never read from a text
            return
        lacking = (
            f"The tokenizer of {self._name} has added tokens without a row among the {self._n_rows:,} of the"
            f" model's embedding, {_listed(text)}"
        )
        if not hasattr(self.tokenizer, "backend_tokenizer"):
            raise ModelError(f"{lacking}: remove them from its files.")
        _drop_added_tokens(self.tokenizer, text)
        logger.warning(f"{lacking}: they are read as ordinary text.")

    def _opening_token(self) -> int:
        names = ("bos_token", "eos_token", "cls_token")
        tokens = [(name, getattr(self.tokenizer, f"{name}_id", None)) for name in names]
        given = [(name, token) for name, token in tokens if token is not None]
        if not given:
            raise ModelError(
                f"The tokenizer of {self._name} has no BOS, EOS or CLS token to open a passage with. Give the"
                " token that the model's training texts began with as `bos_token` in tokenizer_config.json."
            )
        name, token = given[0]
        if not 0 <= token < self._n_rows:
            raise ModelError(
                f"The {name} of {self._name}, {getattr(self.tokenizer, name)!r} (id {token}), has no row"
                f" among the {self._n_rows:,} of the model's embedding: it cannot open a passage."
            )
        return int(token)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Bytes and shown form of each row of the embedding."""
        return Vocabulary(self.tokenizer, self._n_rows)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS. Special tokens spelled out in it are read as characters, or, with
        `special`, as the tokens. Lone surrogates become U+FFFD.
        """
        text = whole_text(text)
        tokens: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=not special
        )
        if special:
            return self._checked(tokens)
        if self._spelled.keys().isdisjoint(tokens):
            return tokens
        return [part for token in tokens for part in self._spelled.get(token, [token])]

    @cached_property
    def _spelled(self) -> dict[int, list[int]]:
        """{special token: the tokens of its characters}, where the vocabulary finds a special token in a text
        as it finds any other piece: all but BPE, whose merges do not lead there. What is unknown becomes its
        own token in any text.
        """
        model = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "model", None)
        if model is None or type(model).__name__ == "BPE":
            return {}
        special = {
            token: str(added)
            for token, added in self.tokenizer.added_tokens_decoder.items()
            if added.special and token != self.unknown
        }
        return {
            token: [part.id for char in piece for part in model.tokenize(char)]
            for token, piece in special.items()
        }

    @cached_property
    def unknown(self) -> int | None:
        """The token that a text's unknown words or characters become."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        model: Any = getattr(backend, "model", None)
        if model is not None and not hasattr(model, "unk_token"):  # Unigram, which keeps the id to itself
            number: int | None = json.loads(model.__getstate__())["unk_id"]
            return number
        piece = getattr(model, "unk_token", None)
        token: int | None = self.tokenizer.unk_token_id if piece is None else model.token_to_id(piece)
        return token

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`."""
        if self.vocabulary.format.joins:
            return b"".join(self.vocabulary.raw[token] for token in tokens).decode(errors="replace")
        text: str = self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text

    def encode_chat(self, conversation: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation by the model's chat template, without BOS. A string is the user's
        message or, where it spells out special tokens, already made by the template.

        Unless the last message is the assistant's, up to where its reply begins. Raises ModelError: the
        tokenizer has no chat template, or the template refuses the messages.
        """
        if isinstance(conversation, str) and self.special_tokens_in(conversation):
            return self._without_bos(self.encode(conversation, special=True))
        messages = (
            [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
        )
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(f"{self._name} has no chat template; it reads plain text only.")
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=messages[-1].get("role") != "assistant", tokenize=False
            )
        except Exception as error:  # templates are programs: jinja2's errors, and their own
            raise ModelError(
                f"The chat template of {self._name} refuses these messages:"
                f" {str(error) or type(error).__name__}."
            ) from error
        return self._without_bos(self.encode(rendered, special=True))

    def _without_bos(self, tokens: list[int]) -> list[int]:
        return tokens[1:] if tokens and tokens[0] == self.bos else tokens

    def _checked(self, tokens: list[int]) -> list[int]:
        wrong = next((token for token in tokens if token >= self._n_rows), None)
        if wrong is not None:
            piece = self.tokenizer.convert_ids_to_tokens(wrong)
            raise ModelError(
                f"The embedding of {self._name} has no row for {piece!r} (id {wrong}) of its chat template."
            )
        return tokens

    def special_tokens_in(self, text: str) -> list[str]:
        """The special tokens that are spelled out in a text, each once."""
        return sorted(set(self._special.findall(text))) if self._special is not None else []

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        added = self.tokenizer.added_tokens_decoder.values()
        pieces = {token.content for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        longest_first = sorted((re.escape(piece) for piece in pieces if piece), key=len, reverse=True)
        return re.compile("|".join(longest_first)) if longest_first else None


def whole_text(text: str) -> str:
    """Halves of surrogate pairs joined where both are there, else replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _listed(tokens: Mapping[int, str]) -> str:
    """'wug' (id 8192), 'blick' (id 8193) and 5 more"""
    shown = ", ".join(f"{piece!r} (id {token})" for token, piece in sorted(tokens.items())[:NAMED])
    return shown + (f" and {len(tokens) - NAMED:,} more" if len(tokens) > NAMED else "")


def _drop_added_tokens(tokenizer: Any, tokens: Mapping[int, str]) -> None:
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["added_tokens"] = [each for each in settings["added_tokens"] if each["id"] not in tokens]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(settings))
