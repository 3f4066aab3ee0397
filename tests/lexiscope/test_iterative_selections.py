"""Dictionaries that encode what they have left over: matching pursuit and boosting, against a loop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.checkpoint import CONFIG, export_saelens, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.selection import GroupTopK, Pursuit, Selection, TopK
from server.live.interventions.features import DictionaryFeature
from tests.lexiscope.test_checkpoint import write
from tests.lexiscope.test_dictionary import dense_code, random_dictionary

SELECTIONS = [Pursuit(4), GroupTopK(4, 2), GroupTopK(4, 2, boosted=True)]
each_selection = pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: s.kind)


def dictionary(selection: Selection, *, dense: bool = False) -> Dictionary:
    found = random_dictionary(dense=dense)
    if not isinstance(selection, Pursuit):
        return replace(found, selection=selection)
    rows = F.normalize(found.W_dec, dim=-1)
    return replace(found, W_dec=rows, W_enc=rows.T.contiguous(), selection=selection)


def by_hand(d: Dictionary, x: Tensor) -> Tensor:
    """[d_sae] the code of one activation."""
    code, left = torch.zeros(d.d_sae), x.clone()
    match d.selection:
        case Pursuit(k):
            for _ in range(k):
                pre = left @ d.W_enc + d.b_enc
                best = int(pre.argmax())
                code[best] += pre[best].relu()
                left = left - pre[best].relu() * d.W_dec[best]
        case GroupTopK(k, groups, boosted):
            for members in torch.arange(d.d_sae).chunk(groups):
                pre = (left @ d.W_enc + d.b_enc)[members]
                chosen = members[pre.topk(k // groups).indices]
                code[chosen] = (left @ d.W_enc + d.b_enc)[chosen].relu()
                left = left - code[chosen] @ d.W_dec[chosen] if boosted else left
    return code


@each_selection
def test_the_code_is_that_of_a_loop(selection: Selection) -> None:
    d, x = dictionary(selection), torch.randn(9, 6)
    code = d.encode(x)
    assert torch.allclose(dense_code(code, 20), torch.stack([by_hand(d, one) for one in x]), atol=1e-4)
    assert (code.values.diff(dim=-1) <= 0).all() and code.values.shape[1] == 4
    chosen = d.select(x, runners_up=3)
    assert torch.equal(chosen.code.indices, code.indices)
    shared = (chosen.runners_up.indices[:, :, None] == code.indices[:, None]) & (
        chosen.runners_up.values[:, :, None] > 0
    )
    assert not shared.any()


@each_selection
def test_folding_changes_no_code(selection: Selection) -> None:
    scaled, x = dictionary(selection), torch.randn(11, 6) * 4
    mean, scale = torch.randn(6), 0.37
    before, after = scaled.encode(x * scale - mean), scaled.fold(mean, scale).encode(x)
    assert torch.allclose(dense_code(before, 20), dense_code(after, 20), atol=1e-3)


@each_selection
@pytest.mark.parametrize("dense", [False, True])
def test_a_checkpoint_keeps_it_and_saelens_refuses_it(
    tmp_path: Path, selection: Selection, dense: bool
) -> None:
    d = dictionary(selection, dense=dense)
    folder = write(tmp_path / "run", d)
    assert load_checkpoint(folder).dictionary.selection == selection
    assert json.loads((folder / CONFIG).read_text())["architecture"].startswith("lexiscope_")
    with pytest.raises(CheckpointError, match="no architecture of SAELens"):
        export_saelens(load_checkpoint(folder), tmp_path / "out")


def test_groups_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", dictionary(GroupTopK(4, 2)))
    config = json.loads((folder / CONFIG).read_text())
    for groups in (3, 0, "2", None):
        (folder / CONFIG).write_text(json.dumps(config | {"groups": groups}))
        with pytest.raises(CheckpointError, match="groups is"):
            load_checkpoint(folder)


@each_selection
def test_the_activation_of_one_feature_is_that_in_the_whole_code(selection: Selection) -> None:
    d, x = dictionary(selection), torch.randn(40, 6)
    whole = dense_code(d.encode(x), 20)
    for index in (3, 15):
        found = DictionaryFeature(d, index, d.of_feature(index)).activation(x, torch.zeros(40).long())
        assert torch.allclose(found, whole[:, index], atol=1e-4)


def test_only_pursuit_takes_a_smaller_k() -> None:
    assert Pursuit(4).at_most(2) == Pursuit(2)
    with pytest.raises(CheckpointError, match="does not select the strongest"):
        GroupTopK(4, 2).at_most(2)


def test_two_ensembles_with_the_same_weights_are_two_dictionaries() -> None:
    identities = {dictionary(selection).identity for selection in SELECTIONS[1:]}
    assert len(identities | {replace(dictionary(SELECTIONS[1]), selection=TopK(4)).identity}) == 3
