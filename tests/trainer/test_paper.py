"""The paper's algorithm: its loss, its anchor modes, its three variants and its early stopping are what
docs/method.md#the-vasae-paper says.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel
from tests.trainer.test_resume import Interrupted, interrupt, same
from trainer import objectives
from trainer.__main__ import main
from trainer.activations.passages import LayerActivations, PassageOrder, TrainingBatch
from trainer.architectures import Start, Step, build
from trainer.architectures.paper import PaperConfig
from trainer.distributed import Ranks
from trainer.errors import RecipeError
from trainer.objectives import anchor_pull, losses
from trainer.presets import configured, recipe
from trainer.step import Trained, Training, train_on_sample

VOCAB, D = 30, 12


def cosine(a: Tensor, b: Tensor) -> float:
    return float(
        sum(x * y for x, y in zip(a, b))
        / math.sqrt(float(sum(x * x for x in a)) * float(sum(y * y for y in b)))
    )


def slow_score(direction: Tensor, anchors: Tensor, mode: str) -> float:
    cosines = sorted((cosine(direction, anchor) for anchor in anchors), reverse=True)
    nearest = cosines[:10]
    if mode == "nearest":
        return cosines[0]
    total = sum(math.exp(c) for c in nearest)
    return math.log(total) if mode == "logsumexp" else sum(math.exp(c) / total * c for c in nearest)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of_text(n_rows: int, seed: int = 0) -> LayerActivations:
    """Rows of 3 to 7 activations around their token's embedding."""
    lengths = torch.tensor([3 + (i * 7 + seed) % 5 for i in range(n_rows)])
    n = int(lengths.sum())
    tokens = torch.randint(0, VOCAB, (n,), generator=torch.Generator().manual_seed(seed))
    x = 3 * embedding()[tokens] + draw(n, D, seed=seed + 1)
    return LayerActivations(x.bfloat16(), tokens, lengths.cumsum(0) - lengths, torch.arange(n_rows), None)


def embedding() -> Tensor:
    return draw(VOCAB, D, seed=5)


def short(name: str = "paper-soft", **changes: Any) -> PaperConfig:
    config = recipe(name)
    assert isinstance(config, PaperConfig)
    return replace(config, **({"k": 4, "epochs": 2, "batch": 8} | changes))


def started(config: PaperConfig, rows: LayerActivations, *, seed: int = 0, d_sae: int = VOCAB) -> Training:
    training = (~rows.validation()).nonzero().squeeze(1)
    start = Start(
        rows.x,
        rows.tokens,
        embedding=embedding(),
        d_sae=d_sae,
        seed=seed,
        centre=config.centre,
        positions=rows.positions(training),
    )
    with torch.no_grad():
        return Training(build(config, start), start.random, every=5)


def trained(config: PaperConfig, *, n_rows: int = 48, seed: int = 0) -> Trained:
    rows = rows_of_text(n_rows)
    return train_on_sample(started(config, rows, seed=seed), rows)


def linear_layers(seed: int = 0) -> tuple[nn.Linear, nn.Linear]:
    """The encoder and the decoder as `nn.Linear` starts them."""
    torch.manual_seed(seed)
    return nn.Linear(D, VOCAB), nn.Linear(VOCAB, D)


def naive(encoder: nn.Linear, decoder: nn.Linear, x: Tensor, k: int = 4) -> Tensor:
    """The paper's forward pass with a dense code."""
    values, indices = encoder(x).relu().topk(k, dim=-1)
    return decoder(torch.zeros(len(x), VOCAB).scatter(-1, indices, values))


@pytest.mark.parametrize("mode", ["nearest", "logsumexp", "softmax"])
def test_each_anchor_mode_is_what_a_loop_over_features_and_tokens_gives(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", 7)
    directions, anchors = draw(20, D), embedding()
    expected = [slow_score(direction, anchors, mode) for direction in directions]
    assert torch.allclose(anchor_pull(directions, anchors, mode), torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "logsumexp", "softmax"])
