"""The numbers that docs/method.md and docs/evidence.md define are those of the code."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.causal import ablation, effects, scores, steering, writing
from lexiscope import anchors, metrics
from lexiscope.evidence import FDR, NEAR, SAMPLED_FIRINGS, matched_controls, relations
from lexiscope.evidence import writing as written
from lexiscope.evidence.families import NEAREST
from lexiscope.evidence.relation_evidence import CONTROLS
from lexiscope.language_model import jacobian
from lexiscope.measures import FOUND, OFTEN, WRITTEN
from lexiscope.measures.warnings import POOR_FVE
from trainer import plan, presets

DOCS = Path(__file__).parents[2] / "docs"


def default(function: Callable, parameter: str) -> object:
    return inspect.signature(function).parameters[parameter].default


CONE, VASAE = presets.recipe("cone"), presets.recipe("vasae")
DEFINED = {
    # the words of the document: the numbers in them, and those of the code
    "every tenth passage of each training text": (10, plan.HELD_OUT_EVERY),
    "fires on at least one token in 100,000": (1e-5, metrics.LIVE_RATE),
    "cosine to the nearest own anchor at least 0.8": (0.8, anchors.ALIGNED),
    "norm is above four times the median are left out": (4, anchors.OUTLIER),
    "with the weight of 4 occurrences": (4, default(anchors.class_mean_anchors, "prior")),
    "proportional to `count(t)^0.7`": (0.7, default(anchors.rows_per_token, "power")),
    "Up to three tokens by non-negative orthogonal": (3, default(anchors.phrases, "length")),
    "its assigned token (`--cosine`, default 0.802)": (0.802, CONE.cosine),
    "with rank 16 (`--dense-rank`)": ((16, 16), (CONE.dense_rank, VASAE.dense_rank)),
    "has not fired for 30 steps takes part in AuxK": (30, VASAE.aux_after),
    "the 64 best such rows reconstruct the residual error": (64, VASAE.aux_k),
    "with weight 1/32 over its variance": (1 / 32, VASAE.aux_weight),
    "four times over the first 60 % of the steps": (4, VASAE.restarts),
    "where t is the token or among the 32 tokens before": (32, NEAR),
    "and the 20 nearest tokens by raw `W_E`": (20, NEAREST),
    "at a false discovery rate of 5 % over live features": (0.05, FDR),
    "among the five that fall most (top 5)": (5, ablation.TOP_FALLS),
    "the first 16 positions and the last are left out": (16, jacobian.SKIPPED),
    "Below about 0.5 the dictionary is hardly read": (0.5, POOR_FVE),
    "the 256 firings of lowest code in either half": (256, SAMPLED_FIRINGS),
    "among the 2nd to 16th tokens before": ((2, 16), (relations.NEAREST, relations.FARTHEST)),
    "the 100 commonest words of the text are left out": (100, relations.COMMONEST),
    "A feature is named by up to three words": (3, relations.MAX_WORDS),
    "at least three firings in three passages": ((3, 3), (relations.MIN_FIRINGS, relations.MIN_PASSAGES)),
    "adds 5 % of the firings and five times its rate": ((0.05, 5), (relations.MIN_ADDED, relations.MIN_LIFT)),
    "the mean share of eight words as frequent": (8, CONTROLS),
    "`untested` below 20 judged firings or 5 passages": (
        (20, 5),
        (relations.JUDGED_FIRINGS, relations.JUDGED_PASSAGES),
    ),
    "end of the share is at least 0.5, the lift at least 5 and q ≤ 0.05": (
        (0.5, 5, 0.05),
        (relations.SPECIFIC, relations.MIN_LIFT, relations.Q),
    ),
    "`partial` where the lower end is at least 0.1": (0.1, relations.PARTIAL),
    "Of the words with ten occurrences in the judged passages": (10, OFTEN),
    "detects it with an F1 of at least 0.5": (0.5, FOUND),
    "tokens of the list is among the five whose logits fall most": (5, ablation.TOP_FALLS),
    "one of the first three tokens of the list": (3, WRITTEN),
    "where at least a fifth of the contexts hit and q ≤ 0.05": ((0.2, 0.05), (written.FALLS, FDR)),
    "exceeds rounding (1e-5 of the probability)": (1e-5, written.LEAST_RISE),
    "at up to five of its firings (`--ablate`)": (5, effects.CONTEXTS),
    "(`--steer`, 200 a dictionary)": (200, effects.STEERED),
    "eight neutral prefixes of 16 tokens": ((8, 16), (steering.PREFIXES, steering.PREFIX_LENGTH)),
    "KL(steered ‖ default) is 0.5 nats on average": (0.5, steering.KL),
    "24 other live features of the dictionary at the same KL": (24, writing.CONTROLS),
    "four tokens of like frequency under this": (4, default(matched_controls, "draws")),
    "For up to 200 content words drawn by seed (four letters or more": (
        (200, 4),
        (writing.WORDS, writing.MIN_WORD),
    ),
    "the two live features whose write lists put the word highest": (2, writing.CANDIDATES),
    "share of the top 20 contexts (theirs: 100)": (20, scores.TOP_CONTEXTS),
    "with the feature added there at 1.0 mean residual norms": (1, scores.STRENGTH),
}


@pytest.fixture(scope="module")
def documents() -> str:
    texts = [(DOCS / name).read_text(encoding="utf-8") for name in ("method.md", "evidence.md")]
    return " ".join(" ".join(texts).split())


@pytest.mark.parametrize("words", DEFINED)
def test_a_number_of_the_method_is_the_one_that_the_document_defines(words: str, documents: str) -> None:
    said, found = DEFINED[words]
    assert words in documents
    assert found == said
