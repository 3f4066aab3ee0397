"""What weights alone say of features equals a loop over anchors."""

import numpy as np
import pytest
import torch

from indexer.geometry import geometry, name_features, random_cosine
from lexiscope.anchors import random_directions
from lexiscope.checkpoint import AnchorFit

FEATURES, VOCAB, WIDTH = 30, 90, 12


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.fixture
def fit() -> AnchorFit:
    assigned = torch.arange(FEATURES) % 4 - 1
    return AnchorFit(torch.randn(VOCAB, WIDTH), torch.ones(VOCAB), torch.zeros(WIDTH), assigned)


def slow_phrase(direction: np.ndarray, anchors: np.ndarray, name: int) -> tuple[list[int], float]:
    """Further tokens, each that of largest product with what is left, while the combination comes nearer."""
    units = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    chosen, fitted, best = [name], units[name] * (units[name] @ direction), cosine(units[name], direction)
    while len(chosen) < 3:
        more = [*chosen, int(np.argmax(units @ (direction - fitted)))]
        weights = np.linalg.lstsq(units[more].T, direction, rcond=None)[0].clip(min=0)
        trial = weights @ units[more]
        if cosine(trial, direction) <= best + 1e-3:
            break
        chosen, fitted, best = more, trial, cosine(trial, direction)
    return chosen, best


def test_the_cosines_of_a_feature_are_those_of_its_name_its_assigned_token_and_its_phrase(
    fit: AnchorFit,
) -> None:
    directions = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=-1)
    directions[:9] = torch.nn.functional.normalize(fit.anchors[:9] + fit.anchors[9:18], dim=-1)
    embedding, live = torch.randn(VOCAB, WIDTH) + 2, torch.arange(FEATURES) % 5 > 0
    names = name_features(directions, fit)
    found = geometry(directions, fit, names, embedding=embedding, live=live)
    rows, anchors = directions.double().numpy(), fit.anchors.double().numpy()
    centred = (embedding - embedding.mean(0)).double().numpy()
    columns, lengths = found.columns(), set()
    for feature, row in enumerate(rows):
        to_anchors = [cosine(row, anchor) for anchor in anchors]
        first, second = sorted(range(VOCAB), key=lambda token: -to_anchors[token])[:2]
        assert names.tokens[feature, 0] == first
        assert columns["cosine"][feature] == pytest.approx(to_anchors[first], abs=1e-5)
        assert columns["margin"][feature] == pytest.approx(to_anchors[first] - to_anchors[second], abs=1e-5)
        assert columns["cosine_embedding"][feature] == pytest.approx(cosine(row, centred[first]), abs=1e-5)
        token = int(fit.assigned[feature])
        to_assigned = to_anchors[token] if token >= 0 else float("nan")
        assert columns["cosine_assigned"][feature] == pytest.approx(to_assigned, abs=1e-5, nan_ok=True)
        tokens, best = slow_phrase(row, anchors, first) if live[feature] else ([first], to_anchors[first])
        assert columns["phrase_tokens"][feature] == tokens
        assert columns["phrase_cosine"][feature] == pytest.approx(best, abs=1e-4)
        lengths.add(len(tokens))
    assert {1, 3} <= lengths


def test_the_random_cosine_is_the_mean_over_directions_of_the_covariance(fit: AnchorFit) -> None:
    root = torch.randn(WIDTH, WIDTH)
    covariance = root @ root.T
    drawn = random_directions(covariance, 512).double().numpy()
    nearest = [max(cosine(row, anchor) for anchor in fit.anchors.double().numpy()) for row in drawn]
    assert random_cosine(covariance, fit) == pytest.approx(np.mean(nearest), abs=1e-5)
