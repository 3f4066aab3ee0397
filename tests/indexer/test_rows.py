"""What the row of a feature says of other names, and the row of a dictionary of all its names."""

import numpy as np
import pytest
import torch

from indexer.rows.dictionary_rows import name_shares
from indexer.rows.feature_rows import follows_more
from lexiscope.evidence import Evidence


def test_only_a_token_that_follows_beats_the_name():
    """Never following a frequent name is not better; following as often as a frequent token would anyway is
    not; nor is the name itself.
    """
    occurrences = np.array([10, 400, 590])
    tokens, names, n = torch.tensor([0, 0, 2, 1]), torch.tensor([1, 1, 0, 1]), np.full(4, 85)
    follows, named = np.array([0, 60, 60, 60]), np.zeros(4)
    assert follows_more(follows, named, tokens, names, n, occurrences).tolist() == [False, True, False, False]


def test_the_names_of_a_dictionary_are_weighed_by_feature_firing_and_energy() -> None:
    """Four features, the last of them dead; 0.8 is aligned, and half of the firings are half."""
    nothing = torch.zeros(4)
    family = torch.tensor([0.5, 0.49, 0.9, 1.0])
    found = name_shares(
        torch.tensor([3, 3, 5, 6]),
        torch.tensor([0.9, 0.8, 0.79, 0.95]),
        torch.tensor([0.81, 0.1, 0.8, 0.9]),
        live=torch.tensor([True, True, True, False]),
        firings=torch.tensor([70, 20, 10, 5]),
        energy=torch.tensor([1.0, 6.0, 3.0, 5.0]),
        evidence=Evidence(nothing, {"reads_family": family}, {}, *[nothing] * 4),
        occurrences=torch.tensor([1, 0, 2, 4, 0, 7, 9]),
    )
    assert found == {
        "aligned_all": pytest.approx(3 / 4),
        "aligned_live": pytest.approx(2 / 3),
        "aligned_firing": pytest.approx(90 / 100),
        "aligned_energy": pytest.approx(7 / 10),
        "aligned_live_embedding": pytest.approx(2 / 3),
        "aligned_firing_embedding": pytest.approx(80 / 100),
        "half_live": pytest.approx(2 / 3),
        "coverage": pytest.approx(1 / 5),  # of five tokens that occur, one names a live, aligned feature
    }
