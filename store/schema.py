"""The tables of an index, once, for DuckDB and PostgreSQL alike; `docs/architecture.md` says what each is for.

Rows are loaded in the order (dictionary, feature) or (passage): DuckDB's zone maps then answer point look-ups without an
index. Columns are NOT NULL unless marked. `REAL` is 32 bits on both databases; JSON is kept as text and never queried.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

SCHEMA_VERSION = 2

metadata = sa.MetaData()


def _column(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _nullable(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _columns(kind: type[TypeEngine[Any]], *names: str) -> list[sa.Column[Any]]:
    return [_column(name, kind) for name in names]


INTS = sa.ARRAY(sa.Integer)
BIG_INTS = sa.ARRAY(sa.BigInteger)
REALS = sa.ARRAY(sa.REAL)

meta = sa.Table(
    "meta",
    metadata,
    _column("schema_version", sa.Integer),
    _column("build", sa.Text),
    _column("created", sa.Text),
)

dictionary = sa.Table(
    "dictionary",
    metadata,
    _column("dictionary_id", sa.Integer),
    *_columns(sa.Text, "model", "source"),
    _column("layer", sa.Integer),
    *_columns(sa.Text, "recipe", "origin", "architecture"),
    *_columns(sa.Integer, "d_in", "d_sae", "k"),
    *_columns(sa.Text, "hook_name", "anchor_kind", "model_path", "checkpoint_path", "corpus"),
    *_columns(sa.BigInteger, "n_tokens", "n_passages"),
    _column("vocab_size", sa.Integer),
    *_columns(sa.REAL, "l0", "random_cosine"),
    _column("histogram_edges", REALS),
    _column("position_edges", INTS),
    _column("position_totals", BIG_INTS),
    *_columns(sa.Text, "training", "metrics"),
    _nullable("causal", sa.Text),
    _nullable("mean_norm", sa.REAL),
    _nullable("previous_dictionary", sa.Integer),
    _nullable("next_dictionary", sa.Integer),
)

layer_summary = sa.Table(
    "layer_summary",
    metadata,
    *_columns(sa.Integer, "dictionary_id", "n_live"),
    *_columns(sa.REAL, "dead_share", "aligned_all", "aligned_live", "aligned_firing", "aligned_energy"),
    *_columns(sa.REAL, "aligned_live_embedding", "supported_live", "supported_firing", "half_live", "coverage"),
    _column("verdicts", sa.Text),
    *[_nullable(name, sa.REAL) for name in ("fve", "delta_ce", "dense_share", "lookup_share", "ablation_top1", "ablation_top5")],
    _column("hub_tokens", INTS),
    _column("hub_counts", INTS),
    _column("index_tokens", sa.BigInteger),
    _column("cosine_counts", INTS),
    _column("cosine_edges", REALS),
    _column("density_counts", INTS),
    _column("density_edges", REALS),
)

feature = sa.Table(
    "feature",
    metadata,
    *_columns(sa.Integer, "dictionary_id", "index", "name_token"),
    _nullable("assigned_token", sa.Integer),
    _column("anchor_kind", sa.Text),
    _column("cosine", sa.REAL),
    _nullable("cosine_assigned", sa.REAL),
    *_columns(sa.REAL, "cosine_embedding", "margin"),
    _column("bucket", sa.Text),
    _column("next_tokens", INTS),
    _column("next_cosines", REALS),
    _column("phrase_tokens", INTS),
    _column("phrase_cosine", sa.REAL),
    *_columns(sa.Integer, "n_same_name", "n_same_family"),
    _column("live", sa.Boolean),
    _column("verdict", sa.Text),
    _column("density", sa.REAL),
    _column("n_firings", sa.BigInteger),
    *_columns(sa.REAL, "mean_activation", "max_activation"),
    *[_nullable(name, sa.REAL) for name in ("std_activation", "skewness", "kurtosis")],
    _column("histogram", INTS),
    _column("positions", INTS),
    _column("pos_tokens", INTS),
    _column("pos_values", REALS),
    _column("neg_tokens", INTS),
    _column("neg_values", REALS),
    _column("name_rank", sa.Integer),
    *[
        _nullable(name, sa.REAL)
        for name in (
            *("reads_here", "reads_here_null", "reads_family", "reads_family_null", "reads_near", "reads_near_null"),
            *("recall", "predicts", "predicts_null", "q_reads", "q_predicts"),
            *("ablation_rank", "ablation_top1", "ablation_top1_null", "ablation_top5", "ablation_top5_null", "q_ablation"),
            *("input_score", "input_score_null", "output_score", "output_score_null"),
        )
    ],
    _nullable("ablation_contexts", sa.Integer),
    _column("supported", sa.Boolean),
    _nullable("lift_token", sa.Integer),
    *[_nullable(name, sa.REAL) for name in ("lift_share", "logit_share")],
    *_columns(sa.Boolean, "beats_name", "logit_beats_name"),
    _column("neighbour_index", INTS),
    _column("neighbour_cosine", REALS),
    _column("previous_index", INTS),
    _column("previous_cosine", REALS),
    _column("next_index", INTS),
    _column("next_cosine", REALS),
    _column("previous_coactive_index", INTS),
    _column("previous_coactive_jaccard", REALS),
    _column("next_coactive_index", INTS),
    _column("next_coactive_jaccard", REALS),
)

context = sa.Table(
    "context",
    metadata,
    *_columns(sa.Integer, "dictionary_id", "feature"),
    _column("kind", sa.Text),
    _nullable("quantile", sa.Integer),
    _column("rank", sa.Integer),
    _column("passage", sa.BigInteger),
    _column("position", sa.Integer),
    _column("value", sa.REAL),
    _column("positions", INTS),
    _column("values", REALS),
)

passage = sa.Table(
    "passage",
    metadata,
    _column("passage_id", sa.BigInteger),
    _column("corpus", sa.Text),
    _column("tokens", INTS),
)

token = sa.Table(
    "token",
    metadata,
    _column("model", sa.Text),
    _column("token_id", sa.Integer),
    *_columns(sa.Text, "shown", "raw", "folded"),
    _column("count", sa.BigInteger),
)
