"""The paper's algorithm: its loss, its anchor modes, its three variants and its early stopping are what
METHOD.md §1 says.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel
from lexiscope.text import passages
from trainer import paper
from trainer.__main__ import _recipes, main
from trainer.paper import PaperRecipe, PaperSAE, Rows, anchor_scores, paper_recipe, row_batches, train_paper
from trainer.paper_run import read_rows, train_paper_recipes
from trainer.plan import Plan
from trainer.recipes import RecipeError, recipe

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


def rows_of_text(n_rows: int, seed: int = 0) -> Rows:
    """Rows of 3 to 7 activations around their token's embedding."""
    lengths = [3 + (i * 7 + seed) % 5 for i in range(n_rows)]
    tokens = torch.randint(0, VOCAB, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    x = 3 * embedding()[tokens] + draw(sum(lengths), D, seed=seed + 1)
    return Rows(x.bfloat16(), tokens, torch.tensor([sum(lengths[:i]) for i in range(n_rows)]))


def embedding() -> Tensor:
    return draw(VOCAB, D, seed=5)


def short(name: str = "paper-soft", **changes: object) -> PaperRecipe:
    return replace(paper_recipe(name), k=4, epochs=2, rows=8, **changes)


def trained(
    recipe: PaperRecipe, *, n_rows: int = 40, d_sae: int = VOCAB, seed: int = 0
) -> paper.PaperTrained:
    return train_paper(
        recipe,
        rows_of_text(n_rows),
        rows_of_text(10, seed=9),
        embedding=embedding(),
        d_sae=d_sae,
        seed=seed,
        every=5,
    )


@pytest.mark.parametrize("mode", ["nearest", "logsumexp", "softmax"])
def test_each_anchor_mode_is_what_a_loop_over_features_and_tokens_gives(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "CHUNK", 7)
    directions, anchors = draw(20, D), embedding()
    expected = [slow_score(direction, anchors, mode) for direction in directions]
    assert torch.allclose(anchor_scores(directions, anchors, mode), torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "logsumexp", "softmax"])
def test_the_anchor_gradient_is_that_of_the_score_over_all_cosines(mode: str) -> None:
    directions, anchors = draw(20, D).requires_grad_(), embedding()
    anchor_scores(directions, anchors, mode).mean().backward()
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


def test_the_code_keeps_the_k_largest_positive_activations_and_the_loss_is_the_mean_over_dimensions_and_tokens() -> (
    None
):
    recipe = short(anchor_weight=0.3)
    sae = PaperSAE(recipe, D, VOCAB, embedding()).requires_grad_(False)
    x = draw(6, D)
    rebuilt, code = sae(x)
    total = 0.0
    for row, x_hat, z in zip(x, rebuilt, code):
        pre = [float(w @ row + b) for w, b in zip(sae.encoder.weight, sae.encoder.bias)]
        chosen = sorted(range(VOCAB), key=lambda i: -max(pre[i], 0))[:4]
        assert {i for i in range(VOCAB) if z[i] > 0} == {i for i in chosen if pre[i] > 0}
        for j in range(D):
            slow = sum(max(pre[i], 0) * float(sae.decoder.weight[j, i]) for i in chosen) + float(
                sae.decoder.bias[j]
            )
            assert float(x_hat[j]) == pytest.approx(slow, abs=1e-4)
            total += (slow - float(row[j])) ** 2
    assert torch.nn.functional.mse_loss(rebuilt, x).item() == pytest.approx(total / (6 * D), rel=1e-4)


def test_one_step_of_paper_soft_follows_the_error_minus_lambda_times_the_mean_score() -> None:
    recipe = replace(short(anchor_weight=0.3), epochs=1, rows=40)
    rows = rows_of_text(40)
    torch.manual_seed(0)
    sae = PaperSAE(recipe, D, VOCAB, embedding())
    (batch,) = row_batches(rows, recipe, torch.Generator().manual_seed(0))
    x = rows.activations[batch].float()
    cosines = (
        torch.nn.functional.normalize(sae.directions, dim=-1)
        @ torch.nn.functional.normalize(embedding(), dim=-1).T
    )
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-3)
    (((sae(x)[0] - x) ** 2).mean() - 0.3 * cosines.amax(-1).mean()).backward()
    optimiser.step()
    found = trained(recipe).dictionary
    assert torch.allclose(found.W_dec, sae.directions, atol=1e-6)
    assert torch.allclose(found.W_enc, sae.encoder.weight.T, atol=1e-6)


