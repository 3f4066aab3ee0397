"""Anchor sets: each is what it says it is, and the bake-off tells a set that names from one that does not."""

import pytest
import torch
import torch.nn.functional as F

from lexiscope.anchor_sets import ANCHOR_SETS, CONTROLS, DESCRIPTIONS, Material, bake_off
from lexiscope.anchors import TokenSums

VOCAB, D = 60, 12


def sums(states: torch.Tensor, repeats: int = 200) -> TokenSums:
    found = TokenSums(VOCAB, D)
    tokens = torch.arange(VOCAB).repeat(repeats)
    noise = torch.randn(len(tokens), D, generator=torch.Generator().manual_seed(3)) * 0.1
    found.add(tokens, states[tokens] + noise)
    return found


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    drawn = torch.randn(VOCAB, D, generator=torch.Generator().manual_seed(1))
    return drawn - drawn.mean(0)


@pytest.fixture(scope="module")
def material(states: torch.Tensor) -> Material:
    draw = torch.Generator().manual_seed(2)
    return Material(
        embedding=torch.randn(VOCAB, D, generator=draw) + 2,
        current=sums(states),
        covariance=torch.cov(states.T),
        following=sums(states.roll(5, 0)),
        previous=sums(states.roll(7, 0)),
        unembedding=torch.randn(VOCAB, D, generator=draw),
        unigram=states + 4,
    )


def test_every_set_has_a_vector_for_every_token_and_a_description(material: Material) -> None:
    assert set(DESCRIPTIONS) == set(ANCHOR_SETS) and set(CONTROLS) < set(ANCHOR_SETS)
    for name, anchors in ANCHOR_SETS.items():
        assert anchors(material).shape == (VOCAB, D), name


def test_class_means_are_the_mean_states_of_their_tokens(material: Material, states: torch.Tensor) -> None:
    for name, expected in (
        ("current", states),
        ("following", states.roll(5, 0)),
        ("previous", states.roll(7, 0)),
    ):
        assert F.cosine_similarity(ANCHOR_SETS[name](material), expected).min() > 0.99, name
    assert torch.allclose(ANCHOR_SETS["unigram"](material), states, atol=1e-5)


def test_the_unembedding_is_carried_through_the_covariance(material: Material) -> None:
    assert material.unembedding is not None
    rows = material.unembedding - material.unembedding.mean(0)
    slow = torch.stack([material.covariance @ row for row in rows])
    assert torch.allclose(ANCHOR_SETS["unembedding"](material), slow, atol=1e-4)


def test_permuted_anchors_are_the_same_vectors_under_other_names(material: Material) -> None:
    current, permuted = ANCHOR_SETS["current"](material), ANCHOR_SETS["permuted"](material)
    same = (permuted[:, None] == current[None]).all(-1)
    assert same.any(1).all() and not same.diagonal().any()


def test_rotated_anchors_keep_their_cosines_and_lose_their_place(material: Material) -> None:
    current, rotated = (F.normalize(ANCHOR_SETS[name](material), dim=-1) for name in ("current", "rotated"))
    assert torch.allclose(current @ current.T, rotated @ rotated.T, atol=1e-4)
    assert (current * rotated).sum(-1).abs().mean() < 0.5


def test_what_was_not_gathered_is_said(material: Material) -> None:
    with pytest.raises(ValueError, match="following"):
        ANCHOR_SETS["following"](material._replace(following=None))


def test_the_bake_off_prefers_the_anchors_that_the_directions_point_at(
    material: Material, states: torch.Tensor
) -> None:
    noise = torch.randn(VOCAB, D, generator=torch.Generator().manual_seed(5))
    directions = F.normalize(states + 0.3 * noise, dim=-1)
    found = bake_off(
        directions,
        torch.ones(VOCAB),
        material._replace(unigram=None),
        ["current", "rotated", "gaussian", "unigram"],
    )
    assert set(found) == {"current", "rotated", "gaussian"}
    assert max(found, key=lambda name: found[name].excess) == "current"
    assert found["current"].live > 0.9 and found["current"].medium == 1
    assert abs(found["gaussian"].excess) < 0.15