def test_the_anchor_gradient_is_that_of_the_score_over_all_cosines(mode: str) -> None:
    directions, anchors = draw(20, D).requires_grad_(), embedding()
    anchor_pull(directions, anchors, mode).mean().backward()
    whole = directions.detach().clone().requires_grad_()
    cosines = torch.nn.functional.normalize(whole, dim=-1) @ torch.nn.functional.normalize(anchors, dim=-1).T
    ten = cosines.topk(10, dim=-1).values
    score = {
        "nearest": cosines.amax(-1),
        "logsumexp": ten.logsumexp(-1),
        "softmax": (ten.softmax(-1) * ten).sum(-1),
    }[mode]
    score.mean().backward()
    assert torch.allclose(directions.grad, whole.grad, atol=1e-6)


def test_the_loss_is_the_mean_over_dimensions_and_tokens_of_a_code_of_the_k_largest() -> None:
    rows = rows_of_text(10)
    sae = started(short(anchor_weight=0.3), rows).architecture
    x = draw(6, D)
    with torch.no_grad():
        made = sae.forward(x)
        loss = sae.losses(TrainingBatch(x, x, torch.zeros(6, dtype=torch.long)), made, Step(1, 1))["mse"]
    encoder, b_enc, decoder, b_dec = (
        sae.parameters[n].detach() for n in ("encoder", "b_enc", "decoder", "b_dec")
    )
    total = 0.0
    for row, x_hat, values, indices in zip(x, made.output, *made.code):
        pre = [float(w @ row + b) for w, b in zip(encoder, b_enc)]
        chosen = sorted(range(VOCAB), key=lambda i: -max(pre[i], 0))[:4]
        assert set(indices[values > 0].tolist()) == {i for i in chosen if pre[i] > 0}
        for j in range(D):
            slow = sum(max(pre[i], 0) * float(decoder[i, j]) for i in chosen) + float(b_dec[j])
            assert float(x_hat[j]) == pytest.approx(slow, abs=1e-4)
            total += (slow - float(row[j])) ** 2
    assert loss.item() == pytest.approx(total / (6 * D), rel=1e-4)


def test_one_step_of_paper_soft_follows_the_error_minus_lambda_times_the_mean_score() -> None:
    config, rows = short(anchor_weight=0.3, epochs=1, patience=0, batch=40), rows_of_text(40)
    encoder, decoder = linear_layers()
    batch = PassageOrder(rows, torch.arange(40), 40, (0, 0)).rows(0, 0).positions
    x = rows.x[batch].float()
    unit = nn.functional.normalize
    cosines = unit(decoder.weight.T, dim=-1) @ unit(embedding(), dim=-1).T
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    (((naive(encoder, decoder, x) - x) ** 2).mean() - 0.3 * cosines.amax(-1).mean()).backward()
    optimiser.step()
    found = trained(config, n_rows=40).dictionary
    assert torch.allclose(found.W_dec, decoder.weight.T, atol=1e-6)
    assert torch.allclose(found.W_enc, encoder.weight.T, atol=1e-6)


def test_a_stronger_lambda_aligns_more_and_plain_does_not_align() -> None:
    def alignment(config: PaperConfig) -> float:
        return float(anchor_pull(trained(config).dictionary.W_dec, embedding(), "nearest").mean())

    plain = alignment(short("paper-plain", epochs=15))
    soft = alignment(short(anchor_weight=5.0, epochs=15))
    assert soft > plain + 0.1


def test_the_hard_variants_decoder_is_the_embedding_without_bias_and_never_moves() -> None:
    done = trained(short("paper-hard"))
    assert torch.equal(done.dictionary.W_dec, embedding())
    assert torch.equal(done.dictionary.b_dec, torch.zeros(D))
    assert torch.equal(done.fit.assigned, torch.arange(VOCAB))
    assert done.log[-1].loss < done.log[0].loss  # its encoder learns


