"""What a feature's row says of other names."""

import numpy as np
import torch

from indexer.rows.feature_rows import follows_more


def test_only_a_token_that_follows_beats_the_name():
    """Never following a frequent name is not better; following as often as a frequent token would anyway is
    not; nor is the name itself.
    """
    occurrences = np.array([10, 400, 590])
    tokens, names, n = torch.tensor([0, 0, 2, 1]), torch.tensor([1, 1, 0, 1]), np.full(4, 85)
    follows, named = np.array([0, 60, 60, 60]), np.zeros(4)
    assert follows_more(follows, named, tokens, names, n, occurrences).tolist() == [False, True, False, False]
