"""Selections whose number of active features follows the token, and of blocks, against a loop over tokens."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lexiscope.adaptive_selection import Blocks, NormMatch, Sparsemax, TwoSided, sparsemax_threshold
from lexiscope.checkpoint import CONFIG, export_saelens, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.selection import Selection
from server.live.interventions.features import DictionaryFeature
from tests.lexiscope.test_checkpoint import write
from tests.lexiscope.test_dictionary import dense_code, random_dictionary

SELECTIONS = [Sparsemax(0.4), NormMatch(12), TwoSided(torch.linspace(0.5, 3, 20)), Blocks(8, 4)]
each_selection = pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: type(s).__name__)


def dictionary(selection: Selection) -> Dictionary:
    """Its rows have one norm, as those of every trained dictionary."""
    found = random_dictionary()
    rows = found.W_dec / found.W_dec.norm(dim=-1, keepdim=True)
    return replace(found, W_dec=rows, selection=selection)


def bisected(scores: Tensor) -> float:
    """τ with Σ max(scores − τ, 0) = 1."""
    low, high = float(scores.max()) - 1, float(scores.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((scores - middle).relu().sum()) > 1 else (low, middle)
    return low


def by_hand(d: Dictionary, x: Tensor) -> Tensor:
    """[d_sae] the code of one activation."""
    pre, selection = x @ d.W_enc + d.b_enc, d.selection
    match selection:
        case Sparsemax(scale):
            return torch.where(scale * pre > max(bisected(scale * pre), 0.0), pre, 0)
        case NormMatch(k):
            codes, order = [], pre.argsort(descending=True)
            for n in range(1, k + 1):
                codes.append(torch.zeros(20).index_copy(0, order[:n], pre[order[:n]].relu()))
            return min(codes, key=lambda code: abs(float(code.norm() - (x - d.b_dec).norm())))
        case TwoSided():
            return torch.where((pre > selection.threshold) | (pre < -selection.threshold), pre, 0)
        case Blocks(k, size):
            norms = [float(block.norm()) for block in pre.split(size)]
            least = sorted(norms, reverse=True)[k // size - 1]
            return torch.cat([block * (norm >= least) for block, norm in zip(pre.split(size), norms)])
    raise AssertionError


@each_selection
def test_the_code_is_that_of_a_loop(selection: Selection) -> None:
    d, x = dictionary(selection), torch.randn(60, 6, generator=torch.Generator().manual_seed(3))
    code = d.encode(x)
    assert torch.allclose(dense_code(code, 20), torch.stack([by_hand(d, one) for one in x]), atol=1e-4)
    assert (code.values.abs().diff(dim=-1) <= 0).all(), "the largest magnitude first"
    chosen = d.select(x, runners_up=3)
    assert torch.allclose(dense_code(chosen.code, 20), dense_code(code, 20))
    left = dense_code(chosen.runners_up, 20)
    assert not ((left != 0) & (dense_code(code, 20) != 0)).any() and (left != 0).any()


def test_the_number_of_active_features_follows_the_token() -> None:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(3))
    for selection in SELECTIONS[:3]:
        assert len((dictionary(selection).encode(x).values != 0).sum(-1).unique()) > 2


@pytest.mark.parametrize("spread", [1e-3, 0.1, 10.0])
def test_the_threshold_of_sparsemax_is_exact_however_large_the_support(spread: float) -> None:
    scores = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * spread
    expected = torch.tensor([bisected(row) for row in scores])
    assert torch.allclose(sparsemax_threshold(scores)[:, 0], expected, atol=1e-4)


@each_selection
def test_folding_changes_no_code(selection: Selection) -> None:
    scaled, x = dictionary(selection), torch.randn(11, 6) * 4
    mean, scale = torch.randn(6), 0.37
    before, after = scaled.encode(x * scale - mean), scaled.fold(mean, scale).encode(x)
    assert torch.allclose(dense_code(before, 20), dense_code(after, 20), atol=1e-3)


@each_selection
def test_a_checkpoint_keeps_it_and_saelens_refuses_it(tmp_path: Path, selection: Selection) -> None:
    d = dictionary(selection)
    folder = write(tmp_path / "run", d)
    found = load_checkpoint(folder)
    x = torch.randn(9, 6)
    assert torch.equal(found.dictionary.encode(x).values, d.encode(x).values)
    assert found.dictionary.identity == d.identity
    assert json.loads((folder / CONFIG).read_text())["architecture"].startswith("lexiscope_")
    with pytest.raises(CheckpointError, match="no architecture of SAELens"):
        export_saelens(found, tmp_path / "out")


@pytest.mark.parametrize(
    ("selection", "field", "wrong"),
    [(Blocks(8, 4), "block_size", 3), (Blocks(8, 4), "block_size", None), (Sparsemax(0.4), "scale", 0)],
)
def test_a_damaged_setting_is_refused_by_name(
    tmp_path: Path, selection: Selection, field: str, wrong: object
) -> None:
    folder = write(tmp_path / "run", dictionary(selection))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {field: wrong}))
    with pytest.raises(CheckpointError, match=f"{field} is"):
        load_checkpoint(folder)


@each_selection
def test_the_activation_of_one_feature_is_that_in_the_whole_code(selection: Selection) -> None:
    d, x = dictionary(selection), torch.randn(40, 6)
    whole = dense_code(d.encode(x), 20)
    for index in (3, 15):
        found = DictionaryFeature(d, index, d.of_feature(index)).activation(x, torch.zeros(40).long())
        assert torch.allclose(found, whole[:, index], atol=1e-4)


def test_a_smaller_k_takes_fewer_of_the_strongest() -> None:
    assert NormMatch(12).at_most(5) == NormMatch(5) and Blocks(8, 4).at_most(7) == Blocks(4, 4)
    with pytest.raises(CheckpointError, match="whole blocks of 4"):
        Blocks(8, 4).at_most(3)
    for selection in (Sparsemax(0.4), TwoSided(torch.ones(20))):
        with pytest.raises(CheckpointError, match="does not select the strongest"):
            selection.at_most(2)