def test_anchor_every_leaves_the_term_out_between_and_does_not_rescale_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored: list[int] = []
    real = objectives.anchor_pull
    monkeypatch.setattr(objectives, "anchor_pull", lambda *given: scored.append(1) or real(*given))
    trained(short(anchor_every=3))  # two epochs of five steps
    assert len(scored) == 3
    never, plain = trained(short(anchor_every=11)), trained(short("paper-plain"))
    assert torch.equal(never.dictionary.W_dec, plain.dictionary.W_dec)


def test_training_stops_when_the_validation_loss_has_not_fallen_for_patience_epochs_and_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = iter([3.0, 2.0, 2.0, 2.5, 2.1, 0.0])
    weights: list[Tensor] = []

    def validated(self: Training, rows: LayerActivations) -> float:
        weights.append(self.architecture.parameters["decoder"].detach().clone())
        return next(losses)

    monkeypatch.setattr(Training, "validation_loss", validated)
    done = trained(short(epochs=20))
    found = [line.validation_loss for line in done.log if line.validation_loss is not None]
    assert found == [3.0, 2.0, 2.0, 2.5, 2.1]
    assert torch.equal(done.dictionary.W_dec, weights[1])


def test_the_validation_loss_is_over_every_sixth_row_whatever_the_batches() -> None:
    rows = rows_of_text(66)
    training = started(short(), rows)
    encoder, decoder = linear_layers()
    x = rows.x[rows.positions(torch.arange(5, 66, 6))].float()
    whole = nn.functional.mse_loss(naive(encoder, decoder, x), x).item()
    assert training.validation_loss(rows) == pytest.approx(whole, rel=1e-5)


def test_an_epoch_sees_every_activation_once_in_whole_rows() -> None:
    rows = rows_of_text(20)
    order = PassageOrder(rows, torch.arange(20), 8, (1, 0))
    batches = [order.rows(0, at) for at in range(order.per_epoch)]
    assert len(batches) == 3
    together = torch.cat([batch.positions for batch in batches])
    assert sorted(together.tolist()) == list(range(len(rows.tokens)))
    assert not torch.equal(together, torch.arange(len(rows.tokens)))
    for batch in batches:
        whole = rows.whole(batch.passages)
        assert torch.equal(whole.tokens[whole.places], rows.tokens[batch.positions])
        assert torch.equal(whole.places.sum(1), rows.lengths[batch.passages])


def test_names_are_computed_from_raw_embeddings_of_training_rows() -> None:
    done, rows = trained(short()), rows_of_text(48)
    assert torch.equal(done.fit.anchors, embedding())
    assert not done.fit.mean.any() and (done.fit.assigned == -1).all()
    assert int(done.fit.counts.sum()) == int((~rows.validation()).repeat_interleave(rows.lengths).sum())


def test_the_dictionary_encodes_as_the_trained_model_does() -> None:
    done, rows = trained(short("paper-plain", epochs=4)), rows_of_text(48)
    x = rows.x[rows.positions(rows.validation().nonzero().squeeze(1))].float()
    error = (done.dictionary.reconstruct(x) - x).square().mean().item()
    best = min(line.validation_loss for line in done.log if line.validation_loss is not None)
    assert error == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("paper-best", "k=4", "no recipe 'paper-best'"),
        ("paper-soft", "anchor_mode=mean", "it takes nearest, logsumexp, softmax"),
        ("paper-soft", "anchor_every=0", "anchor_every is 0"),
        ("paper-soft", "anchor_weight=-1", "anchor_weight is -1"),
        ("paper-soft", "anchor_weight=nan", "anchor_weight is nan"),
        ("paper-soft", "k=0", "k is 0"),
        ("paper-hard", "anchor_weight=0.1", "freezes the decoder"),
        ("paper-hard", "terms=orthogonality:1", "freezes the decoder"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, setting: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        configured([name], [setting])


def test_a_width_or_a_model_that_the_recipe_does_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match="k is 4"):
        short().check(d_in=D, d_sae=3, embedding=(VOCAB, D))
    with pytest.raises(RecipeError, match="one feature a token: its width is the vocabulary's, 30, not 31"):
        short("paper-hard").check(d_in=D, d_sae=31, embedding=(VOCAB, D))
    with pytest.raises(RecipeError, match="its width, 8, must be that of the residual stream, 12"):
        short().check(d_in=D, d_sae=VOCAB, embedding=(VOCAB, 8))


