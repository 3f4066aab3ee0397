"""Tokens are drawn from the requested distribution."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.records.requests import Sampling
from server.live.generation.sampling import Sampler, keep_likely


def drawn(logits, n=2000, **sampling):
    sampler = Sampler(Sampling(max_tokens=1, **sampling), len(logits), logits.shape[-1], torch.device("cpu"))
    return torch.stack([sampler.draw(logits) for _ in range(n)])


def test_equal_rows_draw_equal_tokens_and_the_seed_decides_which():
    logits = torch.randn(1, 50).expand(2, 50)
    tokens = drawn(logits, seed=4)
    assert torch.equal(tokens[:, 0], tokens[:, 1])
    assert torch.equal(tokens, drawn(logits, seed=4)) and not torch.equal(tokens, drawn(logits, seed=5))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    shares = drawn(logits, n=20_000, temperature=temperature).flatten().bincount(minlength=4) / 20_000
    assert torch.allclose(shares, (logits[0] / temperature).softmax(-1), atol=0.02)


def test_temperature_0_takes_the_most_likely_token():
    assert drawn(torch.tensor([[0.0, 3.0, 1.0]]), n=20, temperature=0).eq(1).all()


@pytest.mark.parametrize("sampling", [{"temperature": 5e-324}, {"temperature": 1e-40}, {"top_p": 5e-324}])
def test_the_smallest_temperature_and_top_p_take_the_most_likely_token(sampling):
    logits = torch.tensor([[0.0, 300.0, 299.0], [-1e5, -300.0, -299.999]])
    assert drawn(logits, n=20, **sampling).eq(torch.tensor([1, 2])).all()


def test_the_highest_temperature_and_top_p_draw_from_all_tokens():
    shares = drawn(torch.zeros(1, 4), n=4000, temperature=5, top_p=1 - 2**-53).flatten().bincount() / 4000
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.05)


def test_only_the_k_most_likely_tokens_are_drawn():
    assert set(drawn(torch.randn(1, 50), top_k=3, temperature=3).flatten().tolist()) <= set(range(50))
    logits = torch.arange(50.0)[None]
    assert set(drawn(logits, top_k=3, temperature=5).flatten().tolist()) == {47, 48, 49}


@given(logits=st.lists(st.floats(-5, 5), min_size=2, max_size=12), top_p=st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_most_likely_tokens_with_probability_p(logits, top_p):
    given_logits = torch.tensor([logits], dtype=torch.double)
    kept = torch.isfinite(keep_likely(given_logits, top_k=0, top_p=top_p))[0]
    p = given_logits.softmax(-1)[0]
    assert p[kept].sum() >= top_p - 1e-9
    assert p[kept].sum() - p[kept].min() < top_p + 1e-9
    assert not (~kept).any() or p[kept].min() >= p[~kept].max()


def test_the_frequency_penalty_is_subtracted_for_each_occurrence_of_a_token():
    """Greedy with a penalty of 1: token 0 leads by 2.5, so it comes three times before token 1."""
    tokens = drawn(torch.tensor([[2.5, 0.0]]), n=6, temperature=0, frequency_penalty=1.0)
    assert tokens.flatten().tolist() == [0, 0, 0, 1, 0, 1]
