"""A small index with known contents: two models, five dictionaries, about 200 features each, made through the
BuildWriter.

`tables(...)` gives the Arrow tables the indexer would write, so that any test can publish one model, a
changed one, or many; `publish(where)` writes the usual index. Words are chosen so that spellings, prefixes
and single characters can be searched.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lexiscope import tokens
from lexiscope.evidence import RELATIONS, VERDICTS, WRITE_VERDICTS, words_of
from lexiscope.measures import DICTIONARY, FEATURE
from lexiscope.settings import Settings
from store import BuildWriter, arrow_schema, schema

WORDS = (
    " Paris",
    "Paris",
    " paris",
    " Parisian",
    " London",
    "a",
    " a",
    "A",
    " ",
    "\n",
    "%",
    "_",
    "100%",
    " the",
    "The",
    "<script>",
    "7",
)
SILENT = len(WORDS) - 1
"""the token "7" names no feature"""
VOCABULARY = 300
HISTOGRAM_EDGES = [0.01, 0.1, 1.0, 10.0, 100.0]
POSITION_EDGES = [1, 2, 4, 16, 64]
HEADERS, BLOCK = 3 * 4096, 256 * 1024
"""bytes of a DuckDB file's headers, and of each of its blocks"""
OPENED = ("meta", "dictionary", "layer_summary", "token", "token_row")
"""tables that are read to open a build"""
UNTESTED = "other"
"""the model whose ablation pass was not run"""


class Dictionary(NamedTuple):
    model: str
    layer: int
    recipe: str = "vasae"
    d_sae: int = 200
    without: tuple[int, ...] = ()
    """features that have no row, which must be dead ones"""

    @property
    def source(self) -> str:
        return f"{self.layer}-{self.recipe}"


USUAL = (
    *(Dictionary("tiny", layer) for layer in range(3)),
    Dictionary("tiny", 1, "plain"),
    Dictionary("other", 0, d_sae=150),
)


def spellings(size: int = VOCABULARY) -> list[bytes]:
    """The vocabulary: WORDS, one partial character, then made-up words."""
    made_up = [f" word{number}".encode() for number in range(len(WORDS) + 1, size)]
    return [*(word.encode() for word in WORDS), b"\xe2\x80", *made_up]


def token_table(model: str, *, size: int = VOCABULARY) -> pa.Table:
    raw = spellings(size)
    return pa.table(
        {
            "model": [model] * size,
            "token_id": pa.array(range(size), pa.int32()),
            "shown": [tokens.shown(word) for word in raw],
            "raw": [word.hex() for word in raw],
            "folded": [tokens.folded(word) for word in raw],
            "word": pa.array(words_of(raw), pa.int32()),
            "count": pa.array([(size - number) * 10 for number in range(size)], pa.int64()),
        }
    )


