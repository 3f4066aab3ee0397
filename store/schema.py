"""The tables of an index, for DuckDB and PostgreSQL alike. Every table and column has a `comment`.

Rows are loaded in the order (dictionary, feature) or (passage): DuckDB's zone maps then answer point look-ups
without an index. Columns are NOT NULL unless marked. `REAL` is 32 bits on both databases; JSON is kept as
text and never queried; text sorts by its bytes. The tables marked derived are made from the others when a
build is published (`store.write.derived_tables`).
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from lexiscope.measures import CHANCE, DICTIONARY, FEATURE, Measure, Unit

SCHEMA_VERSION = 9

metadata = sa.MetaData()

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTS = sa.ARRAY(sa.Integer)
BIG_INTS = sa.ARRAY(sa.BigInteger)
REALS = sa.ARRAY(sa.REAL)

Kind = type[TypeEngine[Any]] | TypeEngine[Any]


def _column(name: str, kind: Kind, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def _nullable(name: str, kind: Kind, comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


MEASURE_KINDS: dict[Unit, Kind] = {
    **{"tokens": sa.BigInteger, "features": sa.Integer, "contexts": sa.Integer, "passages": sa.Integer},
    "rank": sa.Integer,
    "flag": sa.Boolean,
}
"""column types of measures; REAL for the other units"""


def _measures(measures: Iterable[Measure]) -> list[sa.Column[Any]]:
    """The column of each measure, and of its chance where it has one."""
    columns = []
    for measure in measures:
        kind = MEASURE_KINDS.get(measure.unit, sa.REAL)
        add = _nullable if measure.absent else _column
        columns.append(add(measure.name, kind, measure.comment))
        if measure.chance:
            columns.append(add(measure.chance, kind, CHANCE))
    return columns


meta = sa.Table(
    "meta",
    metadata,
    _column("schema_version", sa.Integer, "version of these tables; a reader refuses any other"),
    _column("build", TEXT, "id of the build"),
    _column("created", TEXT, "when it was published, ISO 8601, UTC"),
    comment="one row: which program wrote this build, and when",
)

dictionary = sa.Table(
    "dictionary",
    metadata,
    _column("dictionary_id", sa.Integer, "key of the dictionary in this build"),
    _column("model", TEXT, "id of the language model"),
    _column("source", TEXT, "<layer>-<set>: with the model, the dictionary's identity"),
    _column("layer", sa.Integer, "layer whose residual stream it reads"),
    _column("recipe", TEXT, "how it was trained, as its trainer calls it"),
    _column(
        "origin",
        TEXT,
        "the library that trained it: lexiscope, saelens, sparsify, vasae (the paper's authors), "
        "gemma-scope, dictionary_learning, llamascopium, qwen-scope, linear-layers; neuronpedia for an "
        "import",
    ),
    _column(
        "architecture", TEXT, "as its own library calls it: topk, batchtopk, jumprelu, gated, standard, …"
    ),
    _column("d_in", sa.Integer, "width of the residual stream"),
    *_measures([DICTIONARY["d_sae"]]),
    _column("k", sa.Integer, "active features a token; 0 where thresholds select"),
    _column("hook_name", TEXT, "hook point it reads, in TransformerLens's words"),
    _column("anchor_kind", TEXT, "how the anchors that name its features were made"),
    _column("model_path", TEXT, "where the language model was loaded from"),
    _column("model_identity", TEXT, "id of the language model's weights and vocabulary; empty if unknown"),
    _column("dictionary_identity", TEXT, "id of the dictionary's weights; empty where they are unknown"),
    _column("checkpoint_path", TEXT, "where the dictionary was loaded from"),
    _column("lens_path", TEXT, "where its layer's Jacobian lens is kept; empty where none was fitted"),
    _column("text", TEXT, "names of the files or data sets that were indexed; empty where they are unknown"),
    _column("corpus", TEXT, "fingerprint of the indexed text"),
    _column("n_tokens", sa.BigInteger, "corpus positions that were encoded"),
    _column("n_passages", sa.BigInteger, "corpus passages"),
    _column("vocab_size", sa.Integer, "tokens of the model"),
    _column("histogram_edges", REALS, "edges of feature.histogram, activation in the dictionary's own scale"),
    _column(
        "position_edges",
        INTS,
        "edges of feature.positions: bin i holds positions edges[i] to edges[i + 1] − 1",
    ),
    _column("position_totals", BIG_INTS, "corpus positions in each bin of feature.positions"),
    _column("training", TEXT, "JSON: the checkpoint's metadata block"),
    _column("metrics", TEXT, "JSON: the checkpoint's metrics.json"),
    _nullable("causal", TEXT, "JSON: how the ablation pass was run; null where it was not"),
    _nullable(
        "mean_norm",
        sa.REAL,
        "mean residual norm at the hook point, position 0 excluded: the unit of steering; null where unknown",
    ),
    _nullable("previous_dictionary", sa.Integer, "dictionary_id of the same set one layer before"),
    _nullable("next_dictionary", sa.Integer, "dictionary_id of the same set one layer after"),
    comment="one row a dictionary (a sparse autoencoder of one layer of one model)",
)

layer_summary = sa.Table(
    "layer_summary",
    metadata,
    _column("dictionary_id", sa.Integer, "the dictionary"),
    *_measures(measure for name, measure in DICTIONARY.items() if name not in dictionary.c),
    _column("verdicts", TEXT, "JSON: features by verdict"),
    _column("verdict_firings", TEXT, "JSON: share of all firings by the verdict of the feature that fires"),
    _column("write_verdicts", TEXT, "JSON: features by the verdict on what they write"),
    _column("cosine_counts", INTS, "live features by nearest-anchor cosine"),
    _column("cosine_edges", REALS, "edges of cosine_counts"),
    _column("density_counts", INTS, "features that fired, by density"),
    _column("density_edges", REALS, "edges of density_counts"),
    comment="one row a dictionary: what layer plots and tables need; shares as docs/method.md defines them",
)

feature = sa.Table(
    "feature",
    metadata,
    _column("dictionary_id", sa.Integer, "the dictionary"),
    _column("index", sa.Integer, "the feature's number in its dictionary"),
    _nullable(
        "relation",
        TEXT,
        "what it has to do with its words: it fires on, after, before or near them; null where none could be "
        "chosen",
    ),
    _column("word_tokens", INTS, "up to three words, each by the id of its commonest token"),
    _column(
        "word_shares",
        REALS,
        "share of the judged firings in the relation to the first word, the first two, all three",
    ),
    _column("verdict", TEXT, "specific, partial, weak, none, untested or dead: on the relation to the words"),
    _column("name_token", sa.Integer, "token id of the anchor nearest to its direction"),
    _nullable(
        "assigned_token",
        sa.Integer,
        "token id of the anchor it was trained towards; null where training gave none",
    ),
    _column("anchor_kind", TEXT, "kind of the anchor that names it"),
    _column("bucket", TEXT, "strong (cosine at least 0.8), medium (0.5), weak (0.3) or none"),
    _column("next_tokens", INTS, "token ids of the five next names"),
    _column("next_cosines", REALS, "their cosines"),
    _column("phrase_tokens", INTS, "up to three tokens, by non-negative orthogonal matching pursuit"),
    _column("histogram", INTS, "firings by activation, in the bins of dictionary.histogram_edges"),
    _column(
        "positions", INTS, "firings by position in the passage, in the bins of dictionary.position_edges"
    ),
    _column(
        "pos_tokens",
        INTS,
        "tokens whose logits its direction raises most, through the final norm and unembedding",
    ),
    _column("pos_values", REALS, "their logits"),
    _column("neg_tokens", INTS, "tokens whose logits its direction lowers most"),
    _column("neg_values", REALS, "their logits"),
    _column(
        "write_tokens",
        INTS,
        "tokens whose logits its direction raises most, carried to the last layer by the Jacobian lens; "
        "empty where the lens was not fitted",
    ),
    _column("write_values", REALS, "their logits, for a direction of norm 1 at the last layer"),
    _column(
        "write_ranks",
        REALS,
        "median rank of each of the first three written tokens among the logits that ablation lowers, 0 = "
        "falls most; empty where the feature was not ablated",
    ),
    _column(
        "write_rises",
        REALS,
        "rise of the probability of each of the first three written tokens under steering; empty where the "
        "feature was not steered",
    ),
    _column(
        "write_verdict",
        TEXT,
        "both, steering, ablation, none, untested or dead: which intervention confirms what it writes",
    ),
    _nullable("lift_token", sa.Integer, "the token that contributes most to KL(firing positions ‖ text)"),
    _column("neighbour_index", INTS, "nearest live features of this dictionary by decoder cosine"),
    _column("neighbour_cosine", REALS, "their cosines"),
    _column("previous_index", INTS, "nearest live features of previous_dictionary by decoder cosine"),
    _column("previous_cosine", REALS, "their cosines"),
    _column("next_index", INTS, "nearest live features of next_dictionary by decoder cosine"),
    _column("next_cosine", REALS, "their cosines"),
    _column(
        "previous_coactive_index", INTS, "features of previous_dictionary that fire on the same positions"
    ),
    _column(
        "previous_coactive_jaccard",
        REALS,
        "positions where both fire, over positions where either does, in a sample of the text",
    ),
    _column("next_coactive_index", INTS, "features of next_dictionary that fire on the same positions"),
    _column(
        "next_coactive_jaccard",
        REALS,
        "positions where both fire, over positions where either does, in a sample of the text",
    ),
    *_measures(FEATURE.values()),
    comment="one row a feature, in the order (dictionary_id, index)",
)

context = sa.Table(
    "context",
    metadata,
    _column("dictionary_id", sa.Integer, "the dictionary"),
    _column("feature", sa.Integer, "the feature's number in it"),
    _column(
        "kind",
        TEXT,
        "top (strongest), quantile (sampled from a fifth of its firings) or near_miss (nearly selected)",
    ),
    _nullable("quantile", sa.Integer, "0 (weakest fifth of its firings) to 4 (strongest), for kind quantile"),
    _column("rank", sa.Integer, "place among the contexts of its kind, 0 for the strongest"),
    _column("passage", sa.BigInteger, "passage_id of the text"),
    _column("position", sa.Integer, "token of the passage that put this context here"),
    _column(
        "value", sa.REAL, "activation there; for a near miss, the pre-activation that lost the selection"
    ),
    _column("positions", INTS, "tokens of the passage around it where the feature fires"),
    _column("values", REALS, "activations at those positions"),
    comment="one row a stretch of text that shows a feature, in the order (dictionary_id, feature)",
)

written = sa.Table(
    "written",
    metadata,
    _column("dictionary_id", sa.Integer, "the dictionary"),
    _column("token_id", sa.Integer, "the token whose probability was watched"),
    _column(
        "kind",
        TEXT,
        "what was added: a feature, a row of the token look-up (row), the token's raw embedding, or its "
        "direction by the Jacobian lens (jacobian)",
    ),
    _column("index", sa.Integer, "the feature's number; otherwise the token's id"),
    _column("rise", sa.REAL, "rise of the token's probability, at a KL divergence of 0.5 nats"),
    _column("control", sa.REAL, "the largest rise of the token among its controls"),
    _column("strength", sa.REAL, "length that was added, in mean residual norms"),
    _column("above", sa.Boolean, "the token rises, and by more than its controls"),
    comment="one row a direction that was steered and a token that it should write, in the order "
    "(dictionary_id, token_id)",
)

token_row = sa.Table(
    "token_row",
    metadata,
    _column("dictionary_id", sa.Integer, "the dictionary"),
    _column("token_id", sa.Integer, "the token"),
    _column("trained_on", sa.BigInteger, "its occurrences in the text that the look-up was fitted on"),
    _column("norm", sa.REAL, "norm of the row less the mean of all, over the layer's mean residual norm"),
    _column("neighbour_tokens", INTS, "tokens of the nearest other rows, by cosine without the mean"),
    _column("neighbour_cosines", REALS, "their cosines"),
    _column(
        "pos_tokens", INTS, "tokens whose logits the row raises most, through the final norm and unembedding"
    ),
    _column("pos_values", REALS, "their logits, for a row of norm 1"),
    _column("own_rank", sa.Integer, "place of the row's own token among the logits it raises, 0 first"),
    comment="one row a token of a dictionary's look-up that occurs in its training text, in the order "
    "(dictionary_id, token_id); empty for dictionaries without a look-up",
)

passage = sa.Table(
    "passage",
    metadata,
    _column("passage_id", sa.BigInteger, "key of the passage in this build"),
    _column("corpus", TEXT, "fingerprint of the text it is from"),
    _column("tokens", INTS, "its token ids"),
    comment="one row a stretch of corpus text, token ids once; contexts point into it",
)

token = sa.Table(
    "token",
    metadata,
    _column("model", TEXT, "id of the language model"),
    _column("token_id", sa.Integer, "the token's id"),
    _column(
        "shown",
        TEXT,
        "unambiguous one-line form: ␣ ↵ ⇥ for white space, ⟨hex⟩ for bytes that are no whole character",
    ),
    _column("raw", TEXT, "its bytes, in hex"),
    _column("folded", TEXT, "its spelling without case and outer space; what search compares"),
    _column(
        "word",
        sa.Integer,
        "its word: the smallest id among the tokens that differ from it in case, outer space or inflection",
    ),
    _column("count", sa.BigInteger, "occurrences in the indexed corpus"),
    comment="one row a token of each model's vocabulary, named or not",
)


def _listed() -> list[sa.Column[Any]]:
    return [
        _column("dictionary_id", sa.Integer, "the dictionary"),
        _column("index", sa.Integer, "the feature's number in it"),
        _column("key", sa.BigInteger, "dictionary_id · 2³¹ + index: both in one number"),
        _column("relation", TEXT, "as feature.relation; empty where it has none"),
        _column("word_tokens", INTS, "as feature.word_tokens"),
        _column("share", sa.REAL, "as feature.relation_share; 0 where it has none"),
        _column(
            "effect",
            sa.REAL,
            "as feature.relation_low where the verdict is specific, partial or weak, else 0: what orders the "
            "features that a word names",
        ),
        _column("name_token", sa.Integer, "token id of its nearest anchor"),
        _column("name_order", sa.Integer, "place of that token among its model's tokens by spelling"),
        *_measures(FEATURE[name] for name in ("cosine", "density", "max_activation")),
        _column(
            "excess",
            sa.REAL,
            "reads_family and predicts beyond their nulls, added: orders the features of one nearest anchor",
        ),
        *_measures([FEATURE["live"]]),
        _column("verdict", TEXT, "as feature.verdict"),
        _column(
            "written_tokens",
            INTS,
            "the first three tokens it writes, by the Jacobian lens or, where that was not fitted, by the "
            "logit lens",
        ),
        _column("write_verdict", TEXT, "as feature.write_verdict"),
    ]


listing = sa.Table(
    "listing",
    metadata,
    *_listed(),
    comment="derived: the columns of feature that lists sort, filter and show",
)

by_name = sa.Table(
    "by_name",
    metadata,
    _column("token", sa.Integer, "a token that names the feature: one of its words, or its nearest anchor"),
    _column("by_relation", sa.Integer, "1 for a word, 0 for the nearest anchor where that is no word of it"),
    _column(
        "token_place", sa.Integer, "place of the token among its model's by occurrences, 0 the commonest"
    ),
    *_listed(),
    comment="derived: listing again, once for each token that names a feature, in the order of tokens; "
    "effect is 0 by anchor",
)

best_by_name = sa.Table(
    "best_by_name",
    metadata,
    _column("token", sa.Integer, "a word of the feature"),
    *_listed(),
    comment="derived: of the features of a model that a token names by one relation, the one of largest "
    "effect, where its name holds beyond chance; in the order of tokens",
)

by_write = sa.Table(
    "by_write",
    metadata,
    _column("token", sa.Integer, "a token of the feature's write list"),
    _column("key", sa.BigInteger, "as listing.key"),
    _column("dictionary_id", sa.Integer, "the dictionary"),
    _column("place", sa.Integer, "of the token in the list, 0 the strongest"),
    _column("value", sa.REAL, "its logit in the list"),
    comment="derived: the write lists of live features (by the Jacobian lens, or by the logit lens where it "
    "was not fitted), in the order of tokens",
)

carried = sa.Table(
    "carried",
    metadata,
    _column("model", TEXT, "id of the language model"),
    _column("token_id", sa.Integer, "the token"),
    _column("n_features", sa.Integer, "features that it names, all dictionaries of the model together"),
    comment="derived: the tokens that name features",
)

META = ("meta",)
DERIVED = ("listing", "by_name", "best_by_name", "by_write", "carried")
LOADED = {name: table for name, table in metadata.tables.items() if name not in (*META, *DERIVED)}
"""The tables whose rows a writer is given; it makes the others."""

FEATURE_KEY = sa.column("key", sa.BigInteger)
"""`listing.key` in `feature` too, which the writer adds: with an index on one column, DuckDB reads one row
without decoding others.
"""

CONTEXT_KINDS = ("top", "quantile", "near_miss")
"""Values of context.kind, in the order of pages and exports."""


def key_of(dictionary_id: int, index: int) -> int:
    return (dictionary_id << 31) + index


KEY_SQL = 'CAST(dictionary_id AS BIGINT) * 2147483648 + "index"'
DUCKDB_INDEXES = (
    ("by_name", ("token",)),
    ("best_by_name", ("token",)),
    ("by_write", ("token",)),
    ("listing", ("key",)),
    ("feature", ("key",)),
    ("passage", ("passage_id",)),
)
"""Where zone maps do not help: single rows, and rows in another order than the table's."""
POSTGRES_INDEXES = (
    ("feature", ("key",)),
    ("feature", ("dictionary_id", "index")),
    ("context", ("dictionary_id", "feature")),
    ("token_row", ("dictionary_id", "token_id")),
    ("passage", ("passage_id",)),
    ("token", ("model", "token_id")),
    ("listing", ("key",)),
    ("listing", ("dictionary_id", "index")),
    ("by_name", ("token",)),
    ("best_by_name", ("token",)),
    ("by_write", ("token",)),
    ("written", ("token_id",)),
    *(
        ("listing", ("dictionary_id", column))
        for column in ("share", "cosine", "density", "max_activation", "name_order")
    ),
)
