"""Text goes in, passages come out, and every bad text says what is wrong with it."""

import bz2
import csv
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lexiscope.errors import ModelError, TextError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import END, Text, TextReport, batches, documents, fingerprint, passages
from lexiscope.text.plain import BLOCK
from lexiscope.text.spool import Sourced, Spool
from tests import tiny

TEXTS = ["First document, with a line\nbreak.", "Second document."]
LONG = "the cat sat on a mat and then one dog ran to Paris"


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PLAIN = f"\n{END}\n".join(TEXTS).encode()
ROWS = lines(*({"text": text} for text in TEXTS))
CSV = b'id,text\r\n1,"First document, with a line\nbreak."\r\n2,Second document.\r\n'


def _gzip(content: bytes) -> bytes:
    """The same bytes in every process: they are part of the tests' names."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", PLAIN),
        ("a.TXT", PLAIN),
        ("a.md", PLAIN),
        ("a.txt", PLAIN.replace(b"\n", b"\r\n")),
        ("a.txt", b"\xef\xbb\xbf" + PLAIN),
        ("a.txt.xz", lzma.compress(PLAIN)),
        ("a.txt.gz", _gzip(PLAIN)),
        ("a.txt.GZ", _gzip(b"\xef\xbb\xbf" + PLAIN)),
        ("a.txt.bz2", bz2.compress(PLAIN)),
        ("a.txt.zst", zstd(PLAIN)),
        ("a.txt", _gzip(PLAIN)),  # compressed under another name
        ("a.jsonl", ROWS),
        ("a.JSONL", ROWS),
        ("a.ndjson", ROWS),
        ("a.json", ROWS),
        ("a.jsonl", ROWS.rstrip(b"\n")),
        ("a.jsonl", ROWS + b"\n  \n"),
        ("a.jsonl", ROWS.replace(b"\n", b"\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + ROWS),
        ("a.jsonl.gz", _gzip(ROWS)),
        ("a.ndjson.xz", lzma.compress(ROWS)),
        ("a.json.zst", zstd(ROWS)),
        ("rows", ROWS),  # no suffix: told by its first line
        ("a.json", json.dumps([{"text": text} for text in TEXTS]).encode()),
        ("a.json", json.dumps([{"text": text} for text in TEXTS], indent=2).encode()),
        ("a.jsonl", b"\n " + json.dumps(TEXTS).encode()),
        ("a.json", b"\n".join(json.dumps({"text": text}, indent=1).encode() for text in TEXTS)),
        ("a.json.gz", _gzip(json.dumps([{"text": text} for text in TEXTS]).encode())),
        ("a.csv", CSV),
        ("a.CSV", b"\xef\xbb\xbf" + CSV),
        ("a.csv", CSV.replace(b"id,text", b"id;text").replace(b"1,", b"1;").replace(b"2,", b"2;")),
        ("a.csv.gz", _gzip(CSV)),
        ("a.csv.zst", zstd(CSV)),
        (
            "a.csv",
            CSV.replace(b"id,text", b"id,text,").replace(b".\r\n", b".,\r\n").replace(b'"\r\n', b'",\r\n'),
        ),
        ("a.csv", CSV.replace(b"\r\n2", b"\r\n\r\n3\r\n2")),  # a blank line, and a row without the cell
        ("a.jsonl", b"\n".join(json.dumps({"text": text}, indent=1).encode() for text in TEXTS)),
        ("a.tsv", CSV.replace(b"id,text", b"id\ttext").replace(b"1,", b"1\t").replace(b"2,", b"2\t")),
    ],
)
def test_the_same_documents_come_out_of_every_format(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [str(each).replace("\r\n", "\n") for each in documents(str(tmp_path / name))] == TEXTS


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "0001"])
def test_the_documents_of_a_parquet_file(tmp_path: Path, name: str) -> None:
    table = pa.table({"id": [1, 2, 3], "text": [*TEXTS, None], "body": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / name)
    report = TextReport()
    assert list(documents(str(tmp_path / name), report=report)) == TEXTS and report.empty == 1
    assert list(documents(str(tmp_path / name), field="body")) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (pa.large_string(), TEXTS),
        (pa.dictionary(pa.int32(), pa.string()), TEXTS),
        (pa.binary(), [text.encode() for text in TEXTS]),  # as writers leave it that do not say UTF-8
    ],
    ids=["large string", "dictionary", "binary"],
)
def test_text_of_any_type_of_parquet(tmp_path: Path, kind: Any, rows: list[Any]) -> None:
    pq.write_table(pa.table({"text": pa.array(rows, kind)}), tmp_path / "a.parquet")
    assert list(documents(str(tmp_path / "a.parquet"))) == TEXTS


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([["one"]], "row 1: `text` is a list, not text"),
        ([{"en": "one"}], r"`text` is an object.*--field text\.en"),
        ([b"\xff"], "row 1: `text` is bytes that are not UTF-8"),
        ([None, None], "no text .2 documents without any"),
        (pa.array([], pa.string()), "is empty"),
        (pa.array([0], pa.timestamp("s")), "row 1: `text` is a datetime, not text"),
    ],
    ids=["list", "object", "bytes", "null", "no rows", "time"],
)
def test_a_parquet_column_that_is_no_text_says_so(tmp_path: Path, values: Any, says: str) -> None:
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(TextError, match=says):
        list(documents(str(tmp_path / "a.parquet")))
    with pytest.raises(TextError, match=r"no column `body`; its columns are text\. Name one with --field"):
        list(documents(str(tmp_path / "a.parquet"), field="body"))


def test_turns_and_nested_fields_of_parquet(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    table = pa.table({"id": [1], "messages": [turns], "doc": [{"body": {"en": "one"}}]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(documents(str(tmp_path / "a.parquet"))) == [turns]
    assert list(documents(str(tmp_path / "a.parquet"), field="doc.body.en")) == ["one"]


def test_cells_of_a_table_are_text_as_they_are_written(tmp_path: Path) -> None:
    cells = ["NA", "None", "007", "1e3", "", "a,b", 'say "x"']
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "n"], *([cell, number] for number, cell in enumerate(cells))])
    assert list(documents(str(tmp_path / "a.csv"))) == [cell for cell in cells if cell]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.txt", b" \n\n", "empty"),
        ("bom.txt", b"\xef\xbb\xbf", "empty"),
        ("binary.txt", b"\x89PNG\x00\xff\xfe", "not UTF-8|NUL"),
        ("nul.txt", b"text\x00text", "NUL"),
        ("utf16.txt", "some text".encode("utf-16"), "UTF-16 text; convert it"),
        ("a.zip", b"PK\x03\x04....", "ZIP"),
        ("a.pdf", b"%PDF-1.4", "PDF"),
        ("damaged.txt.xz", b"\xfd7zXZ\x00 broken", "damaged"),
        ("damaged.txt.gz", b"no gzip", "damaged"),
        ("cut.txt.gz", _gzip(PLAIN * 100)[:60], "damaged"),
        ("damaged.txt.bz2", b"BZh9 broken", "damaged"),
        ("damaged.txt.zst", b"\x28\xb5\x2f\xfd broken", "damaged"),
        ("utf32.txt", "some text".encode("utf-32"), "UTF-32 text; convert it"),
        ("latin1.txt", "größe".encode("latin-1"), "byte 0xf6 after 'gr'.*iconv -f LATIN1"),
        ("damaged.parquet", b"PAR1 broken", "cannot be read as Parquet"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"id,text\n1,one, two\n", "row 1 has 3 cells under 2 columns"),
        ("a.csv", b"id;text\n1;one; two\n", "row 1 has 3 cells under 2 columns"),
        ("a.csv", b'id,text\n1,one\n2,"two\n3,three\n', r"row 2: not valid CSV \(unexpected end"),
        ("a.csv", b'id,text\n1,"one" two\n', "row 1: not valid CSV"),
        ("a.csv", "text\ngröße\n".encode("latin-1"), "not UTF-8"),
        ("bad.jsonl", b'{"text": "one"}\n{"body": "two"}\n', "line 2: no `text` field; the fields are body"),
        ("bad.jsonl", b'{"text": "one"}\n{"text": \n', r"line 2: not valid JSON \("),
        ("bad.json", b'[{"text": "one"}, {"text"]', "item 2: not valid JSON"),
        ("cut.json", b'[{"text": "one"}, {"text": "tw', "item 2: not valid JSON"),
        ("utf8.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
        ("null.jsonl", lines({"text": None}, {"text": ""}), "no text .2 documents without any"),
        ("list.jsonl", lines({"text": ["one", "two"]}), "line 1: `text` is a list, not text"),
        ("object.jsonl", lines({"text": {"en": "one"}}), r"`text` is an object, not text.*--field text\.en"),
        ("number.jsonl", lines({"text": 12}), "`text` is a number"),
        ("truth.jsonl", lines({"text": True}), "`text` is a truth value"),
        ("numbers.jsonl", lines(1, 2), "line 1: a number, not an object with a `text` field"),
        ("a.csv", b"id,body\n1,x\n", "no column `text`; its columns are id, body. Name one with --field"),
    ],
)
def test_a_bad_text_says_what_is_wrong(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=says):
        list(documents(str(tmp_path / name)))


def test_a_missing_text_and_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(TextError, match="no text at"):
        list(documents(str(tmp_path / "none.txt")))
    with pytest.raises(TextError, match=r"no file no-such-text, and no data set.*no network"):
        list(documents("no-such-text"))
    with pytest.raises(TextError, match="folder"):
        list(documents(str(tmp_path)))


def test_a_text_is_called_by_its_files_without_folders_and_by_its_data_sets(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert Text((str(tmp_path / "a.txt"), "owner/name")).names() == ["a.txt", "owner/name"]


@pytest.mark.parametrize("field", ["content", "doc.body.en", "a.b"])
def test_any_field_of_a_row_can_be_named(tmp_path: Path, field: str) -> None:
    row = {"text": "no", "content": "yes", "doc": {"body": {"en": "yes"}}, "a.b": "yes"}
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    assert list(documents(str(tmp_path / "a.jsonl"), field=field)) == ["yes"]
    with pytest.raises(TextError, match=r"no `doc\.title` field; the fields are text, content, doc, a\.b"):
        list(documents(str(tmp_path / "a.jsonl"), field="doc.title"))


def test_plain_text_has_no_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    with pytest.raises(TextError, match="plain text and has no `content` field"):
        list(documents(str(tmp_path / "a.txt"), field="content"))


def test_json_lines_under_the_name_of_plain_text_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(ROWS)
    report = TextReport()
    assert len(list(documents(str(tmp_path / "a.txt"), report=report))) == 1
    assert "looks like JSON lines" in report.sentence()


def test_rows_without_text_are_left_out_and_counted(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": None}, {"text": LONG}, {"text": " "}, {"text": "Yes."}))
    report = passages(model, [str(tmp_path / "a.jsonl")])
    assert len(list(report)) == 1
    assert report.report.sentence() == (
        f"Read {report.report.tokens} tokens in 1 passage of 1 document; left out: 2 documents without text,"
        " 1 document too short for a passage."
    )


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "half \\ud83d of"}\n{"text": "\\ud83d\\ude00"}\n')
    report = TextReport()
    assert list(documents(str(tmp_path / "a.jsonl"), report=report)) == ["half \ufffd of", "\U0001f600"]
    assert report.surrogates == 1 and "half a surrogate pair was replaced in 1 document" in report.sentence()


def test_tokens_for_what_the_tokenizer_does_not_know_are_counted(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "model")
    made = Tokenizer(models.WordLevel({"?": 0, "<s>": 1, "the": 2, "cat": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>").save_pretrained(folder)
    (tmp_path / "a.txt").write_text("the cat " * 10 + "שלום дом")
    read = passages(load_language_model(str(folder)), [str(tmp_path / "a.txt")])
    assert len(list(read)) == 1 and read.report.unknown == 2
    assert "the tokenizer does not know what 2 tokens stood for" in read.report.sentence()


def test_a_text_of_short_documents_says_how_short(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_bytes(lines(*[{"text": "the cat"}] * 30))
    longest = len(model.tokenise("the cat"))
    with pytest.raises(TextError, match=f"shorter than one passage.*of 30, the longest has {longest}"):
        list(passages(model, [str(tmp_path / "short.jsonl")]))


# --- long texts ---


def test_a_long_line_is_cut_before_white_space_and_nothing_is_lost(tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(60_000))
    (tmp_path / "a.txt").write_text(words)
    (tmp_path / "a.jsonl").write_bytes(lines({"text": words}))
    for name in ("a.txt", "a.jsonl"):
        found = [str(each) for each in documents(str(tmp_path / name))]
        assert "".join(found) == words and len(found) > 2
        assert all(len(each) <= BLOCK for each in found) and all(
            each.startswith(" word") for each in found[1:]
        )


def test_a_document_of_many_lines_is_cut_at_a_line_end_alone(tmp_path: Path) -> None:
    text = ("x" * (BLOCK - 10) + "\n") * 2 + "y" * 30_000 + "\n" + "end"
    (tmp_path / "a.txt").write_text(text)
    assert list(documents(str(tmp_path / "a.txt"))) == [text[: 2 * BLOCK - 18], "y" * 30_000 + "\nend"]


def test_a_long_line_without_white_space_is_cut_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("女" * (2 * BLOCK + 5) + "\nend")
    found = [str(each) for each in documents(str(tmp_path / "a.txt"))]
    assert "".join(found) == "女" * (2 * BLOCK + 5) + "\nend" and max(map(len, found)) <= BLOCK + 5


def test_lines_are_kept_whole_where_they_are_not_too_long(tmp_path: Path) -> None:
    text = "".join(f"{'x' * 999}\n" for _ in range(450))
    (tmp_path / "a.txt").write_text(text)
    found = [str(each) for each in documents(str(tmp_path / "a.txt"))]
    assert [len(each) for each in found] == [BLOCK, BLOCK, 49_999]


def test_memory_does_not_grow_with_a_line(model: LanguageModel, tmp_path: Path) -> None:
    line = "the cat sat on a mat " * 10_000
    with open(tmp_path / "a.txt", "w") as file:
        for _ in range(40):
            file.write(line)
    tracemalloc.start()
    try:
        n = sum(len(passage) for passage in passages(model, [str(tmp_path / "a.txt")], tokens=300_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n > 300_000 and peak < 25e6  # the text has 8.4 million characters


def test_a_run_tokenises_a_text_once(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text(f"\n{END}\n".join([LONG] * 20))
    calls = []
    whole = model.tokenise
    monkeypatch.setattr(model, "tokenise", lambda text: calls.append(text) or whole(text))
    some = [passage.tolist() for passage in passages(model, [str(tmp_path / "a.txt")], tokens=30)]
    assert 0 < len(calls) < 20
    every = [passage.tolist() for passage in passages(model, [str(tmp_path / "a.txt")])]
    assert len(calls) == 20 and every[: len(some)] == some
    again = passages(model, [str(tmp_path / "a.txt")])
    assert [p.tolist() for p in again] == every == [p.tolist() for p in again] and len(calls) == 20
    list(passages(model, [str(tmp_path / "a.txt")], length=16))
    assert len(calls) == 40  # other passages
    (tmp_path / "a.txt").write_text(LONG + " again")
    assert len(list(passages(model, [str(tmp_path / "a.txt")]))) == 1  # another text under the name


def counted(n: int, *, fails: bool = False) -> tuple[Callable[[TextReport], Any], list[int]]:
    made: list[int] = []

    def read(report: TextReport) -> Any:
        for number in range(n):
            made.append(number)
            yield Sourced(number % 2, np.full(10, number, dtype=np.int32))
        if fails:
            raise TextError("line 7")

    return read, made


def test_passages_beyond_what_is_kept_are_made_again() -> None:
    read, made = counted(50)
    spool = Spool(read, largest=400)
    first, second = iter(spool), iter(spool)
    expected = [(number % 2, number) for number in range(50)]
    for reading in (first, second):
        assert [(p.source, int(p.ids[0])) for p in reading] == expected
    assert len(made) == 100 and [(p.source, int(p.ids[0])) for p in spool] == expected


def test_an_error_in_a_text_is_raised_by_every_iteration() -> None:
    read, _ = counted(3, fails=True)
    spool = Spool(read)
    for _ in range(2):
        found = iter(spool)
        assert [int(next(found).ids[0]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TextError, match="line 7"):
            next(found)


# --- conversations ---


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tiny.make_model(tmp_path_factory.mktemp("chat") / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}" + END + "{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}" + END + "assistant:{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return load_language_model(str(folder))


QUESTION = {"role": "user", "content": "the cat sat on a mat and then?"}
ANSWER = {"role": "assistant", "content": "one dog ran to Paris"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [QUESTION, ANSWER]},
        {
            "conversations": [
                {"from": "human", "value": QUESTION["content"]},
                {"from": "gpt", "value": ANSWER["content"]},
            ]
        },
        {"messages": [{**QUESTION, "content": [{"type": "text", "text": QUESTION["content"]}]}, ANSWER]},
    ],
)
def test_messages_go_through_the_chat_template(
    chat_model: LanguageModel, tmp_path: Path, row: dict[str, Any]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    [passage] = passages(chat_model, [str(tmp_path / "a.jsonl")])
    expected = f"{END}user: {QUESTION['content']}{END}assistant: {ANSWER['content']}"
    assert chat_model.text(passage.tolist()) == expected
    assert (passage == chat_model.bos).sum() == 2  # special tokens, not their characters


def test_a_model_without_a_chat_template_refuses_messages(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"messages": [QUESTION]}))
    with pytest.raises(ModelError, match="has no chat template"):
        list(passages(model, [str(tmp_path / "a.jsonl")]))


def test_special_tokens_in_a_text_are_characters_and_that_is_said_once(
    chat_model: LanguageModel, tmp_path: Path
) -> None:
    rendered = f"{END}user: the cat sat on a mat{END}assistant: one dog"
    (tmp_path / "a.jsonl").write_bytes(lines(*[{"text": rendered}] * 5))
    read = passages(chat_model, [str(tmp_path / "a.jsonl")])
    assert all(chat_model.bos not in passage[1:] for passage in read)
    assert read.report.sentence().count(END) == 1 and "were read as characters" in read.report.sentence()
    as_tokens = passages(chat_model, Text((str(tmp_path / "a.jsonl"),), chat=True))
    assert all(chat_model.text(passage.tolist()) == rendered for passage in as_tokens)
    assert END not in as_tokens.report.sentence()


def test_with_chat_a_plain_document_is_the_users_message(chat_model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LONG)
    [passage] = passages(chat_model, Text((str(tmp_path / "a.txt"),), chat=True))
    assert chat_model.text(passage.tolist()) == f"{END}user: {LONG}{END}assistant:"


# --- passages and batches ---


def test_passages_open_with_bos_keep_every_token_and_never_mix_documents(
    model: LanguageModel, text_file: Path
) -> None:
    read = passages(model, [str(text_file)], length=48)
    found = list(read)
    assert all(p[0] == model.bos and 8 <= len(p) <= 48 for p in found)
    whole = [token for document in documents(str(text_file)) for token in model.tokenise(str(document))]
    kept = [token for p in found for token in p[1:].tolist()]
    assert 0.95 * len(whole) < len(kept) <= len(whole)
    assert read.report.tokens == len(kept) == len(whole) - read.report.ends
    assert model.bos not in kept


def test_a_token_limit_takes_from_every_source(model: LanguageModel, tmp_path: Path) -> None:
    for name, word in (("a", "cat"), ("b", "dog")):
        (tmp_path / f"{name}.txt").write_text(f"{word} " * 500)
    read = passages(model, [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], length=16, tokens=60)
    text = [model.text(p[1:]) for p in read]
    assert any("cat" in t for t in text) and any("dog" in t for t in text)
    assert "of 2 documents, where reading stopped" in read.report.sentence()


def test_how_a_text_is_read_is_part_of_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    source = str(tmp_path / "a.jsonl")
    assert fingerprint([source]) == fingerprint(Text((source,)))
    other = {fingerprint(Text((source,), field="body")), fingerprint(Text((source,), chat=True))}
    assert len(other | {fingerprint([source])}) == 3


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
