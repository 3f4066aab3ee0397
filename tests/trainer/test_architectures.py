"""Every architecture: its gradients are those of its losses, its constraints hold, and it learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lexiscope.sparse_code import SparseCode
from trainer.activations.passages import LayerActivations, TrainingBatch
from trainer.architectures import ARCHITECTURES, Architecture, Config, Start, Step, build
from trainer.architectures.base import Gradients, Pass
from trainer.architectures.cone import Cone, ConeConfig
from trainer.architectures.itda import ITDAConfig
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import TrainingDiverged
from trainer.presets import recipes
from trainer.step import Trained, Training, train_on_sample

D, VOCAB, D_SAE = 12, 30, 40
STEP = Step(3, 10)


def sample(seed: int = 0) -> LayerActivations:
    """2,000 activations around the state of their token, in 100 passages of 20."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(VOCAB, D, generator=draw) * 3
    tokens = torch.randint(0, VOCAB, (2000,), generator=draw)
    x = (states[tokens] + torch.randn(2000, D, generator=draw) + 4).bfloat16()
    return LayerActivations(x, tokens, torch.arange(0, 2000, 20), torch.arange(100), None)


def small(config: Config, **changes: Any) -> Config:
    """The config at a size that trains in a second."""
    sizes: dict[str, Any] = {
        "k": 4,
        "batch": 8 if config.batch_of == "passages" else 64,
        "dense_rank": 0 if config.name == "top-afa" else 2,  # it refuses a dense path
        "members": 2,
        "log_variance": -6.0,
    }
    known = {name: size for name, size in sizes.items() if hasattr(config, name)}
    return replace(config, **(known | changes))


def built(config: Config, *, seed: int = 0, d_sae: int = D_SAE) -> tuple[Architecture, Start]:
    activations = sample(seed)
    embedding = torch.randn(VOCAB, D, generator=torch.Generator().manual_seed(seed))
    start = Start(
        activations.x,
        activations.tokens,
        embedding=embedding,
        d_sae=VOCAB if getattr(config, "frozen", False) else d_sae,
        seed=seed,
        centre=config.centre,
        lookup=config.lookup,
    )
    with torch.no_grad():
        architecture = build(config, start)
    return architecture, start


def some_batch(architecture: Architecture, n: int = 64) -> TrainingBatch:
    activations = sample()
    x = architecture.normalise(activations.x[:n], activations.tokens[:n])
    return TrainingBatch(x, x, activations.tokens[:n])


def trained(config: Config, *, steps: int = 60, seed: int = 0) -> Trained:
    architecture, start = built(config, seed=seed)
    training = Training(architecture, start.random, steps=0 if config.epochs else steps)
    return train_on_sample(training, sample(seed))


def dense(code: SparseCode) -> Tensor:
    """[n, D_SAE]"""
    return torch.zeros(len(code.values), D_SAE).scatter_add(1, code.indices, code.values)


def varied(name: str) -> list[Config]:
    """The recipe, with every option that changes its losses or gradients."""
    config = small(recipes()[name])
    others: list[Config] = (
        [replace(config, aux_k=3)] if isinstance(config, TopKConfig) and config.name != "sa-gsae" else []
    )
    others += [replace(config, lookup="trained")] if name in ("matched", "batchtopk") else []
    return [config, *others]


NEED_A_MODEL = ("e2e", "e2e-downstream", "g-sae")
"""Their losses run a language model: tests/trainer/test_end_to_end.py."""
CONFIGS = [config for name in recipes() if name not in NEED_A_MODEL for config in varied(name)]
each_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.name}-{getattr(c, 'aux_k', 0)}-{c.lookup}"
)


@each_config
@torch.no_grad()
def test_gradients_are_those_of_autograd_through_the_losses(config: Config) -> None:
    if isinstance(config, ITDAConfig):
        pytest.skip("it has no gradients: see test_methods")
    architecture, _ = built(config)
    architecture.matmul_dtype = torch.float32
    batch = some_batch(architecture)
    architecture.silent[::3] = 10**6  # AuxK is at work
    by_hand = architecture.gradients(batch, STEP)
    kept = {name: architecture.gradient(name).clone() for name in architecture.parameters}
    by_autograd = Architecture.gradients(architecture, batch, STEP)
    assert by_hand.losses.keys() == by_autograd.losses.keys()
    for name, loss in by_hand.losses.items():
        assert loss.item() == pytest.approx(by_autograd.losses[name].item(), rel=1e-4), name
    assert torch.allclose(by_hand.squares, by_autograd.squares, atol=1e-4)
    assert torch.equal(by_hand.code.indices, by_autograd.code.indices)
    for name, gradient in kept.items():
        assert torch.allclose(gradient, architecture.gradient(name), atol=1e-6), name


