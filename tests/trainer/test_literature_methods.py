"""Each method of the literature against a slow and obvious form of it, in plain PyTorch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.trainer.test_architectures import D_SAE, STEP, built, dense, sample, small, some_batch
from trainer.architectures import Architecture
from trainer.architectures.base import Step
from trainer.architectures.ensemble import BaggingConfig, BoostingConfig
from trainer.architectures.featurechoice import FeatureChoiceConfig
from trainer.architectures.hierarchical import HierarchicalConfig
from trainer.architectures.itda import ITDAConfig
from trainer.architectures.metasae import MetaSAEConfig
from trainer.architectures.ortsae import OrtSAEConfig
from trainer.architectures.standard import StandardConfig
from trainer.architectures.topk import TopKConfig
from trainer.errors import RecipeError
from trainer.objectives import TERMS
from trainer.step import Training, train_on_sample


def copies(architecture: Architecture) -> dict[str, Tensor]:
    """The parameters, apart from the architecture's graph; decoder rows of norm 1 whatever they are."""
    found = {name: t.detach().clone().requires_grad_() for name, t in architecture.parameters.items()}
    return found


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def assert_gradients(architecture: Architecture, loss: Tensor, of: dict[str, Tensor]) -> None:
    """The architecture's gradients are those of `loss` in copies of its parameters."""
    loss.backward()
    with torch.no_grad():
        made = architecture.gradients(some_batch(architecture), STEP)
    assert sum(float(each) for each in made.losses.values()) == pytest.approx(loss.item(), rel=1e-4)
    for name, copy in of.items():
        expected = torch.zeros_like(copy) if copy.grad is None else copy.grad
        assert torch.allclose(expected, architecture.gradient(name), atol=1e-5), name


@pytest.mark.parametrize(
    ("budgets", "weights", "expected"),
    [
        ("all", "uniform", {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}),
        ("doubling", "reverse", {1: 3 / 6, 2: 2 / 6, 4: 1 / 6}),
        ("3,4", "uniform", {3: 0.5, 4: 0.5}),
    ],
)
def test_hierarchical_is_the_mean_error_of_every_prefix(
    budgets: str, weights: str, expected: dict[int, float]
) -> None:
    config = HierarchicalConfig(budgets=budgets, weights=weights, k=4, dense_rank=2)  # type: ignore[arg-type]
    architecture, _ = built(config)
    architecture.matmul_dtype = torch.float32
    p, x = copies(architecture), some_batch(architecture).x
    loss = torch.zeros(())
    for budget, share in expected.items():
        values, indices = (x @ p["encoder"].T + p["b_enc"]).topk(budget)
        code = torch.zeros(len(x), D_SAE).scatter(1, indices, values.relu())
        output = code @ unit(p["decoder"]) + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
        loss = loss + share * (output - x).square().mean()
    assert_gradients(architecture, loss, p)


@pytest.mark.parametrize("budgets", ["", "1,2", "2,1,4", "0,4", "some"])
def test_budgets_that_do_not_ascend_to_k_are_refused(budgets: str) -> None:
    with pytest.raises(RecipeError, match="budgets is"):
        HierarchicalConfig(budgets=budgets, k=4)


def test_ortsae_adds_its_penalty_in_every_fifth_step() -> None:
    architecture, _ = built(small(OrtSAEConfig(gamma=0.5)))
    batch = some_batch(architecture)
    losses = {number: architecture.gradients(batch, Step(number, 10)).losses for number in (4, 5)}
    rows = unit(architecture.parameters["decoder"].detach())
    largest = (rows @ rows.T).fill_diagonal_(-1).max(1).values
    assert "orthogonality" not in losses[4]
    assert losses[5]["orthogonality"].item() == pytest.approx(2.5 * largest.square().mean().item(), rel=1e-4)


def group_code(p: dict[str, Tensor], x: Tensor, member: int) -> Tensor:
    """[n, D_SAE] the two largest of a half of the features."""
    half = D_SAE // 2
    pre = (x @ p["encoder"].T + p["b_enc"])[:, member * half : (member + 1) * half]
    values, indices = pre.topk(2)
    return torch.zeros(len(x), D_SAE).scatter(1, indices + member * half, values.relu())


def test_bagging_trains_each_member_by_itself_and_reconstructs_with_their_mean() -> None:
    architecture, _ = built(BaggingConfig(k=4, members=2, dense_rank=2))
    architecture.matmul_dtype = torch.float32
    p, x = copies(architecture), some_batch(architecture).x
    rest = x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
    outputs = [rest + group_code(p, x, member) @ unit(p["decoder"]) for member in range(2)]
    assert torch.allclose(architecture.forward(x).output, (outputs[0] + outputs[1]) / 2, atol=1e-4)
    assert_gradients(architecture, sum((each - x).square().mean() for each in outputs) / 2, p)


