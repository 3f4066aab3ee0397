"""What rows of the index say of other names, of a dictionary's names, of distributions and of contexts."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from indexer.rows.dictionary_rows import COSINE_EDGES, DENSITY_EDGES, distributions, name_shares
from indexer.rows.feature_rows import follows_more
from lexiscope.anchors import nearest_tokens, own_cosine, phrases
from lexiscope.evidence import Evidence


def test_only_a_token_that_follows_beats_the_name():
    """Never following a frequent name is not better; following as often as a frequent token would anyway is
    not; nor is the name itself.
    """
    occurrences = np.array([10, 400, 590])
    tokens, names, n = torch.tensor([0, 0, 2, 1]), torch.tensor([1, 1, 0, 1]), np.full(4, 85)
    follows, named = np.array([0, 60, 60, 60]), np.zeros(4)
    assert follows_more(follows, named, tokens, names, n, occurrences).tolist() == [False, True, False, False]


def test_rows_that_are_their_anchors_are_all_in_the_histogram_of_cosines():
    anchors = torch.randn(500, 48)
    rows = normalize(anchors, dim=-1)
    cosines = nearest_tokens(rows, anchors).cosines
    own = torch.arange(500)
    for found in (cosines, own_cosine(rows, anchors, own), phrases(rows, anchors, own).cosines):
        assert found.max() <= 1
    assert cosines[:, 0].min() > 0.999
    counts = distributions(cosines[:, 0], np.zeros(500))["cosine_counts"]
    assert counts == [0] * (len(COSINE_EDGES) - 2) + [500]


def test_every_feature_that_fired_is_in_the_histogram_of_densities_however_rarely():
    found = distributions(torch.zeros(0), np.array([0, 1e-12, 1e-7, 0.5, 1]))["density_counts"]
    assert found == [2, *[0] * (len(DENSITY_EDGES) - 4), 1, 1]


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
