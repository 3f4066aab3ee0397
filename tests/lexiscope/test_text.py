"""Text goes in, passages come out, and every bad text says what is wrong with it."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel
from lexiscope.text import END, batches, documents, passages


def test_the_same_documents_come_out_of_every_format(tmp_path: Path) -> None:
    texts = ["First document, with a line\nbreak.", "Second document."]
    plain = f"\n{END}\n".join(texts)
    (tmp_path / "a.txt").write_text(plain)
    with lzma.open(tmp_path / "a.txt.xz", "wt") as file:
        file.write(plain)
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write(plain)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name in ("a.txt", "a.txt.xz", "a.txt.gz", "a.jsonl"):
        assert list(documents(str(tmp_path / name))) == texts, name


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.txt", b" \n\n", "empty"),
        ("binary.txt", b"\x89PNG\x00\xff\xfe", "not UTF-8|NUL"),
        ("nul.txt", b"text\x00text", "NUL"),
        ("damaged.txt.xz", b"\xfd7zXZ\x00 broken", "damaged"),
        ("damaged.txt.gz", b"no gzip", "damaged"),
        ("bad.jsonl", b'{"text": "one"}\n{"body": "two"}\n', "line 2"),
    ],
)
def test_a_bad_text_says_what_is_wrong(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=says):
        list(documents(str(tmp_path / name)))


def test_a_missing_text_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no text at"):
        list(documents(str(tmp_path / "none.txt")))
    with pytest.raises(TextError, match="folder"):
        list(documents(str(tmp_path)))


def test_a_text_shorter_than_one_passage_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the cat")
    with pytest.raises(TextError, match="shorter than one passage"):
        list(passages(model, [str(tmp_path / "short.txt")]))


def test_passages_open_with_bos_keep_every_token_and_never_mix_documents(
    model: LanguageModel, text_file: Path
) -> None:
    found = list(passages(model, [str(text_file)], length=48))
    assert all(p[0] == model.bos and 8 <= len(p) <= 48 for p in found)
    whole = [token for document in documents(str(text_file)) for token in model.tokenise(document)]
    kept = [token for p in found for token in p[1:].tolist()]
    assert 0.95 * len(whole) < len(kept) <= len(whole)
    assert model.bos not in kept


def test_a_token_limit_takes_from_every_source(model: LanguageModel, tmp_path: Path) -> None:
    for name, word in (("a", "cat"), ("b", "dog")):
        (tmp_path / f"{name}.txt").write_text(f"{word} " * 500)
    found = list(passages(model, [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], length=16, tokens=60))
    text = [model.text(p[1:]) for p in found]
    assert any("cat" in t for t in text) and any("dog" in t for t in text)


def test_batches_hold_every_passage_once_and_never_position_zero(
    model: LanguageModel, text_file: Path
) -> None:
    found = list(passages(model, [str(text_file)], length=48))
    seen: dict[int, list[int]] = {}
    for batch in batches(found, tokens=200, window=16):
        assert not batch.mask[:, 0].any()
        for row, index in enumerate(batch.passages):
            assert index not in seen
            seen[index] = [model.bos, *batch.tokens[row][batch.mask[row]].tolist()]
            following = batch.next_tokens[row][: batch.lengths[row]].tolist()
            assert following == [*seen[index][1:], -1]
    assert [seen[i] for i in range(len(found))] == [p.tolist() for p in found]
