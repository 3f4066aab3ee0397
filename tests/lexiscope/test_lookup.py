"""A token look-up: what it takes off and adds back, on disk, and what refuses it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lexiscope.checkpoint import Checkpoint, export_saelens, load_checkpoint, save_weights
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from tests.lexiscope.test_dictionary import random_dictionary

VOCAB, D = 9, 6


def with_lookup(*, dense: bool = True) -> Dictionary:
    rows = torch.randn(VOCAB, D, generator=torch.Generator().manual_seed(1))
    return replace(random_dictionary(d_in=D, dense=dense), lookup=rows.bfloat16())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(20, D, generator=torch.Generator().manual_seed(2)) * 2 + 1


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (20,), generator=torch.Generator().manual_seed(3))


def test_the_code_and_the_dense_path_explain_what_the_look_up_leaves(
    x: torch.Tensor, tokens: torch.Tensor
) -> None:
    d = with_lookup()
    assert d.lookup is not None
    row, alone = d.lookup[tokens].float(), replace(d, lookup=None)
    code, expected = d.encode(x, tokens), alone.encode(x - row)
    assert torch.equal(code.values, expected.values) and torch.equal(code.indices, expected.indices)
    assert torch.allclose(d.reconstruct(x, tokens), alone.reconstruct(x - row) + row, atol=1e-5)
    parts = d.parts(code, x, tokens)
    assert torch.equal(parts.lookup, row)
    assert torch.allclose(parts.dense, alone.dense_part(x - row), atol=1e-5)
    of_one = d.of_feature(int(code.indices[0, 0])).encode(x, tokens).values[0, 0]
    assert of_one == pytest.approx(code.values[0, 0].item(), rel=1e-5)


def test_folding_takes_the_mean_into_the_look_up(x: torch.Tensor, tokens: torch.Tensor) -> None:
    d = with_lookup()
    d = replace(d, lookup=d.lookup.float())
    mean, scale = torch.arange(D) / 3, 0.7
    folded = d.fold(mean, scale)
    scaled = x * scale - mean
    assert torch.allclose(folded.encode(x, tokens).values, d.encode(scaled, tokens).values, atol=1e-5)
    expected = (d.reconstruct(scaled, tokens) + mean) / scale
    assert torch.allclose(folded.reconstruct(x, tokens), expected, atol=1e-5)


def test_tokens_are_needed_and_must_be_of_the_vocabulary(x: torch.Tensor, tokens: torch.Tensor) -> None:
    d = with_lookup()
    with pytest.raises(CheckpointError, match="give the token that each activation stands on"):
        d.encode(x)
    for wrong in (VOCAB, -1):
        tokens[3] = wrong
        with pytest.raises(CheckpointError, match=f"Token {wrong} is not one of the 9"):
            d.encode(x, tokens)
    with pytest.raises(CheckpointError, match="for 9 tokens, but the language model has 10"):
        d.check_vocabulary(10, what="run")


def test_it_cannot_stand_beside_a_normalisation_or_in_a_transcoder() -> None:
    d = with_lookup(dense=False)
    with pytest.raises(CheckpointError, match="normalises its input"):
        replace(d, normalise="layer_norm")
    with pytest.raises(CheckpointError, match="is a transcoder"):
        replace(d, W_dec=torch.zeros(20, D + 1))


def saved(folder: Path, dictionary: Dictionary) -> Checkpoint:
    folder.mkdir()
    save_weights(
        folder, dictionary, fit=None, model="m", hook="blocks.1.hook_resid_post", context=8, details={}
    )
    return load_checkpoint(folder)


@pytest.mark.parametrize("dense", [False, True])
def test_a_checkpoint_keeps_it_in_bf16_and_saelens_is_refused(
    dense: bool, tmp_path: Path, x: torch.Tensor, tokens: torch.Tensor
) -> None:
    d = with_lookup(dense=dense)
    found = saved(tmp_path / "run", d)
    assert found.architecture == ("lexiscope_topk_dense_lookup" if dense else "lexiscope_topk_lookup")
    assert found.dictionary.lookup is not None and found.dictionary.lookup.dtype == torch.bfloat16
    assert torch.equal(found.dictionary.reconstruct(x, tokens), d.reconstruct(x, tokens))
    with pytest.raises(CheckpointError, match="token look-up beside its features"):
        export_saelens(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_look_up_of_another_width_is_refused(tmp_path: Path) -> None:
    d = with_lookup()
    with pytest.raises(CheckpointError, match=r"lookup has shape \(9, 4\)"):
        saved(tmp_path / "run", replace(d, lookup=torch.zeros(9, 4).bfloat16()))
