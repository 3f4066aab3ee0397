"""Dictionaries with a token look-up: reading and steering know the token, and rows can be added."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError, ModelError
from server.live.interventions import LoadedDictionary, load_direction, load_feature, make_plan, patches_of
from tests.live.jobs import MEAN_NORM, VOCAB, D

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def dictionary(tiny, model_cache) -> Dictionary:
    found = model_cache.dictionary(tiny.checkpoints[0]).dictionary
    rows = torch.randn(VOCAB, D, generator=torch.Generator().manual_seed(5)) * 3
    return replace(found, lookup=rows.bfloat16())


@pytest.fixture(scope="module")
def load(dictionary):
    return lambda path: LoadedDictionary(dictionary, MEAN_NORM)


@pytest.fixture(scope="module")
def tokens(model) -> torch.Tensor:
    return torch.tensor([[model.bos, *model.tokenise(PROMPT)]])


@pytest.fixture(scope="module")
def x(model, tokens) -> torch.Tensor:
    return model.read(tokens, [0])[0]


def row_of(located, token):
    ref = located.feature.model_copy(
        update={"direction": "row", "index": token, "id": f"tiny/0-random/token-{token}"}
    )
    return located.model_copy(update={"feature": ref})


def test_a_change_of_an_activation_goes_by_the_code_of_what_the_look_up_leaves(
    tiny, model, load, dictionary, tokens, x
) -> None:
    left = x[0, 1:] - dictionary.lookup[tokens[0, 1:]].float()
    code = replace(dictionary, lookup=None).encode(left)
    index = int(code.indices[0, 0])
    plan = make_plan([tiny.does(0, index, "ablate")], load, model, prompt=len(PROMPT))
    moved = patches_of([plan], tokens, [0])[0](x) - x
    activation = torch.where(code.indices == index, code.values, 0).sum(-1, keepdim=True)
    assert (activation > 0).any() and not moved[0, 0].any()
    assert torch.allclose(moved[0, 1:], -activation * dictionary.W_dec[index], atol=1e-4)


def test_a_row_is_added_along_its_deviation_from_the_mean_of_all_rows(
    tiny, model, load, dictionary, tokens, x
) -> None:
    one = row_of(tiny.does(0, 3, "add", 0.5), 65)
    plan = make_plan([one], load, model, prompt=len(PROMPT))
    moved = (patches_of([plan], tokens, [0])[0](x) - x)[0, 1:]
    rows = dictionary.lookup.float()
    direction = F.normalize(rows[65] - rows.mean(0), dim=0)
    assert torch.allclose(moved, (0.5 * MEAN_NORM * direction).expand_as(moved), atol=1e-4)
    assert torch.allclose(load_direction(one, load, model), direction, atol=1e-6)


def test_a_tokens_embedding_and_what_the_lens_says_writes_it_are_added(tiny, model, load, tmp_path) -> None:
    lens = torch.randn(model.d_model, model.d_model)
    save_file({"0": lens}, tmp_path / "lens")
    one = tiny.does(0, 3, "add", 0.5).model_copy(update={"lens_path": str(tmp_path / "lens")})
    rows = model.unembedding()
    expected = {
        "embedding": model.embedding[65] - model.embedding.mean(0),
        "jacobian": lens.T @ (rows[65] - rows.mean(0)),
    }
    for kind, direction in expected.items():
        ref = one.feature.model_copy(update={"direction": kind, "index": 65})
        found = load_direction(one.model_copy(update={"feature": ref}), load, model)
        assert torch.allclose(found, F.normalize(direction, dim=0), atol=1e-5)


@pytest.mark.parametrize("mode", ["clamp", "scale", "ablate"])
def test_a_row_has_no_activation_to_change(tiny, model, load, mode) -> None:
    one = row_of(tiny.does(0, 3, mode, 2.0, unit="activation" if mode == "clamp" else "factor"), 65)
    with pytest.raises(ModelError, match="it can be added, and nothing else"):
        make_plan([one], load, model, prompt=4)
    with pytest.raises(ModelError, match="direction of a token"):
        load_feature(one, load, model)


def test_a_row_that_is_not_there_is_refused(tiny, model, load, model_cache) -> None:
    with pytest.raises(CheckpointError, match="Token 5000 is not one of the 300"):
        load_direction(row_of(tiny.does(0, 3, "add"), 5000), load, model)
    with pytest.raises(CheckpointError, match="has no token look-up"):
        load_direction(row_of(tiny.does(0, 3, "add"), 65), model_cache.dictionary, model)


def test_a_look_up_of_another_vocabulary_is_refused(tiny, model, dictionary) -> None:
    other = LoadedDictionary(replace(dictionary, lookup=dictionary.lookup[:-1]), MEAN_NORM)
    with pytest.raises(CheckpointError, match="for 299 tokens, but the language model has 300"):
        make_plan([tiny.does(0, 3, "add")], lambda path: other, model, prompt=4)