def name_of(index: int, *, vocabulary: int = VOCABULARY) -> int:
    """The token that feature `index` is named after: every other token, "7" never."""
    name = (index * 2 + index // 50) % vocabulary
    return name + 1 if name == SILENT else name


def word_of(index: int, *, vocabulary: int = VOCABULARY) -> int:
    """The word that feature `index` fires on, after, before or near: that of its nearest anchor for every
    third feature, else another one's.
    """
    return name_of(index if index % 3 == 0 else index + 1, vocabulary=vocabulary)


def lists(rows: Sequence[Sequence[float]] | np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array([list(row) for row in rows], pa.list_(kind))


def feature_table(
    dictionary_id: int,
    entry: Dictionary,
    *,
    seed: int,
    links: tuple[bool, bool],
    vocabulary: int = VOCABULARY,
) -> pa.Table:
    n, draw = entry.d_sae, np.random.default_rng(seed)
    index = np.arange(n)
    fired = index % 10 != 9
    cosine = np.round(draw.uniform(0.1, 1.0, n), 3).astype("float32")
    verdicts = np.where(fired, np.array(VERDICTS[:5])[index % 5], "dead")
    named = fired & (verdicts != "untested")

    def share(known: np.ndarray = fired) -> pa.Array:
        return pa.array(draw.uniform(0, 1, n).astype("float32"), mask=~known)

    near = (index[:, None] + np.arange(1, 6)) % n
    near_cosine = np.tile(np.linspace(0.9, 0.5, 5), (n, 1))
    top = draw.integers(0, vocabulary, (n, 10))
    names = [name_of(int(number), vocabulary=vocabulary) for number in index]

    families = [tokens.folded(word) for word in spellings(vocabulary)]
    family_sizes = Counter(families[name] for name in names)
    tested = fired & (entry.model != UNTESTED)
    steered = tested & (index % 3 == 0)

    def linked(there: bool) -> tuple[Any, Any]:
        return (near, near_cosine) if there else ([[]] * n, [[]] * n)

    (previous, previous_cosine), (following, following_cosine) = linked(links[0]), linked(links[1])
    columns = {
        "dictionary_id": pa.array([dictionary_id] * n, pa.int32()),
        "index": pa.array(index, pa.int32()),
        "name_token": pa.array(names, pa.int32()),
        "assigned_token": pa.array(names, pa.int32(), mask=np.full(n, entry.recipe == "plain")),
        "anchor_kind": ["embedding"] * n,
        "cosine": cosine,
        "cosine_assigned": pa.array(cosine, mask=np.full(n, entry.recipe == "plain")),
        "cosine_embedding": cosine * np.float32(0.9),
        "margin": np.full(n, 0.125, "float32"),
        "bucket": [
            ("strong" if c >= 0.8 else "medium" if c >= 0.5 else "weak" if c >= 0.3 else "none")
            for c in cosine
        ],
        "next_tokens": lists(top[:, :5], pa.int32()),
        "next_cosines": lists(near_cosine, pa.float32()),
        "phrase_tokens": lists([[name] for name in names], pa.int32()),
        "phrase_cosine": cosine,
        "n_same_name": pa.array([names.count(name) for name in names] if n <= 1000 else [1] * n, pa.int32()),
        "n_same_family": pa.array([family_sizes[families[name]] for name in names], pa.int32()),
        "live": fired,
        "verdict": verdicts,
        "relation": pa.array(np.array(RELATIONS)[index % 4], mask=~named),
        "word_tokens": lists(
            [
                [word_of(number, vocabulary=vocabulary)] if known else []
                for number, known in zip(index.tolist(), named, strict=True)
            ],
            pa.int32(),
        ),
        "word_shares": lists([[0.5] if known else [] for known in named], pa.float32()),
        "relation_share": pa.array(np.round(0.9 - index / 500, 3).astype("float32"), mask=~named),
        "relation_low": pa.array(np.round(0.8 - index / 500, 3).astype("float32"), mask=~named),
        "judged_firings": pa.array(index + 20, pa.int64(), mask=~named),
        "judged_passages": pa.array(index % 20 + 5, pa.int32(), mask=~named),
        "density": np.where(fired, (index + 1) / (10 * n), 0).astype("float32"),
        "n_firings": pa.array(np.where(fired, index + 1, 0), pa.int64()),
        "mean_activation": np.where(fired, 1.5, 0).astype("float32"),
        "max_activation": np.where(fired, 3 + index % 7, 0).astype("float32"),
        "std_activation": share(fired & (index > 0)),
        "skewness": share(fired & (index > 0)),
        "kurtosis": share(fired & (index > 0)),
        "histogram": lists(
            [[0, int(number), 1, 0] if f else [0] * 4 for number, f in zip(index, fired, strict=True)],
            pa.int32(),
        ),
        "positions": lists(
            [[0, 1, int(number), 0] if f else [0] * 4 for number, f in zip(index, fired, strict=True)],
            pa.int32(),
        ),
        "pos_tokens": lists(top, pa.int32()),
        "pos_values": lists(np.tile(np.linspace(5, 1, 10), (n, 1)), pa.float32()),
        "neg_tokens": lists(top[:, ::-1], pa.int32()),
        "neg_values": lists(np.tile(np.linspace(-5, -1, 10), (n, 1)), pa.float32()),
        "write_tokens": lists(top[:, :3], pa.int32()),
        "write_values": lists(np.tile([3.0, 2.0, 1.0], (n, 1)), pa.float32()),
        "write_ranks": lists([[0.0, 1.0, 2.0] if known else [] for known in tested], pa.float32()),
        "write_rises": lists([[0.25, 0.125, 0.0] if known else [] for known in steered], pa.float32()),
        "write_verdict": np.where(
            fired, np.where(steered, np.array(WRITE_VERDICTS[:4])[index % 4], "untested"), "dead"
        ),
        "name_rank": pa.array(index % 40, pa.int32()),
        "ablation_rank": pa.array((index % 30).astype("float32"), mask=~tested),
        "ablation_contexts": pa.array(index % 4 + 1, pa.int32(), mask=~tested),
        "lift_token": pa.array(top[:, 0], pa.int32(), mask=~fired),
        "beats_name": index % 5 == 0,
        "logit_beats_name": index % 7 == 0,
        "neighbour_index": lists(near, pa.int32()),
        "neighbour_cosine": lists(near_cosine, pa.float32()),
        "previous_index": lists(previous, pa.int32()),
        "previous_cosine": lists(previous_cosine, pa.float32()),
        "next_index": lists(following, pa.int32()),
        "next_cosine": lists(following_cosine, pa.float32()),
        "previous_coactive_index": lists([part[::-1] for part in previous], pa.int32()),
        "previous_coactive_jaccard": lists(previous_cosine, pa.float32()),
        "next_coactive_index": lists([part[::-1] for part in following], pa.int32()),
        "next_coactive_jaccard": lists(following_cosine, pa.float32()),
    }
    by_ablation, by_name = FEATURE["ablation_top1"].absent, FEATURE["relation_share"].absent
    for measure in FEATURE.values():
        for name in (measure.name, measure.chance):
            if name and name not in columns:
                absent = {by_ablation: tested, by_name: named}
                columns[name] = share(absent.get(measure.absent, fired))
    return pa.table(columns)


def context_table(
    dictionary_id: int, entry: Dictionary, *, passages: range, length: int, each: int = 4, seed: int = 0
) -> pa.Table:
    """`each` contexts of three kinds for every live feature."""
    draw = np.random.default_rng(seed)
    features = np.repeat([index for index in range(entry.d_sae) if index % 10 != 9], 3 * each)
    n = len(features)
    kinds = np.tile(np.repeat(["top", "quantile", "near_miss"], each), n // (3 * each))
    position = draw.integers(1, length, n)
    firing = kinds != "near_miss"
    return pa.table(
        {
            "dictionary_id": pa.array([dictionary_id] * n, pa.int32()),
            "feature": pa.array(features, pa.int32()),
            "kind": kinds,
            "quantile": pa.array(
                np.tile(np.arange(each) % 5, n // each), pa.int32(), mask=kinds != "quantile"
            ),
            "rank": pa.array(np.tile(np.arange(each), n // each), pa.int32()),
            "passage": pa.array(draw.integers(passages.start, passages.stop, n), pa.int64()),
            "position": pa.array(position, pa.int32()),
            "value": np.full(n, 2.5, "float32"),
            "positions": lists(
                [[int(p)] if f else [] for p, f in zip(position, firing, strict=True)], pa.int32()
            ),
            "values": lists([[2.5] if f else [] for f in firing], pa.float32()),
        }
    )


def passage_table(passages: range, *, corpus: str, length: int, vocabulary: int = VOCABULARY) -> pa.Table:
    ids = np.random.default_rng(len(passages)).integers(0, vocabulary, len(passages) * length).astype("int32")
    offsets = np.arange(0, len(ids) + 1, length, dtype="int32")
    return pa.table(
        {
            "passage_id": pa.array(passages, pa.int64()),
            "corpus": [corpus] * len(passages),
            "tokens": pa.ListArray.from_arrays(offsets, ids),
        }
    )


def dictionary_table(
    dictionary_id: int, entry: Dictionary, *, links: tuple[bool, bool], vocabulary: int = VOCABULARY
) -> pa.Table:
    row = {
        "dictionary_id": dictionary_id,
        "model": entry.model,
        "source": entry.source,
        "layer": entry.layer,
        "recipe": entry.recipe,
        "origin": "lexiscope" if entry.recipe == "vasae" else "saelens",
        "architecture": "topk",
        "d_in": 16,
        "d_sae": entry.d_sae,
        "k": 8,
        "hook_name": f"blocks.{entry.layer}.hook_resid_post",
        "anchor_kind": "embedding",
        "model_path": f"/models/{entry.model}",
        "lens_path": "" if entry.model == UNTESTED else f"/lenses/{entry.model}",
        "model_identity": "",
        "dictionary_identity": "",
        "checkpoint_path": f"/runs/{entry.model}/{entry.source}",
        "text": "nothing.txt",
        "corpus": f"{entry.model} on nothing",
        "n_tokens": 1000 * entry.d_sae,
        "n_passages": 40,
        "vocab_size": vocabulary,
        "histogram_edges": HISTOGRAM_EDGES,
        "position_edges": POSITION_EDGES,
        "position_totals": [40, 80, 480, 1920],
        "training": json.dumps({"recipe": entry.recipe, "seed": 0}),
        "metrics": json.dumps({"fve": summary_values(dictionary_id, entry)["fve"]}),
        "causal": None if entry.model == UNTESTED else json.dumps({"contexts": 4, "strength": 0.5}),
        "mean_norm": None if entry.model == UNTESTED else 4.0,
        "previous_dictionary": dictionary_id - 1 if links[0] else None,
        "next_dictionary": dictionary_id + 1 if links[1] else None,
    }
    kinds = {
        "previous_dictionary": pa.int32(),
        "next_dictionary": pa.int32(),
        "histogram_edges": pa.list_(pa.float32()),
    }
    kinds |= {"causal": pa.string(), "mean_norm": pa.float32()}
    return pa.table({name: pa.array([value], kinds.get(name)) for name, value in row.items()})


def summary_values(dictionary_id: int, entry: Dictionary) -> dict[str, float | None]:
    """The measures of a dictionary in `layer_summary`: no two are equal, nor are those of two dictionaries,
    but for numbers of features and tokens.
    """
    live = sum(index % 10 != 9 for index in range(entry.d_sae))
    drawn = {name: 0.5 + place / 128 + dictionary_id / 4096 for place, name in enumerate(DICTIONARY)}
    known = {
        "n_live": live,
        "dead_share": 1 - live / entry.d_sae,
        "dense_share": None,
        "lookup_share": None,
        "index_tokens": 1000 * entry.d_sae,
    }
    if entry.model == UNTESTED:
        known |= {"ablation_top1": None, "ablation_top5": None}
    return {name: value for name, value in (drawn | known).items() if name in schema.layer_summary.c}


def summary_table(dictionary_id: int, entry: Dictionary, **others: float) -> pa.Table:
    live = sum(index % 10 != 9 for index in range(entry.d_sae))
    row = {
        **summary_values(dictionary_id, entry),
        "dictionary_id": dictionary_id,
        "verdicts": json.dumps(
            {"specific": live // 3, "partial": live - live // 3, "dead": entry.d_sae - live}
        ),
        "write_verdicts": json.dumps({"both": 1, "untested": live - 1, "dead": entry.d_sae - live}),
        "verdict_firings": json.dumps({"specific": 0.75, "partial": 0.25}),
        "cosine_counts": [0, live],
        "cosine_edges": [-1.0, 0.0, 1.0],
        "density_counts": [live // 2, live - live // 2],
        "density_edges": [1e-5, 1e-3, 1e-1],
        **others,
    }
    return pa.table(
        {name: pa.array([value], pa.float32() if value is None else None) for name, value in row.items()}
    )


def written_table(dictionary_id: int, entry: Dictionary, features: pa.Table) -> pa.Table:
    """The first written token of each feature that was steered, and its raw embedding."""
    rows = [
        (tokens[0], kind, index if kind == "feature" else tokens[0], rise)
        for index, (tokens, rises) in enumerate(
            zip(features["write_tokens"].to_pylist(), features["write_rises"].to_pylist(), strict=True)
        )
        for kind, rise in (("feature", 0.25 + index / 1000), ("embedding", 0.2))
        if rises
    ]
    rows = sorted(dict.fromkeys(rows))
    columns = {
        "dictionary_id": pa.array([dictionary_id] * len(rows), pa.int32()),
        "token_id": pa.array([row[0] for row in rows], pa.int32()),
        "kind": pa.array([row[1] for row in rows], pa.string()),
        "index": pa.array([row[2] for row in rows], pa.int32()),
        "rise": pa.array([row[3] for row in rows], pa.float32()),
        "control": pa.array([0.125] * len(rows), pa.float32()),
        "strength": pa.array([0.5] * len(rows), pa.float32()),
        "above": [True] * len(rows),
    }
    return pa.table(columns)


def token_row_table(dictionary_id: int, entry: Dictionary, *, vocabulary: int = VOCABULARY) -> pa.Table:
    """The look-up of a `vasae` dictionary: a row for every third token, whose neighbours follow it."""
    ids = np.arange(0, vocabulary if entry.recipe == "vasae" else 0, 3)
    near = (ids[:, None] + np.arange(3, 12, 3)) % vocabulary
    columns = {
        "dictionary_id": pa.array([dictionary_id] * len(ids), pa.int32()),
        "token_id": pa.array(ids, pa.int32()),
        "trained_on": pa.array(ids * 10 + 1, pa.int64()),
        "norm": np.full(len(ids), 0.5, "float32"),
        "neighbour_tokens": lists(near, pa.int32()),
        "neighbour_cosines": lists(np.tile([0.75, 0.5, 0.25], (len(ids), 1)), pa.float32()),
        "pos_tokens": lists(ids[:, None], pa.int32()),
        "pos_values": lists(np.full((len(ids), 1), 2.0), pa.float32()),
        "own_rank": pa.array([0] * len(ids), pa.int32()),
    }
    return pa.table(columns)


def whole_table(name: str, pieces: Iterable[pa.Table]) -> pa.Table:
    """The rows of all pieces; none of a table that has no rows."""
    return pa.concat_tables([arrow_schema(name).empty_table(), *pieces]).combine_chunks()


def add(
    builder: BuildWriter,
    entries: Sequence[Dictionary],
    *,
    length: int = 64,
    n_passages: int = 40,
    vocabulary: int = VOCABULARY,
    each: int = 4,
    tokens: dict[str, pa.Table] | None = None,
    summary: dict[str, float] | None = None,
) -> None:
    """Add `entries` with a corpus of their own a model, and link layers of one set that follow each other.
    Their summaries have the measures of `summary` in place of the usual ones.
    """
    for model in dict.fromkeys(entry.model for entry in entries):
        builder.add("token", (tokens or {}).get(model) or token_table(model, size=vocabulary))
    first, passages = (
        builder.next_dictionary_id,
        range(builder.next_passage_id, builder.next_passage_id + n_passages),
    )
    builder.add("passage", passage_table(passages, corpus="nothing", length=length, vocabulary=vocabulary))
    for place, entry in enumerate(entries):
        before, after = (
            entries[place - 1] if place else None,
            entries[place + 1] if place + 1 < len(entries) else None,
        )
        links = (before is not None and _follows(before, entry), after is not None and _follows(entry, after))
        key = first + place
        builder.add("dictionary", dictionary_table(key, entry, links=links, vocabulary=vocabulary))
        builder.add("layer_summary", summary_table(key, entry, **(summary or {})))
        builder.add("token_row", token_row_table(key, entry, vocabulary=vocabulary))
        features = feature_table(key, entry, seed=entry.layer, links=links, vocabulary=vocabulary)
        builder.add("feature", features.filter(~pc.field("index").isin(entry.without)))
        builder.add("written", written_table(key, entry, features))
        builder.add(
            "context",
            context_table(key, entry, passages=passages, length=length, each=each, seed=entry.layer),
        )


def _follows(one: Dictionary, other: Dictionary) -> bool:
    return (one.model, one.recipe, one.layer + 1) == (other.model, other.recipe, other.layer)


def spoil(build: Path) -> str:
    """Change bytes of a build's file that nothing reads to open it; the table whose rows they hold: feature
    or context.
    """
    content = build.read_bytes()
    for start in range(HEADERS, len(content), BLOCK):
        changed = bytearray(content)
        changed[start + 1000] ^= 255
        build.unlink()  # a reader that has it open keeps what it had
        build.write_bytes(changed)
        if _readable(build, OPENED):
            for table in ("feature", "context"):
                if not _readable(build, [table]):
                    return table
    raise AssertionError("every block is read to open the build")


def _readable(build: Path, tables: Sequence[str]) -> bool:
    try:
        with duckdb.connect(str(build), read_only=True) as connection:
            for table in tables:
                connection.execute(f"SELECT * FROM {table}").fetchall()
    except duckdb.Error:
        return False
    return True


def publish(where: Settings | Path, entries: Sequence[Dictionary] = USUAL) -> str:
    """A new index in a folder or a database; the build's id."""
    with BuildWriter(where) as builder:
        add(builder, entries)
        return builder.publish()