def test_the_gradient_of_topk_is_that_of_a_dense_code_in_plain_torch() -> None:
    architecture, _ = built(small(recipes()["matched"]))
    architecture.matmul_dtype = torch.float32
    batch = some_batch(architecture)
    copies = {name: t.detach().clone().requires_grad_() for name, t in architecture.parameters.items()}
    values, indices = (batch.x @ copies["encoder"].T + copies["b_enc"]).topk(4)
    code = torch.zeros(64, D_SAE).scatter(1, indices, values.relu())
    unit = copies["decoder"] / copies["decoder"].norm(dim=-1, keepdim=True)
    output = code @ unit + batch.x @ copies["dense_in"] @ copies["dense_out"] + copies["b_dec"]
    loss = ((output - batch.x) ** 2).mean()
    loss.backward()
    with torch.no_grad():
        made = architecture.gradients(batch, STEP)
    assert made.losses["mse"].item() == pytest.approx(loss.item(), rel=1e-4)
    for name, copy in copies.items():
        assert torch.allclose(copy.grad, architecture.gradient(name), atol=1e-5), name


def test_a_subclass_that_changes_the_loss_gets_autograd_instead_of_the_gradient_by_hand() -> None:
    class Halved(TopKArchitecture):
        def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
            return {"mse": super().losses(batch, made, step)["mse"] / 2}

    assert Halved.gradients is Architecture.gradients
    assert Cone.gradients is TopKArchitecture.gradients


@each_config
def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_weights(config: Config) -> None:
    config = replace(config, epochs=4) if config.epochs else config
    first, again, other = trained(config), trained(config), trained(config, seed=1)
    assert first.log[-1].loss < 0.8 * first.log[0].loss
    assert torch.equal(first.dictionary.W_enc, again.dictionary.W_enc)
    assert not torch.equal(first.dictionary.W_enc, other.dictionary.W_enc)


@each_config
def test_the_folded_dictionary_is_the_trained_pass_on_raw_activations(config: Config) -> None:
    architecture, start = built(config)
    architecture.matmul_dtype = torch.float32
    training = Training(architecture, start.random, steps=0 if config.epochs else 20)
    training.over(sample())
    dictionary, x, tokens = training.dictionary(), sample().x[:300].float(), sample().tokens[:300]
    if architecture.by_batch:
        pytest.skip("inference selects by a threshold: see test_selections")
    with torch.no_grad():
        y = architecture.normalise(x, tokens)
        expected = architecture.restore(architecture.forward(y).output, tokens)
        code = architecture.forward(y).code
    if dictionary.lookup is not None and architecture.lookup is not None:
        exact = architecture.centring.restore(architecture.lookup)
        assert torch.equal(dictionary.lookup, exact.bfloat16())
        dictionary = replace(dictionary, lookup=exact)
    assert torch.allclose(dictionary.reconstruct(x, tokens), expected, atol=1e-3)
    found, made = dense(dictionary.encode(x, tokens)), dense(code)
    if config.name == "sasa":  # in other axes of the same blocks
        found, made = (each.unflatten(1, (-1, 4)).norm(dim=-1) for each in (found, made))
    assert torch.allclose(found, made, atol=1e-3)