def test_boosting_trains_each_member_on_what_those_before_leave() -> None:
    architecture, _ = built(BoostingConfig(k=4, members=2, dense_rank=2))
    architecture.matmul_dtype = torch.float32
    p, x = copies(architecture), some_batch(architecture).x
    rest = x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
    first = group_code(p, x, 0) @ unit(p["decoder"])
    second = group_code(p, (x - first).detach(), 1) @ unit(p["decoder"])
    assert torch.allclose(architecture.forward(x).output, rest + first + second, atol=1e-4)
    errors = (rest + first - x).square().mean() + ((rest + first - x).detach() + second).square().mean()
    assert_gradients(architecture, errors, p)


def test_silent_features_of_a_boosted_member_learn_from_what_the_member_reads() -> None:
    architecture, _ = built(BoostingConfig(k=4, members=2, dense_rank=2, aux_k=8, aux_after=5))
    architecture.matmul_dtype = torch.float32
    silent = [torch.arange(3), torch.arange(D_SAE // 2, D_SAE // 2 + 3)]
    architecture.silent[torch.cat(silent)] = 6
    with torch.no_grad():
        architecture.parameters["encoder"][torch.cat(silent)] *= 0.01  # not in any code
    p, x = {name: t.detach() for name, t in architecture.parameters.items()}, some_batch(architecture).x
    first = group_code(p, x, 0) @ unit(p["decoder"])
    second = group_code(p, x - first, 1) @ unit(p["decoder"])
    missed = x - first - second - x @ p["dense_in"] @ p["dense_out"] - p["b_dec"]
    expected = 0.0
    for rows, read in zip(silent, (x, x - first), strict=True):
        code = (read @ p["encoder"][rows].T).relu()
        error = (code @ p["decoder"][rows] - missed).square().mean()
        expected += float(1 / 32 * 3 / 8 * error / missed.var(0, correction=0).mean())
    with torch.no_grad():
        found = architecture.gradients(some_batch(architecture), STEP).losses["aux_k"]
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_a_boosted_members_feature_restarts_at_what_the_member_reads() -> None:
    architecture, _ = built(BoostingConfig(k=4, members=2, dense_rank=0))
    architecture.matmul_dtype = torch.float32
    batch = some_batch(architecture, 2)
    features = torch.tensor([3, D_SAE // 2 + 3])
    p = {name: t.detach().clone() for name, t in architecture.parameters.items()}
    read = torch.stack([batch.x[0], batch.x[1] - (group_code(p, batch.x, 0) @ unit(p["decoder"]))[1]])
    with torch.no_grad():
        architecture.restart(features, batch)
    assert torch.allclose(architecture.parameters["decoder"][features], unit(read), atol=1e-4)


@pytest.mark.parametrize("config", [BaggingConfig, BoostingConfig])
def test_members_that_do_not_divide_k_or_the_width_are_refused(config: type[BaggingConfig]) -> None:
    with pytest.raises(RecipeError, match="must divide k, 5"):
        config(k=5, members=2)
    with pytest.raises(RecipeError, match="must divide the width, 40"):
        built(config(k=3, members=3))


def test_itda_adds_the_worst_reconstructed_activations_and_pursues_them() -> None:
    architecture, _ = built(ITDAConfig(k=3, threshold=0.05))
    batch, rows = some_batch(architecture), list[Tensor]()
    for number in (1, 2):
        missed = []
        for x in batch.x:  # matching pursuit, one token at a time
            left = x.clone()
            for _ in range(3 if rows else 0):
                products = torch.stack([row @ left for row in rows])
                left -= products.max().relu() * rows[int(products.argmax())]
            missed.append(float(left.square().sum() / x.square().sum()))
        before = architecture.forward(batch.x).output
        found = (before - batch.x).square().sum(-1) / batch.x.square().sum(-1)
        assert found.tolist() == pytest.approx(missed, abs=1e-4)
        due, added = max(-(-D_SAE * number * 10 // (10 * 8)), 3), list[Tensor]()
        for place in sorted(range(len(missed)), key=lambda i: -missed[i])[: 4 * (due - len(rows))]:
            row = unit(batch.x[place])
            near = any(float(row @ other) ** 2 > 0.95 for other in added)
            if missed[place] > 0.05 and not near and len(added) < due - len(rows):
                added.append(row)
        rows += added
        architecture.gradients(batch, Step(number, 10))
        assert int(architecture.buffers["filled"]) == len(rows)
        assert torch.allclose(architecture.parameters["decoder"][: len(rows)], torch.stack(rows), atol=1e-5)
    assert all(not grad.any() for grad in map(architecture.gradient, architecture.parameters))


def test_metasae_pushes_rows_away_from_what_the_small_dictionary_makes_of_them() -> None:
    config = MetaSAEConfig(k=4, meta_width=10, meta_k=2, penalty=0.3, spread=0.5, aux_k=0)
    architecture, _ = built(config)
    batch = some_batch(architecture)
    p, rows = copies(architecture), unit(architecture.parameters["decoder"].detach())
    values, indices = (rows @ p["meta_encoder"].T + p["meta_bias"]).topk(2)
    found = torch.zeros(D_SAE, 10).scatter(1, indices, values.relu()) @ p["meta_decoder"]
    losses = architecture.gradients(batch, STEP).losses
    distance = (rows - found).square().sum(-1)
    assert losses["meta"].item() == pytest.approx(distance.mean().item(), rel=1e-4)
    assert losses["decomposable"].item() == pytest.approx(
        0.3 * (-distance / 0.5).exp().mean().item(), rel=1e-4
    )
    distance.mean().backward()
    for name in ("meta_encoder", "meta_bias", "meta_decoder"):
        assert torch.allclose(p[name].grad, architecture.gradient(name), atol=1e-5), name
    plain, _ = built(replace(config, penalty=0.0))
    plain.gradients(batch, STEP)
    pushed = architecture.gradient("decoder") - plain.gradient("decoder")
    away = ((rows - found.detach()) * pushed).sum(-1)
    assert (away < 1e-7).all() and (away < -1e-5).any()


@pytest.mark.parametrize(("last", "progress"), [(1.0, 10), (0.2, 2), (0.2, 10)])
def test_standard_penalises_the_norm_of_its_p(last: float, progress: int) -> None:
    architecture, _ = built(StandardConfig(k=4, last_norm=last, anneal_from=0.3, aux_k=0, dense_rank=2))
    p, x, step = copies(architecture), some_batch(architecture).x, Step(progress, 10)
    code = (x @ p["encoder"].T + p["b_enc"]).relu()
    output = code @ unit(p["decoder"]) + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
    norm = {(0.2, 10): 0.2}.get((last, progress), 1.0)
    smooth = ((code + 0.01) ** norm - 0.01**norm).sum() if norm < 1 else code.sum()
    penalty = 1e-3 * smooth * (code.sum() / smooth).detach() / len(x)
    ((output - x).square().mean() + penalty).backward()
    losses = architecture.gradients(some_batch(architecture), step).losses
    assert losses["sparsity"].item() == pytest.approx(penalty.item(), rel=1e-4)
    for name, copy in p.items():
        assert torch.allclose(copy.grad, architecture.gradient(name), atol=1e-5), name


def test_the_penalty_of_standard_ends_near_k_active_features() -> None:
    for last in (1.0, 0.2):
        config = StandardConfig(k=4, last_norm=last, batch=64, restarts=0, control=0.2)
        architecture, start = built(config)
        training = Training(architecture, start.random, steps=300)
        found = train_on_sample(training, sample()).dictionary.encode(sample().x.float())
        assert 2.5 < float((found.values > 0).sum() / len(found.values)) < 5.5


def test_feature_choice_gives_every_feature_the_tokens_it_is_largest_on() -> None:
    architecture, _ = built(FeatureChoiceConfig(k=5, dense_rank=2, aux_k=0))
    p, x = copies(architecture), some_batch(architecture).x
    pre = (x @ p["encoder"].T + p["b_enc"]).relu()
    each = round(64 * 5 / D_SAE)
    code = torch.zeros_like(pre)
    for feature in range(D_SAE):
        tokens = pre[:, feature].topk(each).indices
        code[tokens, feature] = pre[tokens, feature]
    assert torch.allclose(dense(architecture.forward(x).code), code, atol=1e-4)
    output = code @ unit(p["decoder"]) + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
    assert_gradients(architecture, (output - x).square().mean(), p)


def test_feature_choice_spends_a_budget_that_does_not_divide_by_the_features() -> None:
    architecture, _ = built(FeatureChoiceConfig(k=3, dense_rank=2, aux_k=0))
    architecture.parameters["b_enc"].data += 100  # nothing is negative
    x, taken = some_batch(architecture).x, torch.zeros(D_SAE)
    for _ in range(5):
        code = dense(architecture.forward(x).code) > 0
        assert code.sum() == 64 * 3 and set(code.sum(0).tolist()) == {4, 5}
        taken += code.sum(0)
        architecture.buffers["batches"] += 1
    assert taken.max() == taken.min(), "in turn"


def test_feature_choice_keeps_its_rates_at_inference_and_has_no_dead_features() -> None:
    architecture, start = built(small(FeatureChoiceConfig(restarts=0, aux_k=0)))
    training = Training(architecture, start.random, steps=200)
    found = train_on_sample(training, sample()).dictionary.encode(sample().x.float())
    rates = (dense(found) > 0).float().mean(0)
    assert rates.mean().item() == pytest.approx(4 / D_SAE, rel=0.2)
    assert rates.min() > 0.2 * 4 / D_SAE and rates.max() < 3 * 4 / D_SAE


def test_the_norm_term_is_the_squared_difference_of_norms() -> None:
    architecture, _ = built(small(TopKConfig()))
    batch = some_batch(architecture)
    made = architecture.forward(batch.x)
    expected = [
        (float(z.norm()) - float(x.norm())) ** 2
        for z, x in zip(dense(made.code).detach(), batch.x, strict=True)
    ]
    found = TERMS["norm_match"](architecture, batch, made, STEP).item()
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-4)