def test_a_stronger_lambda_aligns_more_and_plain_does_not_align() -> None:
    def alignment(recipe: PaperRecipe) -> float:
        return float(
            anchor_scores(trained(replace(recipe, epochs=15)).dictionary.W_dec, embedding(), "nearest").mean()
        )

    plain, soft = alignment(short("paper-plain")), alignment(short(anchor_weight=5.0))
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
    real = paper.anchor_scores
    monkeypatch.setattr(paper, "anchor_scores", lambda *given: scored.append(1) or real(*given))
    trained(short(anchor_every=3))  # two epochs of five steps
    assert len(scored) == 3
    never, plain = trained(short(anchor_every=11)), trained(short("paper-plain"))
    assert torch.equal(never.dictionary.W_dec, plain.dictionary.W_dec)


def test_training_stops_when_the_validation_loss_has_not_fallen_for_patience_epochs_and_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = iter([3.0, 2.0, 2.0, 2.5, 2.1, 0.0])
    weights: list[Tensor] = []

    def validated(sae: PaperSAE, *rest: object) -> float:
        weights.append(sae.directions.detach().clone())
        return next(losses)

    monkeypatch.setattr(paper, "validation_loss", validated)
    done = trained(replace(short(), epochs=20))
    assert [line.validation_loss for line in done.log if line.validation_loss is not None] == [
        3.0,
        2.0,
        2.0,
        2.5,
        2.1,
    ]
    assert torch.equal(done.dictionary.W_dec, weights[1])


def test_the_validation_loss_is_over_all_tokens_whatever_the_batches() -> None:
    rows, sae = rows_of_text(11), PaperSAE(short(), D, VOCAB, embedding())
    x = rows.activations.float()
    whole = torch.nn.functional.mse_loss(sae(x)[0], x).item()
    assert paper.validation_loss(sae, rows, short(), torch.device("cpu")) == pytest.approx(whole, rel=1e-5)


def test_an_epoch_sees_every_activation_once_in_whole_rows() -> None:
    rows = rows_of_text(20)
    batches = list(row_batches(rows, short(), torch.Generator().manual_seed(1)))
    assert len(batches) == 3
    assert sorted(torch.cat(batches).tolist()) == list(range(len(rows.tokens)))
    starts = set(rows.starts.tolist())
    assert all(int(batch[0]) in starts for batch in batches)
    assert not torch.equal(torch.cat(batches), torch.arange(len(rows.tokens)))


def test_names_are_read_from_raw_embeddings_and_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = trained(short()), trained(short()), trained(short(), seed=1)
    assert (
        torch.equal(first.fit.anchors, embedding())
        and not first.fit.mean.any()
        and (first.fit.assigned == -1).all()
    )
    assert int(first.fit.counts.sum()) == len(rows_of_text(40).tokens)
    assert torch.equal(first.dictionary.W_enc, again.dictionary.W_enc)
    assert not torch.equal(first.dictionary.W_enc, other.dictionary.W_enc)


def test_the_dictionary_encodes_as_the_trained_model_does() -> None:
    recipe = replace(short("paper-plain"), epochs=4)
    done, rows = trained(recipe), rows_of_text(10, seed=9)
    x = rows.activations.float()
    error = (done.dictionary.reconstruct(x) - x).square().mean().item()
    assert error == pytest.approx(
        min(line.validation_loss for line in done.log if line.validation_loss is not None), rel=1e-4
    )


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("paper-best", {}, "no recipe 'paper-best'"),
        (
            "paper-soft",
            {"anchor_mode": "mean"},
            "no anchor mode 'mean'; there are nearest, logsumexp, softmax",
        ),
        ("paper-soft", {"anchor_every": 0}, "anchor_every is 0"),
        ("paper-soft", {"anchor_weight": -1.0}, "lambda is -1"),
        ("paper-soft", {"anchor_weight": float("nan")}, "lambda is nan"),
        ("paper-soft", {"anchor_weight": 0.0}, "is paper-plain"),
        ("paper-soft", {"k": 0}, "k is 0"),
        ("paper-plain", {"anchor_weight": 1e-4}, "paper-plain has no anchor term"),
        ("paper-hard", {"anchor_mode": "softmax"}, "paper-hard has no anchor term"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        paper_recipe(name, **options)


def test_a_width_or_a_model_that_the_recipe_does_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match="k is 4"):
        trained(short(), d_sae=3)
    with pytest.raises(RecipeError, match="one feature a token: its width is the vocabulary's, 30, not 31"):
        trained(short("paper-hard"), d_sae=31)
    with pytest.raises(RecipeError, match="its width, 8, must be that of the residual stream, 12"):
        train_paper(short(), rows_of_text(4), rows_of_text(2), embedding=draw(VOCAB, 8), d_sae=VOCAB)
    nothing = Rows(torch.empty(0, D), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))
    with pytest.raises(RecipeError, match="no rows of text to validate on"):
        train_paper(short(), rows_of_text(4), nothing, embedding=embedding(), d_sae=VOCAB)