# --- lexiscope train --recipe paper-… ---


QUIET = Console(quiet=True)


def paper_plan(text: Path, out: Path, names: Sequence[str], **changes: Any) -> trainer.Plan:
    runs = [(short(name), [0]) for name in names]
    return trainer.Plan([str(text)], runs, out, 2000, 1, 400, length=48)._replace(**changes)


def test_a_paper_run_keeps_every_position_writes_a_checkpoint_and_is_evaluated(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    paths = trainer.train(model, paper_plan(text_file, tmp_path, ["paper-soft", "paper-hard"]), console=QUIET)
    assert [path.name for path in paths] == ["0-paper-soft", "0-paper-hard"]
    soft, hard = (load_checkpoint(path) for path in paths)
    assert soft.fit is not None and torch.allclose(soft.fit.anchors, model.embedding.cpu().half().float())
    assert soft.fit.counts[model.bos] > 0  # position 0 is among what was trained on
    assert hard.metrics["aligned_all"] == pytest.approx(1)
    assert torch.allclose(hard.dictionary.W_dec, model.embedding.cpu().float())
    assert soft.config["architecture"] == "topk" and soft.details["config"]["anchor_weight"] == 1e-4
    lines = [json.loads(line) for line in (paths[0] / "train.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["validation_loss"] is not None] == [1, 2]
    assert all("anchor_pull" in line["terms"] for line in lines)


def test_a_paper_run_is_resumed_to_the_same_weights_and_may_use_a_cache(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"cache": tmp_path / "cache", "snapshot_every": 0}
    whole = trainer.train(
        model, paper_plan(text_file, tmp_path / "a", ["paper-soft"], **changes), console=QUIET
    )
    parts = paper_plan(text_file, tmp_path / "b", ["paper-soft"], resume=True, **changes)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        interrupt(patched, after=1)
        trainer.train(model, parts, console=QUIET)
    assert same(whole, trainer.train(model, parts, console=QUIET))
    (folder,) = (tmp_path / "cache").iterdir()
    assert json.loads((folder / "manifest.json").read_text())["positions"] == "all"


def test_settings_of_the_paper_may_be_for_one_recipe_alone() -> None:
    settings = ["k=8", "paper-soft.anchor_weight=5e-3", "anchor_every=50"]
    soft, plain = configured(["paper-soft", "paper-plain"], settings)
    assert isinstance(soft, PaperConfig) and isinstance(plain, PaperConfig)
    assert (soft.anchor_weight, soft.anchor_every, soft.k) == (5e-3, 50, 8)
    assert (plain.anchor_weight, plain.k) == (0.0, 8)
    with pytest.raises(RecipeError, match="leave --seen out"):
        main(["somewhere", "--text=t.txt", "--recipe=paper-plain", "--seen=100"], prog="lexiscope train")


def test_paper_recipes_beside_others_over_a_run_or_over_ranks_are_refused(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    plan = paper_plan(text_file, tmp_path, ["paper-plain"])
    with pytest.raises(RecipeError, match="in runs of their own"):
        trainer.train(model, plan._replace(runs=[*plan.runs, (recipe("plain"), [0])]), console=QUIET)
    with pytest.raises(RecipeError, match="--layers-over-ranks"):
        trainer.train(model, plan, console=QUIET, ranks=Ranks(0, 2))
    there = tmp_path / model.id / "0-paper-plain"
    there.mkdir(parents=True)
    (there / "cfg.json").write_text("{}")
    with pytest.raises(CheckpointError, match="already holds a run"):
        trainer.train(model, plan, console=QUIET)
    assert (there / "cfg.json").read_text() == "{}"
