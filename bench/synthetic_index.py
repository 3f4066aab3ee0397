"""A synthetic index of millions of features, written by whole columns: what bench.store_reads reads.

Shapes and entropies are those of a real index: 45 contexts a live feature (20 top, 25 of quantiles, and 5
near misses), half the features live, nine in ten named after their own token and the rest after a frequent
one, 30-bin histograms, ten neighbours, three matches in each neighbouring layer. Contexts are written for one
feature in `every`.
"""

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lexiscope import tokens
from lexiscope.evidence import RELATIONS, VERDICTS, words_of
from lexiscope.measures import DICTIONARY, FEATURE
from lexiscope.settings import Settings
from store import BuildWriter, schema

SYLLABLES = "ka to mi re su lan der vin est or pol gra ne ti al chi men so ru be".split()
PASSAGES, LENGTH = 20_000, 256
TOP, QUANTILE, NEAR = 20, 25, 5
BINS = 30


class Shape(NamedTuple):
    """Layers × vocabulary, and the share of features with contexts."""

    name: str
    layers: int
    vocab: int
    every: int

    @property
    def n_features(self) -> int:
        return self.layers * self.vocab


SHAPES = {
    shape.name: shape
    for shape in (Shape("gpt2", 12, 50_257, 1), Shape("llama", 32, 128_256, 20), Shape("small", 3, 5_000, 1))
}


def words(vocab: int) -> list[bytes]:
    """Made-up words of one to four syllables: each in up to four spellings (case, leading space), as a real
    vocabulary has them.
    """
    made: list[bytes] = [bytes([byte]) for byte in range(256)]
    number = 1
    while len(made) < vocab:
        parts, rest = [], number
        while rest:
            parts.append(SYLLABLES[rest % len(SYLLABLES)])
            rest //= len(SYLLABLES)
        word = "".join(parts)
        made += [f" {word}".encode(), word.encode()] + ([f" {word.title()}".encode()] if number % 2 else [])
        number += 1
    return made[:vocab]


def write(settings: Settings, shape: Shape) -> str:
    """Build and publish; the build's id."""
    draw = np.random.default_rng(0)
    spelled = words(shape.vocab)
    with BuildWriter(settings) as builder:
        builder.add("token", token_table(spelled))
        builder.add("passage", passage_table(draw, shape.vocab))
        for layer in range(shape.layers):
            alive = draw.random(shape.vocab) < 0.5
            builder.add("dictionary", dictionary_row(shape, layer))
            builder.add("layer_summary", summary_row(shape, layer, int(alive.sum())))
            builder.add("feature", feature_table(draw, shape, layer, alive))
            holding = np.flatnonzero(alive & (np.arange(shape.vocab) % shape.every == 0))
            for part in np.array_split(holding, max(1, len(holding) // 10_000)):
                builder.add("context", context_table(draw, layer, part))
        return builder.publish()


def ints(values: np.ndarray) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype="int32"))


def reals(values: np.ndarray, known: np.ndarray | None = None) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype="float32"), mask=None if known is None else ~known)


def lists(values: np.ndarray) -> pa.Array:
    """[n, width] as lists, int32 or float32."""
    flat = ints(values.ravel()) if values.dtype.kind == "i" else reals(values.ravel())
    return pa.ListArray.from_arrays(ints(np.arange(0, values.size + 1, values.shape[1])), flat)


def repeated(value: str, n: int) -> pa.Array:
    return pa.array([value]).take(pa.array(np.zeros(n, "int32")))


def token_table(spelled: list[bytes]) -> pa.Table:
    n = len(spelled)
    return pa.table(
        {
            "model": repeated("synthetic", n),
            "token_id": ints(np.arange(n)),
            "shown": [tokens.shown(word) for word in spelled],
            "raw": [word.hex() for word in spelled],
            "folded": [tokens.folded(word) for word in spelled],
            "word": ints(words_of(spelled)),
            "count": pa.array((PASSAGES * LENGTH / (np.arange(n) + 10)).astype("int64")),
        }
    )


def passage_table(draw: np.random.Generator, vocab: int) -> pa.Table:
    text = (vocab * draw.random((PASSAGES, LENGTH)) ** 3).astype("int64")
    return pa.table(
        {
            "passage_id": pa.array(np.arange(PASSAGES)),
            "corpus": repeated("synthetic", PASSAGES),
            "tokens": lists(text),
        }
    )