# --- lexiscope train --recipe paper-… ---


def paper_plan(text: Path, out: Path, names: Sequence[str], **changes: object) -> Plan:
    recipes = [replace(paper_recipe(name), k=4, epochs=2, rows=8) for name in names]
    return Plan([str(text)], [(recipe, [0]) for recipe in recipes], out, 2000, 1, 400, length=48)._replace(
        **changes
    )


def test_a_paper_run_keeps_every_position_writes_a_checkpoint_and_is_evaluated(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    paths = train_paper_recipes(
        model, paper_plan(text_file, tmp_path, ["paper-soft", "paper-hard"]), console=Console(quiet=True)
    )
    assert [path.name for path in paths] == ["0-paper-soft", "0-paper-hard"]
    soft, hard = (load_checkpoint(path) for path in paths)
    assert soft.fit is not None and torch.allclose(soft.fit.anchors, model.embedding.cpu().half().float())
    assert soft.fit.counts[model.bos] > 0  # position 0 is among what was trained on
    assert hard.metrics["aligned_all"] == pytest.approx(1)
    assert torch.allclose(hard.dictionary.W_dec, model.embedding.cpu().float())
    assert soft.config["architecture"] == "topk" and soft.details["config"]["anchor_weight"] == 1e-4
    lines = [json.loads(line) for line in (paths[0] / "train.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["validation_loss"] is not None] == [1, 2]


def test_rows_are_whole_passages_and_hold_what_the_model_computes(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    found = list(passages(model, [str(text_file)], length=20))[:7]
    rows = read_rows(model, found, 0, tmp_path / "rows")
    assert len(rows.starts) == 7 and len(rows.activations) == sum(len(passage) for passage in found)
    assert (rows.tokens[rows.starts] == model.bos).all()
    start, end = int(rows.starts[2]), int(rows.starts[3])
    alone = model.read(rows.tokens[None, start:end].to(model.device), [0])[0][0].cpu()
    assert torch.allclose(rows.activations[start:end].float(), alone, rtol=1e-2, atol=1e-2)


def test_the_command_line_gives_the_papers_options_to_paper_soft_alone() -> None:
    soft, plain = _recipes(
        ["paper-soft", "paper-plain"],
        {"k": 8},
        {"anchor_weight": 5e-3, "anchor_mode": None, "anchor_every": 50},
    )
    assert (soft.anchor_weight, soft.anchor_every, soft.k, plain.anchor_weight, plain.k) == (
        5e-3,
        50,
        8,
        0.0,
        8,
    )
    with pytest.raises(RecipeError, match="paper-soft alone"):
        main(["somewhere", "--text=t.txt", "--lambda=0.1"], prog="lexiscope train")
    with pytest.raises(RecipeError, match="leave --seen out"):
        main(["somewhere", "--text=t.txt", "--recipe=paper-plain", "--seen=100"], prog="lexiscope train")


def test_paper_recipes_beside_others_over_a_run_or_with_resume_are_refused(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    quiet, mixed = Console(quiet=True), paper_plan(text_file, tmp_path, ["paper-plain"])
    with pytest.raises(RecipeError, match="in a run of their own"):
        train_paper_recipes(model, mixed._replace(runs=[*mixed.runs, (recipe("plain"), [0])]), console=quiet)
    with pytest.raises(RecipeError, match="know no --resume"):
        train_paper_recipes(model, mixed._replace(resume=True), console=quiet)
    there = tmp_path / model.id / "0-paper-plain"
    there.mkdir(parents=True)
    (there / "cfg.json").write_text("{}")
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_paper_recipes(model, mixed, console=quiet)
    assert (there / "cfg.json").read_text() == "{}"
