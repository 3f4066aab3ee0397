"""A signed dictionary is, pole by pole, the unsigned one with each row and its opposite."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.checkpoint import CONFIG, export_saelens, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.selection import AbsTopK, TopK
from tests.lexiscope.test_checkpoint import write
from tests.lexiscope.test_dictionary import dense_code, random_dictionary


def both_poles(signed: Dictionary) -> Dictionary:
    """Feature i is its positive pole, feature i + d_sae its negative one."""
    return replace(
        signed,
        W_enc=torch.cat([signed.W_enc, -signed.W_enc], 1),
        b_enc=torch.cat([signed.b_enc, -signed.b_enc]),
        W_dec=torch.cat([signed.W_dec, -signed.W_dec]),
        selection=TopK(signed.selection.max_active or 0),
    )


def signed_dictionary(k: int = 4, *, seed: int = 0, dense: bool = False) -> Dictionary:
    return replace(random_dictionary(k=k, seed=seed, dense=dense), selection=AbsTopK(k))


@given(seed=st.integers(0, 1000), k=st.integers(1, 20))
def test_its_code_is_that_of_both_poles(seed: int, k: int) -> None:
    signed = signed_dictionary(k, seed=seed)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed + 1))
    code, poles = signed.encode(x), dense_code(both_poles(signed).encode(x), 40)
    assert torch.allclose(dense_code(code, 20), poles[:, :20] - poles[:, 20:], atol=1e-5)
    assert (code.values.abs().diff(dim=-1) <= 1e-6).all(), "magnitudes descend"
    assert torch.allclose(signed.reconstruct(x), both_poles(signed).reconstruct(x), atol=1e-4)


def test_runners_up_are_the_next_in_magnitude() -> None:
    signed, x = signed_dictionary(), torch.randn(7, 6)
    chosen = signed.select(x, runners_up=3)
    pre = signed.pre_activations(x)
    every = torch.cat([chosen.code.values, chosen.runners_up.values], 1)
    assert torch.allclose(every.abs(), pre.abs().sort(descending=True).values[:, :7])
    assert torch.equal(every, pre.gather(1, torch.cat([chosen.code.indices, chosen.runners_up.indices], 1)))


@pytest.mark.parametrize("dense", [False, True])
def test_a_checkpoint_keeps_the_selection(tmp_path: Path, dense: bool) -> None:
    signed = signed_dictionary(dense=dense)
    folder = write(tmp_path / "run", signed)
    config = json.loads((folder / CONFIG).read_text())
    assert config["architecture"] == ("lexiscope_abstopk_dense" if dense else "abstopk")
    found = load_checkpoint(folder)
    assert found.dictionary.selection == AbsTopK(4)
    x = torch.randn(5, 6)
    assert torch.equal(found.dictionary.reconstruct(x), signed.reconstruct(x))


def test_saelens_has_the_architecture(tmp_path: Path) -> None:
    export_saelens(load_checkpoint(write(tmp_path / "run", signed_dictionary())), tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (config["architecture"], config["k"]) == ("abstopk", 4)