def feature_table(draw: np.random.Generator, shape: Shape, layer: int, alive: np.ndarray) -> pa.Table:
    n = shape.vocab
    index = np.arange(n)
    frequent = (n * draw.random(n) ** 4).astype("int64")
    name = np.where(draw.random(n) < 0.9, index, frequent)
    same = np.bincount(name, minlength=n)[name]
    cosine = draw.beta(5, 2, n)
    firings = np.where(alive, np.exp(draw.normal(6, 2, n)).astype("int64") + 20, 0)
    verdict = np.where(alive, draw.choice(VERDICTS[:5], n, p=(0.2, 0.4, 0.25, 0.02, 0.13)), VERDICTS[5])
    relation = draw.choice(RELATIONS, n, p=(0.7, 0.2, 0.05, 0.05))
    n_words = np.where(alive, draw.integers(1, 4, n), 0)
    starts = ints(np.concatenate([[0], n_words.cumsum()]))
    words = (n * draw.random(n_words.sum()) ** 2).astype("int64")

    def share(width: int = 1) -> pa.Array:
        return reals(draw.random(n) * width, alive)

    def near(width: int, there: bool = True) -> pa.Array:
        return lists(draw.integers(0, n, (n, width))) if there else empty(pa.int32(), n)

    def scores(width: int, there: bool = True) -> pa.Array:
        return lists(-np.sort(-draw.random((n, width)), 1)) if there else empty(pa.float32(), n)

    before, after = layer > 0, layer < shape.layers - 1
    columns: dict[str, pa.Array] = {
        "dictionary_id": ints(np.full(n, layer)),
        "index": ints(index),
        "name_token": ints(name),
        "assigned_token": ints(index),
        "anchor_kind": repeated("current", n),
        "cosine": reals(cosine),
        "cosine_assigned": reals(cosine * 0.97),
        "cosine_embedding": reals(cosine * 0.5),
        "margin": reals(draw.random(n) * 0.2),
        "bucket": pa.array(
            np.array(["none", "weak", "medium", "strong"])[np.digitize(cosine, [0.3, 0.5, 0.8])]
        ),
        **{
            f"{key}_tokens": near(width)
            for key, width in (("next", 5), ("phrase", 3), ("pos", 10), ("neg", 10), ("write", 10))
        },
        **{
            key: scores(width)
            for key, width in (
                ("next_cosines", 5),
                ("pos_values", 10),
                ("neg_values", 10),
                ("write_values", 10),
            )
        },
        "phrase_cosine": reals(cosine),
        "n_same_name": ints(same),
        "n_same_family": ints(same),
        "live": pa.array(alive),
        "verdict": pa.array(verdict),
        "write_ranks": empty(pa.float32(), n),
        "write_rises": empty(pa.float32(), n),
        "write_verdict": pa.array(np.where(alive, "untested", "dead")),
        "relation": pa.array(relation, mask=~alive),
        "word_tokens": pa.ListArray.from_arrays(starts, ints(words)),
        "word_shares": pa.ListArray.from_arrays(starts, reals(draw.random(len(words)))),
        "judged_firings": pa.array(draw.integers(20, 257, n), mask=~alive),
        "judged_passages": pa.array(draw.integers(5, 200, n).astype("int32"), mask=~alive),
        "density": reals(firings / (PASSAGES * LENGTH)),
        "n_firings": pa.array(firings),
        "mean_activation": reals(np.where(alive, draw.gamma(2, 2, n), 0)),
        "max_activation": reals(np.where(alive, draw.gamma(9, 2, n), 0)),
        "histogram": lists(np.where(alive[:, None], draw.poisson(8, (n, BINS)), 0)),
        "positions": lists(np.where(alive[:, None], draw.poisson(20, (n, 8)), 0)),
        "name_rank": ints(draw.integers(0, n, n)),
        "lift_token": pa.array(frequent.astype("int32"), mask=~alive),
        "beats_name": pa.array(alive & (draw.random(n) < 0.2)),
        "logit_beats_name": pa.array(alive & (draw.random(n) < 0.1)),
        "ablation_contexts": pa.array(np.full(n, 8, "int32"), mask=~alive),
        "ablation_rank": share(1000),
        "neighbour_index": near(10),
        "neighbour_cosine": scores(10),
        **{f"previous{kind}_index": near(3, before) for kind in ("", "_coactive")},
        **{f"next{kind}_index": near(3, after) for kind in ("", "_coactive")},
        **{f"previous{kind}": scores(3, before) for kind in ("_cosine", "_coactive_jaccard")},
        **{f"next{kind}": scores(3, after) for kind in ("_cosine", "_coactive_jaccard")},
    }
    measured = [name for measure in FEATURE.values() for name in (measure.name, measure.chance) if name]
    return pa.table(columns | {name: share() for name in measured if name not in columns})


