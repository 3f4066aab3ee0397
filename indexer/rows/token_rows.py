"""The rows of a token look-up as people browse them: what the model takes for the same word at this layer,
and what each row writes.
"""

import pyarrow as pa
import torch

from indexer.geometry import logit_effect, neighbours
from indexer.rows.analysis import AnalysedDictionary
from indexer.rows.columns import rows
from lexiscope.language_model import LanguageModel
from store import arrow_schema

NEIGHBOURS = 8


def token_row_table(analysed: AnalysedDictionary, model: LanguageModel) -> pa.Table:
    """One row a token that occurs in the training text, without their mean; none without a look-up. Rows of
    other tokens are estimates, and say nothing of their own.
    """
    lookup, counts = analysed.dictionary.lookup, analysed.named.token_counts
    seen = (counts > 0).nonzero().squeeze(1)
    if lookup is None or not len(seen):
        return arrow_schema("token_row").empty_table()
    norms = (lookup[seen].float() - lookup.mean(0, dtype=torch.float32)).norm(dim=-1)
    unit = analysed.dictionary.lookup_directions(seen)
    every = torch.arange(len(seen))
    near = neighbours(unit, unit, among=every, limit=NEIGHBOURS, itself=True)
    effect = logit_effect(model, unit, seen)
    columns = {
        "dictionary_id": [analysed.dictionary_id] * len(seen),
        "token_id": seen,
        "trained_on": counts[seen].long(),
        "norm": norms / analysed.mean_norm,
        "neighbour_tokens": seen[near.tokens],
        "neighbour_cosines": near.cosines,
        "pos_tokens": effect.positive.tokens,
        "pos_values": effect.positive.cosines,
        "own_rank": effect.rank,
    }
    return rows("token_row", columns)
