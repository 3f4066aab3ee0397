"""Anchors: rows stay in their cones, names are the nearest tokens, and the transported embedding
generalises.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.anchors import (
    TokenSums,
    bucket,
    class_mean_anchors,
    into_cones,
    nearest_embedding,
    nearest_tokens,
    phrases,
    random_directions,
    rows_per_token,
    stay_in_cones,
    transport,
)
from lexiscope.errors import TextError


@given(seed=st.integers(0, 1000), cosine=st.floats(0.1, 0.99))
def test_a_projected_row_is_unit_and_within_its_cone(seed: int, cosine: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows, anchors = (
        torch.randn(20, 8, generator=draw),
        F.normalize(torch.randn(20, 8, generator=draw), dim=-1),
    )
    held = into_cones(rows, anchors, cosine)
    assert torch.allclose(held.norm(dim=-1), torch.ones(20), atol=1e-5)
    assert ((held * anchors).sum(-1) >= cosine - 1e-5).all()


def test_a_row_inside_its_cone_does_not_move() -> None:
    anchor = F.normalize(torch.randn(1, 8), dim=-1)
    row = F.normalize(anchor + 0.1 * torch.randn(1, 8), dim=-1)
    assert torch.allclose(into_cones(row, anchor, 0.8), row, atol=1e-6)


@given(counts=st.lists(st.integers(0, 1000), min_size=2, max_size=50).filter(any), rows=st.integers(1, 500))
def test_every_row_goes_to_a_token_that_occurs(counts: list[int], rows: int) -> None:
    given_rows = rows_per_token(torch.tensor(counts), rows)
    assert given_rows.sum() == rows
    assert all(n == 0 for n, count in zip(given_rows.tolist(), counts, strict=True) if count == 0)


def test_rows_go_to_tokens_in_proportion_to_a_power_of_their_counts() -> None:
    counts = [5000, 600, 70, 8, 0, 1]
    whole = sum(count**0.7 for count in counts if count)
    expected = [1000 * count**0.7 / whole if count else 0 for count in counts]
    assert rows_per_token(torch.tensor(counts), 1000).tolist() == pytest.approx(expected, abs=1)


def test_names_are_the_nearest_anchors_in_order() -> None:
    directions, anchors = torch.randn(30, 8), torch.randn(100, 8)
    found = nearest_tokens(directions, anchors, 3)
    cosines = F.cosine_similarity(directions[:, None], anchors[None], dim=-1)
    assert torch.equal(found.tokens, cosines.topk(3).indices)


def test_the_transported_embedding_reaches_tokens_left_out_of_its_fit() -> None:
    embedding, secret = torch.randn(300, 10), torch.randn(10, 12)
    sums = TokenSums(300, 12)
    tokens = torch.arange(200).repeat(5)  # the last hundred are never seen
    states = (embedding - embedding[:200].mean(0)) @ secret
    sums.add(tokens, states[tokens] + 0.1 * torch.randn(1000, 12))
    carried = transport(embedding, sums, ridge=1e-4)
    assert F.cosine_similarity(carried[200:], states[200:], dim=-1).mean() > 0.95


def test_a_frequent_token_is_anchored_at_its_mean_state_and_an_unseen_one_at_the_transported_embedding() -> (
    None
):
    embedding, sums = torch.randn(50, 6), TokenSums(50, 6)
    state = torch.randn(6)
    sums.add(
        torch.cat([torch.zeros(5000, dtype=torch.long), torch.arange(1, 40)]),
        torch.cat([state.expand(5000, 6), torch.randn(39, 6)]),
    )
    anchors = class_mean_anchors(embedding, sums)
    assert F.cosine_similarity(anchors[0], state, dim=0) > 0.999
    assert torch.allclose(anchors[45], transport(embedding, sums)[45], atol=1e-5)


def test_a_phrase_explains_at_least_as_much_as_the_name_alone() -> None:
    anchors = F.normalize(torch.randn(200, 16), dim=-1)
    mixed = F.normalize(anchors[3] + anchors[7], dim=-1)[None]
    name = nearest_tokens(mixed, anchors, 1)
    found = phrases(mixed, anchors, name.tokens[:, 0])
    assert {3, 7} <= set(found.tokens[0].tolist())
    assert found.cosines[0] > max(0.99, name.cosines[0, 0].item())


def test_random_directions_have_the_asked_covariance() -> None:
    root = torch.randn(5, 5)
    covariance = root @ root.T
    found = torch.cov(random_directions(covariance, 50_000).T)
    assert torch.allclose(found, covariance, atol=0.15 * covariance.abs().max().item())


@pytest.mark.parametrize(
    ("cosine", "name"), [(0.8, "strong"), (0.79, "medium"), (0.5, "medium"), (0.3, "weak"), (0.29, "none")]
)
def test_buckets_are_the_papers(cosine: float, name: str) -> None:
    assert bucket(cosine) == name


def test_a_gradient_out_of_the_cone_is_taken_off_at_its_edge_and_nowhere_else() -> None:
    draw = torch.Generator().manual_seed(0)
    anchors = F.normalize(torch.randn(5, 6, generator=draw), dim=-1)
    assigned = torch.tensor([0, 1, 2, 3, 4, 0])
    edge = into_cones(torch.randn(6, 6, generator=draw), anchors[assigned], 0.8)
    edge[5] = anchors[0]  # well inside
    gradient = torch.randn(6, 6, generator=draw)
    gradient -= (gradient * edge).sum(-1, keepdim=True) * edge  # tangent, as the step makes it
    kept = gradient.clone()
    stay_in_cones(kept, edge, anchors, assigned, 0.8)
    for i in range(6):
        anchor = anchors[assigned[i]]
        slope = float(
            gradient[i] @ anchor
        )  # descent along −gradient lowers the cosine where this is positive
        if i < 5 and slope > 0:
            assert float(kept[i] @ anchor) == pytest.approx(0, abs=1e-5)
        else:
            assert torch.equal(kept[i], gradient[i])


def test_a_text_of_one_token_is_refused_in_words() -> None:
    sums = TokenSums(5, 4)
    sums.add(torch.full((9,), 2), torch.randn(9, 4))
    with pytest.raises(TextError, match="same token"):
        transport(torch.randn(5, 4), sums)
    sums.add(torch.tensor([3]), torch.randn(1, 4))
    assert torch.isfinite(transport(torch.randn(5, 4), sums)).all()
    with pytest.raises(TextError, match="same token"):
        transport(torch.ones(5, 4), sums)  # tokens that the embedding does not tell apart


def test_the_nearest_embedding_is_centred_and_has_no_cosine_at_another_width() -> None:
    embedding = torch.eye(4) + 3
    directions = torch.nn.functional.normalize(torch.eye(4) - 0.25, dim=-1)
    assert torch.allclose(nearest_embedding(directions, embedding), torch.ones(4), atol=1e-5)
    assert nearest_embedding(directions, torch.ones(9, 6)).tolist() == [0, 0, 0, 0]