def empty(kind: pa.DataType, n: int) -> pa.Array:
    return pa.ListArray.from_arrays(ints(np.zeros(n + 1)), pa.array([], kind))


def context_table(draw: np.random.Generator, layer: int, features: np.ndarray) -> pa.Table:
    each = TOP + QUANTILE + NEAR
    n = len(features) * each
    kinds = np.repeat(["top", "quantile", "near_miss"], [TOP, QUANTILE, NEAR])
    quantile = np.concatenate([np.zeros(TOP), np.repeat(np.arange(5), 5), np.zeros(NEAR)]).astype("int32")
    rank = np.concatenate([np.arange(TOP), np.tile(np.arange(5), 5), np.arange(NEAR)])
    position = draw.integers(1, LENGTH, n)
    value = draw.gamma(3, 2, n)
    firing = np.tile(kinds != "near_miss", len(features))
    where = ints(np.concatenate([[0], firing.cumsum()]))
    return pa.table(
        {
            "dictionary_id": ints(np.full(n, layer)),
            "feature": ints(np.repeat(features, each)),
            "kind": pa.array(np.tile(kinds, len(features))),
            "quantile": pa.array(
                np.tile(quantile, len(features)), mask=np.tile(kinds != "quantile", len(features))
            ),
            "rank": ints(np.tile(rank, len(features))),
            "passage": pa.array(draw.integers(0, PASSAGES, n)),
            "position": ints(position),
            "value": reals(value),
            "positions": pa.ListArray.from_arrays(where, ints(position[firing])),
            "values": pa.ListArray.from_arrays(where, reals(value[firing])),
        }
    )


def dictionary_row(shape: Shape, layer: int) -> pa.Table:
    edges = np.logspace(-2, 3, BINS + 1)
    row = {
        **{
            "dictionary_id": layer,
            "model": "synthetic",
            "source": f"{layer}-vasae",
            "layer": layer,
            "recipe": "vasae",
        },
        **{"origin": "lexiscope", "architecture": "topk", "d_in": 768, "d_sae": shape.vocab, "k": 32},
        **{
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "anchor_kind": "current",
            "model_path": "/none",
            "model_identity": "",
            "dictionary_identity": "",
            "lens_path": "",
            "checkpoint_path": "/none",
        },
        **{
            "text": "",
            "corpus": "synthetic",
            "n_tokens": PASSAGES * LENGTH,
            "n_passages": PASSAGES,
            "vocab_size": shape.vocab,
        },
        **{
            "histogram_edges": edges.tolist(),
            "position_edges": [1, 2, 4, 8, 16, 32, 64, 128, 256],
        },
        **{
            "position_totals": [PASSAGES * width for width in (1, 2, 4, 8, 16, 32, 64, 128)],
            "training": "{}",
            "metrics": "{}",
        },
        **{"causal": json.dumps({"contexts": 8}), "mean_norm": 100.0},
        **{
            "previous_dictionary": layer - 1 if layer else None,
            "next_dictionary": layer + 1 if layer < shape.layers - 1 else None,
        },
    }
    kinds = {"previous_dictionary": pa.int32(), "next_dictionary": pa.int32()}
    return pa.table({name: pa.array([value], kinds.get(name)) for name, value in row.items()})


def summary_row(shape: Shape, layer: int, n_live: int) -> pa.Table:
    row = {
        **{name: 0.5 for name in DICTIONARY if name in schema.layer_summary.c},
        **{
            "dictionary_id": layer,
            "n_live": n_live,
            "l0": 32.0,
            "random_cosine": 0.2,
            "dead_share": 1 - n_live / shape.vocab,
        },
        **{
            "verdicts": "{}",
            "verdict_firings": "{}",
            "write_verdicts": "{}",
            "index_tokens": PASSAGES * LENGTH,
        },
        **{
            "cosine_counts": [0, n_live],
            "cosine_edges": [-1.0, 0.0, 1.0],
            "density_counts": [n_live],
            "density_edges": [1e-7, 1.0],
        },
    }
    return pa.table({name: pa.array([value]) for name, value in row.items()})
