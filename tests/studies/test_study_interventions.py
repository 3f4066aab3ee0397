"""Changes of the stream move what they should, and losses are those of a slow loop."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lexiscope.adaptive_selection import Sparsemax, TwoSided
from lexiscope.checkpoint import load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.selection import Threshold
from studies.controls import active_of, drawn_alike, random_dictionary
from studies.interventions import Positions, added, adding, clamped, gated, losses, unchanged


@pytest.fixture(scope="module")
def dictionary(runs: list[Path]) -> Dictionary:
    return load_checkpoint(runs[2]).dictionary


@pytest.fixture(scope="module")
def found(model: LanguageModel) -> list[np.ndarray]:
    texts = ("the cat sat on a mat and then", "one dog ran to Paris", "rain fell over old grey stone houses")
    return [np.array([model.bos, *model.tokenise(text)]) for text in texts]


def test_losses_are_those_of_one_passage_after_another(model: LanguageModel, found: list[np.ndarray]) -> None:
    vector = torch.randn(model.d_model)
    first = [1, 3, 2]
    for start in (None, first):
        fast = losses(model, 1, found, {"": unchanged, "moved": added(vector)}, first=start)
        for number, ids in enumerate(found):
            tokens = torch.from_numpy(ids)[None]
            for name, by in (("", 0.0), ("moved", 1.0)):
                logits = model.logits(
                    tokens, {1: lambda x, by=by: torch.cat([x[:, :1], x[:, 1:] + by * vector], 1)}
                )
                nats = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")
                begin = 2 if start is None else max(2, start[number])
                slow = float(nats[begin - 1 :].mean())
                assert float(fast[name][number]) == pytest.approx(slow, abs=1e-4)


def test_a_clamped_feature_writes_its_new_value_where_it_was_active(
    model: LanguageModel, dictionary: Dictionary, found: list[np.ndarray]
) -> None:
    tokens = torch.from_numpy(found[0])[None]
    x = model.read(tokens, [1])[1][0, 1:].float()
    code = dictionary.encode(x)
    feature = int(code.indices[0, 0])
    values = torch.full((dictionary.d_sae,), torch.nan)
    values[feature] = -2.0
    out = clamped(dictionary, values)(x, Positions(tokens[0, 1:], torch.zeros(len(x), dtype=torch.long)))
    for row in range(len(x)):
        own = [
            float(v)
            for v, i in zip(code.values[row], code.indices[row], strict=True)
            if i == feature and v != 0
        ]
        slow = x[row] + sum((-2.0 - value) * dictionary.W_dec[feature] for value in own)
        assert torch.allclose(out[row], slow, atol=1e-4)
    assert not torch.allclose(out, x)


def test_a_gate_stays_open_once_it_has_opened() -> None:
    x = torch.zeros(6, 2)
    at = Positions(torch.tensor([5, 7, 5, 5, 5, 7]), torch.tensor([0, 0, 0, 1, 1, 1]))
    change = gated(added(torch.ones(2)), lambda x, at: at.tokens == 7)
    assert change(x, at)[:, 0].tolist() == [0, 1, 1, 0, 0, 1]
    never = gated(added(torch.ones(2)), lambda x, at: at.tokens == 9)
    assert torch.equal(never(x, at), x)


def test_the_prompts_first_position_is_left_alone() -> None:
    patch = adding(torch.ones(3))
    assert patch(torch.zeros(1, 4, 3))[0, :, 0].tolist() == [0, 1, 1, 1]
    assert patch(torch.zeros(1, 1, 3))[0, :, 0].tolist() == [1]


def test_drawn_features_are_others_that_fire_about_as_often() -> None:
    fired = torch.arange(200) % 100
    chosen = torch.tensor([90, 95, 50, 10])
    drawn = drawn_alike(fired, chosen, seed=0)
    assert len(drawn) == 4 and not set(drawn.tolist()) & set(chosen.tolist())
    assert all(abs(int(fired[a]) - int(fired[b])) <= 10 for a, b in zip(chosen, drawn, strict=True))
    assert len(set(drawn.tolist())) == 4


def test_a_random_dictionary_keeps_the_selection_and_centres(
    model: LanguageModel, dictionary: Dictionary, found: list[np.ndarray]
) -> None:
    x = model.read(torch.from_numpy(found[0])[None], [1])[1][0, 1:].float()
    drawn = random_dictionary(dictionary, x, active=4, seed=0)
    code = drawn.encode(x)
    assert code.values.shape == dictionary.encode(x).values.shape
    row, feature = 2, int(code.indices[2, 0])
    slow = float((x[row] - x.mean(0)) @ drawn.W_dec[feature])
    assert float(code.values[row, 0]) == pytest.approx(slow, abs=1e-3)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("kind", ["threshold", "two-sided", "sparsemax"])
def test_a_random_dictionary_has_as_many_active_features_whatever_the_scale(kind: str, scale: float) -> None:
    rows, x = torch.nn.functional.normalize(torch.randn(200, 16), dim=-1), 3 + torch.randn(400, 16)
    selection = {
        "threshold": Threshold(torch.rand(200) + 1),
        "two-sided": TwoSided(torch.rand(200) + 1),
        "sparsemax": Sparsemax(3.0),
    }[kind]
    one = Dictionary(rows.T, torch.zeros(200), rows, torch.zeros(16), selection)
    scaled = one.fold(torch.zeros(16), 1 / scale)
    active = active_of(scaled.encode(scale * x))
    assert active == pytest.approx(active_of(one.encode(x)), rel=0.01) and active > 1
    drawn = random_dictionary(scaled, scale * x, active=active, seed=0)
    assert type(drawn.selection) is type(selection)
    assert active_of(drawn.encode(scale * x)) == pytest.approx(active, rel=0.02)
