"""Further methods of the literature against a slow and obvious form of each, or data whose truth is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lexiscope.adaptive_selection import Blocks, Sparsemax
from tests.trainer.test_architectures import D_SAE, STEP, D, built, dense, sample, some_batch
from tests.trainer.test_literature_methods import assert_gradients, copies, unit
from trainer.architectures import Config, Start, build
from trainer.architectures.aen import AEN, AENConfig
from trainer.architectures.base import Step
from trainer.architectures.endtoend import EndToEndConfig
from trainer.architectures.gba import GBA, GBAConfig
from trainer.architectures.gsae import GradientTopKConfig
from trainer.architectures.itda import ITDAConfig
from trainer.architectures.metasae import MetaSAEConfig
from trainer.architectures.mfr import MFRConfig
from trainer.architectures.mutualchoice import MutualChoice, MutualChoiceConfig, zipf
from trainer.architectures.sagsae import SignedGated, SignedGatedConfig
from trainer.architectures.sasa import SASAConfig, nuclear_norms
from trainer.architectures.sparsemax import SparsemaxAttention, SparsemaxConfig
from trainer.architectures.topafa import TopAFAConfig
from trainer.architectures.vsae import VSAEConfig
from trainer.errors import RecipeError
from trainer.step import Training, train_on_sample


def rest(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]


# --- top-AFA ---


def test_top_afa_takes_features_until_the_norm_of_the_code_is_nearest_to_the_inputs() -> None:
    config = TopAFAConfig(k=40, afa=0.05, aux_k=0)
    architecture, _ = built(config)
    architecture.matmul_dtype = torch.float32
    p, x = copies(architecture), some_batch(architecture).x
    with torch.no_grad():
        architecture.parameters["encoder"] *= 1.2
        p["encoder"].mul_(1.2)
    pre, kept = (x @ p["encoder"].T + p["b_enc"]).relu(), torch.zeros(len(x), D_SAE)
    for row, wanted in enumerate((x - p["b_dec"]).norm(dim=-1)):
        order = pre[row].argsort(descending=True)
        gaps = [abs(float(pre[row, order[:n]].norm() - wanted)) for n in range(1, D_SAE + 1)]
        kept[row, order[: gaps.index(min(gaps)) + 1]] = 1
    assert len(kept.sum(-1).unique()) > 2, "k follows the token"
    code = pre * kept
    afa = 0.05 * (code.norm(dim=-1) - x.norm(dim=-1)).square().mean() / D
    assert_gradients(architecture, (code @ unit(p["decoder"]) + rest(p, x) - x).square().mean() + afa, p)


def test_the_width_bounds_the_code_of_top_afa() -> None:
    architecture, start = built(TopAFAConfig(k=2 * D_SAE, batch=64))
    Training(architecture, start.random, steps=2).over(sample())
    assert architecture.selection().max_active == D_SAE


def test_top_afa_refuses_a_dense_path() -> None:
    with pytest.raises(RecipeError, match="dense_rank=0"):
        TopAFAConfig(dense_rank=2)


# --- Mutual Choice ---


def test_zipf_expects_the_densities_of_the_frequent_half_and_finds_the_dying() -> None:
    rank = torch.arange(1, 101).float()
    density = 0.3 / rank
    density[80:] *= 1e-3
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    expected = zipf(density[shuffled])
    assert torch.allclose(expected, (0.3 / rank)[shuffled], rtol=1e-3)
    assert (density[shuffled] < 0.1 * expected).sum() == 20


@torch.no_grad()
def test_mutual_choice_gives_aux_k_to_the_dying_features_alone() -> None:
    config = MutualChoiceConfig(k=4, aux_after=2, aux_k=5, dense_rank=2, dying=0.2, density_rate=0.5)
    architecture, _ = built(config)
    assert isinstance(architecture, MutualChoice)
    batch, density = some_batch(architecture), torch.zeros(D_SAE)
    for step in range(1, 4):
        losses = architecture.gradients(batch, Step(step, 10)).losses
        assert ("aux_k" in losses) == (step > 2)
        code = dense(architecture.forward(batch.x).code)
        architecture.constrain_weights()
        density.lerp_((code != 0).float().mean(0), max(1 / step, 0.5))
    assert torch.allclose(architecture.buffers["density"], density, atol=1e-6)
    dying = (density < 0.2 * zipf(density)).nonzero().squeeze(1)
    assert torch.equal(architecture._silent_features(architecture.forward(batch.x).code), dying)
    assert (density[dying] > 0).any(), "some of them fire"


# --- GBA ---


def test_gba_moves_thresholds_as_its_paper_says() -> None:
    config = GBAConfig(k=4, groups=2, rate=0.1, frequency_rate=1.0)
    architecture, _ = built(config)
    assert isinstance(architecture, GBA)
    p, x = architecture.parameters, some_batch(architecture).x
    with torch.no_grad():
        p["encoder"][5] *= 0  # it does not fire
        threshold = architecture.buffers["threshold"].clone()
        pre = x @ p["encoder"].T
        code = pre * (pre > threshold)
        assert torch.allclose(dense(architecture.forward(x).code), code, atol=1e-5)
        architecture.gradients(some_batch(architecture), STEP)
        architecture.constrain_gradients()
        assert not architecture.gradient("b_enc").any()
        architecture.constrain_weights()
    largest = (pre - threshold).max(0).values.relu()
    target = torch.tensor([2 / 3, 1 / 3]).repeat(20) * 4 / 20
    for feature in range(D_SAE):
        frequency = float((code[:, feature] != 0).float().mean())
        moved = float(architecture.buffers["threshold"][feature] - threshold[feature])
        if frequency > target[feature]:
            assert moved == pytest.approx(0.1 * float(largest[feature]), abs=1e-4)
        elif frequency < 0.01 * target[feature]:
            group = largest[feature % 2 :: 2]
            usual = float(group[group > 0].mean())
            assert moved == pytest.approx(-min(0.1 * usual, float(threshold[feature])), abs=1e-4)
        else:
            assert moved == 0


def test_gba_with_aligned_rows_moves_encoder_rows_across_their_decoder_rows_alone() -> None:
    architecture, _ = built(GBAConfig(k=4, aligned=True))
    with torch.no_grad():
        architecture.gradients(some_batch(architecture), STEP)
        architecture.constrain_gradients()
    along = (architecture.gradient("encoder") * architecture.parameters["decoder"]).sum(-1)
    assert architecture.gradient("encoder").any() and torch.allclose(along, torch.zeros(D_SAE), atol=1e-6)


def test_gba_features_fire_no_more_than_their_groups_are_to() -> None:
    config = GBAConfig(k=4, groups=3, batch=64, rate=0.05)
    architecture, start = built(config)
    assert isinstance(architecture, GBA)
    training = Training(architecture, start.random, steps=300)
    code = dense(train_on_sample(training, sample()).dictionary.encode(sample().x.float()))
    frequency = (code != 0).float().mean(0)
    assert float(architecture.target.sum()) == pytest.approx(4, rel=1e-5)
    assert (frequency < 2 * architecture.target + 0.01).all()


# --- SA-GSAE ---


def test_sa_gsae_opens_on_both_sides_and_has_the_losses_of_its_paper() -> None:
    architecture, _ = built(SignedGatedConfig(k=6, sparsity=0.02, dense_rank=2))
    assert isinstance(architecture, SignedGated)
    with torch.no_grad():
        architecture.parameters["scale"].copy_(torch.linspace(-0.2, 0.4, D_SAE))
    p, x = copies(architecture), some_batch(architecture).x
    linear = x @ p["encoder"].T
    above, below = (linear + p["b_enc"]).relu(), (-linear + p["b_enc"]).relu()
    assert (above > 0).any() and (below > 0).any()
    gate, opened = above - below, (above > 0) | (below > 0)
    code = linear * p["scale"].exp() * opened
    beside = rest(p, x)
    loss = (code @ unit(p["decoder"]) + beside - x).square().mean()
    loss = loss + 0.02 * gate.abs().sum() / len(x)
    loss = loss + (gate @ p["decoder"].detach() + beside.detach() - x).square().mean()
    assert torch.allclose(dense(architecture.forward(x).code), code, atol=1e-4)
    assert torch.allclose(dense(architecture.dictionary().encode(x)), code, atol=1e-4)
    assert_gradients(architecture, loss, p)


def test_sa_gsae_ends_near_k_features_of_both_signs() -> None:
    config = SignedGatedConfig(k=4, batch=64, restarts=0)
    architecture, start = built(config)
    training = Training(architecture, start.random, steps=400)
    code = train_on_sample(training, sample()).dictionary.encode(sample().x.float())
    assert 2.5 < float((code.values != 0).sum() / len(code.values)) < 5.5
    assert (code.values < 0).any() and (code.values > 0).any()


# --- vSAE ---


def test_vsae_draws_in_training_and_adds_the_divergence_from_a_standard_normal() -> None:
    config = VSAEConfig(k=4, divergence=0.3, aux_k=0, dense_rank=2)
    architecture, _ = built(config)
    batch, p = some_batch(architecture), copies(architecture)
    with torch.enable_grad():
        drawn = architecture.forward(batch.x)
    mean = (batch.x @ p["encoder"].T + p["b_enc"]).relu()
    variance = (batch.x @ p["variance"].T + p["b_variance"]).exp()
    normal, standard = torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(0, 1)
    divergence = torch.distributions.kl_divergence(normal, standard).sum(-1).mean()
    losses = architecture.gradients(batch, STEP).losses
    assert losses["divergence"].item() == pytest.approx(0.3 * divergence.item() / (D / 2), rel=1e-4)
    steps = (drawn.code.values - mean.gather(1, drawn.code.indices)) / variance.sqrt().gather(
        1, drawn.code.indices
    )
    assert float(steps.std()) > 0.5, "noise of about the variance"
    with torch.no_grad():
        assert torch.allclose(
            dense(architecture.forward(batch.x).code).max(1).values, mean.max(1).values, atol=1e-4
        )


# --- AEN ---


def test_aen_weighs_the_penalty_by_activity_and_adds_a_ridge() -> None:
    config = AENConfig(k=4, sparsity=0.02, gamma=0.5, ridge=0.1, adapt_from=0.0, dense_rank=2)
    architecture, _ = built(config)
    assert isinstance(architecture, AEN)
    activity = torch.linspace(0.001, 1.0, D_SAE)
    architecture.buffers["activity"].copy_(activity)
    p, x = copies(architecture), some_batch(architecture).x
    code = (x @ p["encoder"].T + p["b_enc"]).relu()
    weights = (activity.max() / activity).sqrt().clamp(0.1, 10)
    penalty = 0.02 * ((weights * code).sum() + 0.1 * code.square().sum()) / len(x)
    loss = (code @ unit(p["decoder"]) + rest(p, x) - x).square().mean() + penalty
    assert_gradients(architecture, loss, p)
    with torch.no_grad():
        architecture.constrain_weights()
    assert torch.allclose(architecture.buffers["activity"], code.mean(0), atol=1e-5), "the first batch's"


# --- sparsemax ---


def test_sparsemax_attends_over_concepts_that_give_keys_and_values() -> None:
    architecture, _ = built(SparsemaxConfig(k=4, dense_rank=2, aux_k=0))
    assert isinstance(architecture, SparsemaxAttention)
    with torch.no_grad():
        architecture.parameters["values"] += 0.1 * torch.randn(D, D)
    p, x = copies(architecture), some_batch(architecture).x
    pre = x @ (p["concepts"] @ p["keys"]).T + p["b_enc"]
    scores = pre.detach() * architecture.buffers["scale"]
    weights = torch.zeros_like(scores)
    for row, each in enumerate(scores):  # projection onto the simplex, by bisection
        low, high = float(each.max()) - 1, float(each.max())
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if float((each - middle).relu().sum()) > 1 else (low, middle)
        weights[row] = (each - low).relu()
    code = pre * ((weights > 1e-6) & (pre > 0))
    values = unit(p["concepts"] @ p["values"])
    loss = (code @ values + rest(p, x) - x).square().mean()
    assert_gradients(architecture, loss, p)
    assert isinstance(architecture.selection(), Sparsemax)


def test_the_number_of_features_that_sparsemax_takes_ends_near_k_and_differs_by_token() -> None:
    architecture, start = built(SparsemaxConfig(k=4, batch=64, restarts=0, control=0.1))
    training = Training(architecture, start.random, steps=200)
    code = train_on_sample(training, sample()).dictionary.encode(sample().x.float())
    active = (code.values > 0).sum(-1).float()
    assert active.mean().item() == pytest.approx(4, rel=0.2) and active.std() > 0.3


# --- SASA ---


def test_sasa_takes_whole_blocks_and_penalises_their_nuclear_norm() -> None:
    architecture, _ = built(SASAConfig(k=8, block=4, nuclear=0.2, aux_k=0, dense_rank=2))
    p, x = copies(architecture), some_batch(architecture).x
    pre = (x @ p["encoder"].T + p["b_enc"]).view(len(x), 10, 4)
    best = pre.norm(dim=-1).topk(2).indices
    code = (pre * torch.zeros(len(x), 10).scatter(1, best, 1.0)[..., None]).flatten(1)
    loss = (code @ unit(p["decoder"]) + rest(p, x) - x).square().mean()
    nuclear = torch.linalg.matrix_norm(p["decoder"].view(10, 4, D), ord="nuc").mean()
    assert nuclear_norms(p["decoder"].view(10, 4, D)).mean().item() == pytest.approx(nuclear.item(), rel=1e-3)
    made = architecture.gradients(some_batch(architecture), STEP)
    assert made.losses["nuclear"].item() == pytest.approx(0.2 * nuclear.item(), rel=1e-3)
    loss.backward()
    plain, _ = built(SASAConfig(k=8, block=4, nuclear=0.0, aux_k=0, dense_rank=2))
    plain.gradients(some_batch(plain), STEP)
    for name, copy in p.items():
        assert torch.allclose(copy.grad, plain.gradient(name), atol=1e-5), name


def test_the_axes_of_a_sasa_block_reconstruct_as_its_rows_do() -> None:
    architecture, start = built(SASAConfig(k=8, block=4, batch=64))
    Training(architecture, start.random, steps=40).over(sample())
    x = some_batch(architecture).x
    with torch.no_grad():
        found, expected = architecture.dictionary(), architecture.forward(x).output
    assert torch.allclose(found.reconstruct(x), expected, atol=1e-4)
    blocks = found.W_dec.view(10, 4, D)
    products = blocks @ blocks.transpose(1, 2)
    off = products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-4 and (blocks.norm(dim=-1).diff(dim=1) < 1e-5).all()
    assert found.selection == Blocks(8, 4)


def test_sasa_finds_planes_that_the_data_are_made_of() -> None:
    """Tokens lie in one of eight planes; each plane is a block."""
    draw = torch.Generator().manual_seed(0)
    planes = torch.linalg.qr(torch.randn(8, D, 2, generator=draw)).Q.transpose(1, 2)
    which = torch.randint(0, 8, (2000,), generator=draw)
    x = torch.einsum("nr,nrd->nd", torch.randn(2000, 2, generator=draw), planes[which])
    activations = sample()._replace(x=x.bfloat16())
    start = Start(activations.x, activations.tokens, embedding=torch.randn(30, D), d_sae=64)
    with torch.no_grad():
        architecture = build(SASAConfig(k=2, block=2, batch=64, learning_rate=1e-2, nuclear=0.0), start)
    Training(architecture, start.random, steps=300).over(activations)
    axes = torch.linalg.svd(architecture.dictionary().W_dec.view(32, 2, D), full_matrices=False).Vh
    overlap = torch.einsum("prd,bsd->pbrs", planes, axes).square().sum((2, 3)) / 2
    assert (overlap.max(1).values > 0.9).sum() >= 6


def test_a_block_that_does_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="must divide k, 6"):
        SASAConfig(k=6, block=4)
    with pytest.raises(RecipeError, match="must divide the width, 40"):
        built(SASAConfig(k=6, block=3))


# --- MFR ---


def test_mfr_trains_its_peers_too_and_penalises_rows_that_they_lack() -> None:
    config = MFRConfig(k=4, peers=2, mutual=0.5, rows=D_SAE, warm_up=0.1, aux_k=0, dense_rank=2)
    architecture, _ = built(config)
    architecture.matmul_dtype = torch.float32
    p, x = copies(architecture), some_batch(architecture).x
    loss, rows = torch.zeros(()), []
    for suffix in ("", "_0", "_1"):
        values, indices = (x @ p[f"encoder{suffix}"].T + p[f"b_enc{suffix}"]).topk(4)
        code = torch.zeros(len(x), D_SAE).scatter(1, indices, values.relu())
        decoder = unit(p[f"decoder{suffix}"])
        dense_part = x @ p["dense_in"] @ p["dense_out"]
        output = code @ decoder + (dense_part.detach() if suffix else dense_part) + p[f"b_dec{suffix}"]
        loss = loss + (output - x).square().mean()
        rows.append(decoder)
    cosines = [(a @ b.T).max(1).values.mean() for a in rows for b in rows if a is not b]
    assert_gradients(architecture, loss + 0.5 * (1 - torch.stack(cosines).mean()), p)


def test_dictionaries_trained_with_mfr_agree_more_than_those_without() -> None:
    agreement = []
    for mutual in (0.0, 3.0):
        architecture, start = built(MFRConfig(k=4, batch=64, mutual=mutual, restarts=0))
        Training(architecture, start.random, steps=100).over(sample())
        one, other = (unit(architecture.parameters[name].detach()) for name in ("decoder", "decoder_0"))
        agreement.append(float((one @ other.T).max(1).values.mean()))
    assert agreement[1] > agreement[0] + 0.05


def test_a_restarted_feature_of_a_variational_dictionary_has_its_first_variance() -> None:
    config = VSAEConfig(k=4, batch=64, restarts=0)
    architecture, _ = built(config)
    for name in ("variance", "b_variance"):
        architecture.parameters[name].data.fill_(3)
    with torch.no_grad():
        batch = some_batch(architecture)
        architecture.restart(torch.tensor([2]), batch._replace(x=batch.x[:1], target=batch.target[:1]))
    assert not architecture.parameters["variance"][2].any() and architecture.parameters["variance"][3].all()
    assert architecture.parameters["b_variance"][2] == config.log_variance


# --- what all refuse ---


@pytest.mark.parametrize(
    ("config", "settings", "says"),
    [
        (GBAConfig, {"groups": 0}, "groups is 0"),
        (GBAConfig, {"rate": 2.0}, "must not be above 1"),
        (MetaSAEConfig, {"meta_width": 2}, "meta_k 4 is more than meta_width, 2"),
        (MutualChoiceConfig, {"dying": 2.0}, "must not be above 1"),
        (AENConfig, {"last_norm": 0.5}, "last_norm=1"),
        (SignedGatedConfig, {"aux_k": 8}, "has no AuxK"),
        (SignedGatedConfig, {"terms": "kl:1,off_support:1", "batch_of": "passages"}, "has a radius"),
        (SignedGatedConfig, {"terms": "l1_l2:1"}, "has a radius"),
        (VSAEConfig, {"divergence": -1.0}, "divergence is -1"),
        (MFRConfig, {"peers": 0}, "peers is 0"),
        (SparsemaxConfig, {"terms": "off_support:1"}, "no terms"),
        (TopAFAConfig, {"afa": -1.0}, "afa is -1"),
        (EndToEndConfig, {"batch_of": "tokens"}, "needs whole passages"),
        (GradientTopKConfig, {"batch_of": "tokens"}, "needs whole passages"),
        (ITDAConfig, {"lookup": "trained"}, "no gradients"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    config: type[Config], settings: dict[str, object], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        replace(config(), **settings)  # type: ignore[arg-type, call-arg]