def test_bf16_encoding_trains_as_well_as_float32() -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        architecture, start = built(small(recipes()["vasae"]))
        architecture.matmul_dtype = dtype
        training = Training(architecture, start.random, steps=60)
        losses.append(train_on_sample(training, sample()).log[-1].loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_anchored_rows_stay_in_their_cones_through_steps_and_restarts() -> None:
    config = small(ConeConfig(learning_rate=1e-2, restarts=3))
    architecture, start = built(config, d_sae=300)  # so many that some do not fire
    training = Training(architecture, start.random, steps=30)
    cosines = []

    def check(*_: object) -> None:
        rows = architecture.parameters["decoder"].detach()
        cosines.append((rows * architecture.unit_anchors[architecture.assigned]).sum(-1).min())
        assert torch.allclose(rows.norm(dim=-1), torch.ones(300), atol=1e-4)

    training.every, training.report = 1, check
    before = architecture.assigned.clone()
    training.over(sample())
    assert len(cosines) == 30 and min(cosines) >= config.cosine - 1e-4
    assert not torch.equal(before, architecture.assigned)  # a restart took the token of its sample


def test_every_architecture_is_a_recipe() -> None:
    assert {type(config) for config in recipes().values()} == {each.config_type for each in ARCHITECTURES}


def test_a_loss_that_is_not_finite_ends_training_at_that_step_before_the_weights_change() -> None:
    architecture, start = built(small(recipes()["plain"]))
    training = Training(architecture, start.random, steps=20)
    real = architecture.gradients

    def broken(batch: TrainingBatch, step: Step) -> Gradients:
        made = real(batch, step)
        return made._replace(losses={"mse": made.losses["mse"] / (step.number != 7)})

    vars(architecture)["gradients"] = broken
    with pytest.raises(TrainingDiverged, match=r"not finite at step 7 \(mse inf\).*learning_rate=0\.0002"):
        training.over(sample())
    assert training.step == 7
    assert all(parameter.isfinite().all() for parameter in architecture.parameters.values())


@pytest.mark.parametrize("rate", [1e4, 1e30])
@pytest.mark.parametrize("recipe", ["plain", "vasae", "gated", "jumprelu", "batchtopk", "paper-soft"])
def test_a_learning_rate_that_is_far_too_high_ends_training_within_a_few_steps(
    recipe: str, rate: float
) -> None:
    architecture, start = built(small(recipes()[recipe], learning_rate=rate))
    training = Training(architecture, start.random, steps=200)
    with pytest.raises(TrainingDiverged, match=r"at step \d+ \(mse .*Try a lower"):
        training.over(sample())
    assert training.step < 20


def test_a_fixed_look_up_is_training_on_what_it_leaves() -> None:
    config, activations = small(recipes()["vasae"]), sample()
    architecture, start = built(config)
    assert architecture.lookup is not None
    means = torch.stack([activations.x[activations.tokens == t].float().mean(0) for t in range(VOCAB)])
    counts = torch.bincount(activations.tokens, minlength=VOCAB)[:, None]
    found = architecture.centring.restore(architecture.lookup)
    assert ((found - means).norm(dim=-1) < 0.2 * (4 / counts.squeeze(1) + 1)).all(), "shrunk a little"
    left = activations.x.float() - found[activations.tokens]
    y = architecture.normalise(activations.x, activations.tokens)
    assert torch.allclose(y, left * architecture.centring.scale, atol=1e-4)
    assert torch.allclose(start.batch(torch.arange(50)), y[:50], atol=1e-5)


def test_a_permuted_look_up_has_the_rows_of_other_tokens() -> None:
    own, other = (built(small(replace(recipes()["vasae"], lookup=kind)))[0] for kind in ("fixed", "permuted"))
    assert own.lookup is not None and other.lookup is not None
    same = (torch.cdist(other.lookup, own.lookup, compute_mode="donot_use_mm_for_euclid_dist") < 1e-5).long()
    assert same.sum(1).eq(1).all() and same.sum(0).eq(1).all() and not same.diagonal().any()


def test_a_trained_look_up_moves_and_a_fixed_one_does_not() -> None:
    moved = {}
    for kind in ("fixed", "trained"):
        architecture, start = built(small(replace(recipes()["vasae"], lookup=kind)))
        assert architecture.lookup is not None
        before = architecture.lookup.detach().clone()
        train_on_sample(Training(architecture, start.random, steps=20), sample())
        moved[kind] = float((architecture.lookup.detach() - before).norm() / before.norm())
    assert moved["fixed"] == 0 and 0 < moved["trained"] < 0.5


def test_an_error_far_above_that_of_zeros_is_told_before_it_overflows() -> None:
    architecture, start = built(small(recipes()["plain"], learning_rate=1e4))
    with pytest.raises(TrainingDiverged, match=r"is far too large at step \d+ \(mse [1-9]"):
        Training(architecture, start.random, steps=200).over(sample())


@pytest.mark.parametrize(
    ("weight", "says"), [(float("inf"), "not finite"), (1e9, "far too large")], ids=["inf", "large"]
)
def test_weights_that_the_last_step_broke_are_no_result(weight: float, says: str) -> None:
    architecture, start = built(small(recipes()["plain"]))
    training = Training(architecture, start.random, steps=20)
    training.over(sample())
    training.check_result(training.dictionary(), sample())
    architecture.parameters["b_dec"].data[0] = weight
    with pytest.raises(TrainingDiverged, match=f"{says} at step 20"):
        training.check_result(training.dictionary(), sample())
