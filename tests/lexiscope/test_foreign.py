"""Dictionaries of other libraries give the codes and reconstructions that those libraries themselves give.

The cases under foreign/cases were written by those libraries (foreign/make.py says which versions, and how to
write them afresh); LEXISCOPE_FOREIGN_CASES names another folder of them: `make check-foreign` does so with
cases made on the spot.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lexiscope import formats
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.formats.dictionary_learning import CLASSES
from lexiscope.sparse_code import SparseCode

CASES = Path(os.environ.get("LEXISCOPE_FOREIGN_CASES", Path(__file__).parent / "foreign" / "cases"))
EVERY = sorted(path.name for path in CASES.iterdir())


def expected(name: str) -> dict[str, Tensor]:
    return load_file(next((CASES / name).rglob("expected.safetensors")))


def dense(code: SparseCode, d_sae: int) -> Tensor:
    return torch.zeros(len(code.values), d_sae).scatter_add_(1, code.indices, code.values)


WEIGHTS = ("sae_weights.safetensors", "final.safetensors", "ae.pt")


@pytest.fixture
def copy(tmp_path: Path) -> Any:
    """A case to damage: its weights and settings changed as given (None removes a key)."""

    def changed(
        name: str, *, config: dict[str, Any] | None = None, tensors: dict[str, Tensor | None] | None = None
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(CASES / name, folder, dirs_exist_ok=True)
        inside = next(folder.rglob("cfg.json"))
        settings = json.loads(inside.read_text()) | (config or {})
        inside.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
        weights = next(
            path for path in inside.parent.glob("*.safetensors") if path.name != "expected.safetensors"
        )
        held = load_file(weights) | (tensors or {})
        save_file({key: value.clone() for key, value in held.items() if value is not None}, weights)
        return folder

    return changed


def test_every_library_and_architecture_is_among_the_cases() -> None:
    kinds = {name.split("-")[0] for name in EVERY} - {"gpt2_L4_vasae_soft", "gpt2_L4_hard_tied_baseline"}
    libraries = {name for name, module in vars(formats).items() if hasattr(module, "FORMAT")}
    assert kinds == libraries - {"vasae"} and "gpt2_L4_vasae_soft" in EVERY
    assert {name.split("-")[1] for name in EVERY if "dictionary_learning" in name} == set(CLASSES)
    for architecture in (
        "standard",
        "topk",
        "jumprelu",
        "gated",
        "trained-batchtopk",
        "trained-matryoshka_batchtopk",
        "before-6-first",
    ):
        assert any(name.startswith(f"saelens-{architecture}") for name in EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_codes_and_reconstructions_are_the_librarys_own(name: str) -> None:
    dictionary, wanted = load_checkpoint(CASES / name).dictionary, expected(name)
    code = dictionary.encode(wanted["x"])
    assert (wanted["codes"] > 0).any(dim=1).all()
    assert torch.allclose(dense(code, dictionary.d_sae), wanted["codes"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(dictionary.decode(code, wanted["x"]), wanted["rebuilt"], rtol=1e-5, atol=1e-5)
    again = dictionary.select(wanted["x"], runners_up=3)
    assert torch.equal(dense(again.code, dictionary.d_sae), dense(code, dictionary.d_sae))


@pytest.mark.parametrize("name", [name for name in EVERY if "none" in name and "rescaled" not in name])
def test_weights_in_half_precision_are_read_as_float32(name: str, copy: Any) -> None:
    stored = load_file(CASES / name / "sae_weights.safetensors")
    halved = load_checkpoint(
        copy(
            name,
            config={"dtype": "bfloat16"},
            tensors={key: value.bfloat16() for key, value in stored.items()},
        )
    )
    assert halved.dictionary.W_dec.dtype == torch.float32
    assert torch.equal(halved.dictionary.W_dec, stored["W_dec"].bfloat16().float())


def test_a_training_checkpoint_of_batchtopk_holds_one_threshold_for_all_features(copy: Any) -> None:
    finished = CASES / "saelens-trained-batchtopk"
    weights = load_file(finished / "sae_weights.safetensors")
    threshold = weights["threshold"][0].double()
    unfinished = copy(
        finished.name,
        config={"architecture": "batchtopk", "k": 6.0},
        tensors={"threshold": None, "topk_threshold": threshold},
    )
    found, wanted = load_checkpoint(unfinished), expected(finished.name)
    assert found.architecture == "batchtopk"
    assert torch.allclose(dense(found.dictionary.encode(wanted["x"]), 64), wanted["codes"], atol=1e-5)


def test_a_scale_that_is_not_folded_in_is_read_from_beside_or_asked_for(copy: Any) -> None:
    folder = copy("saelens-topk-b_dec-none", config={"normalize_activations": "expected_average_only_in"})
    with pytest.raises(CheckpointError, match=r"activation_scaler\.json"):
        load_checkpoint(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    found, wanted = load_checkpoint(folder).dictionary, expected("saelens-topk-b_dec-none")
    code = found.encode(wanted["x"] / 0.25)
    assert torch.allclose(dense(code, 64), wanted["codes"], atol=1e-5)
    assert torch.allclose(found.decode(code, wanted["x"] / 0.25) * 0.25, wanted["rebuilt"], atol=1e-4)


@pytest.mark.parametrize(
    "said",
    [
        {"model_name": "gpt2-small"},
        {"model_name": "llama", "model_from_pretrained_kwargs": {"center_writing_weights": True}},
    ],
)
def test_a_dictionary_of_transformerlens_centred_stream_reads_the_raw_one(
    said: dict[str, Any], copy: Any
) -> None:
    """gpt2-small-res-jb's folders do not say so: SAELens's registry does."""
    wanted = expected("saelens-before-6-first")
    found = load_checkpoint(copy("saelens-before-6-first", config=said)).dictionary
    mean = torch.randn(len(wanted["x"]), 1)
    centred = wanted["x"] - wanted["x"].mean(1, keepdim=True)
    plain = load_checkpoint(CASES / "saelens-before-6-first").dictionary
    code = found.encode(centred + mean)
    assert torch.allclose(dense(code, 64), dense(plain.encode(centred), 64), atol=1e-4)
    assert torch.allclose(found.decode(code, centred + mean), plain.reconstruct(centred) + mean, atol=1e-4)


def test_a_checkpoint_says_who_trained_it_how_and_on_what() -> None:
    def of(name: str) -> Checkpoint:
        return load_checkpoint(CASES / name)

    assert of("saelens-gated-none")[5:9] == ("saelens", "gated", "blocks.3.hook_resid_post", "gpt2")
    assert of("saelens-trained-batchtopk").architecture == "jumprelu"  # as SAELens saves it
    assert of("sparsify-plain")[5:9] == ("sparsify", "topk", "layers.10", "HuggingFaceTB/SmolLM2-135M")
    soft = of("gpt2_L4_vasae_soft")
    assert soft[5:9] == ("vasae", "topk, vasae_soft", "layers.4", "gpt2")
    assert (soft.layer, soft.set_name) == (4, "vasae_soft")
    assert all(of(name).fit is None and of(name).details == {} for name in EVERY)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.7.hook_resid_post", 7),
        ("blocks.7.hook_resid_pre", 6),
        ("layers.7", 7),
        ("transformer.h.7", 7),
        ("model.layers.17", 17),
        ("gpt_neox.layers.3", 3),
        ("blocks.7.hook_out", 7),
        ("blocks.7.hook_in", 6),
        ("model.language_model.layers.9.output", 9),
    ],
)
def test_the_layer_is_the_block_after_which_the_stream_is_read(hook: str, layer: int, copy: Any) -> None:
    metadata = {"hook_name": hook, "sae_lens_version": "6.0.0"}
    found = load_checkpoint(copy("saelens-topk-none", config={"metadata": metadata}))
    assert (found.layer, found.hook) == (layer, hook)
    with pytest.raises(CheckpointError, match=f"layer {layer}, not 30"):
        _ = found._replace(chosen_layer=30).layer


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.0.hook_resid_pre",
        "blocks.3.hook_mlp_out",
        "blocks.3.hook_resid_mid",
        "layers.3.mlp",
        "blocks.3.attn.hook_z",
        "embed_tokens",
    ],
)
def test_any_other_hook_point_is_refused_in_words(hook: str, copy: Any) -> None:
    found = load_checkpoint(copy("saelens-topk-none", config={"metadata": {"hook_name": hook}}))
    with pytest.raises(CheckpointError, match="only the residual stream after a block"):
        _ = found._replace(chosen_layer=3).layer


RES_2B, SCOPE_2 = "gemmascope-res-16k-l0-9", "gemmascope-2-width_16k_l0_small"
LLAMA = "meta-llama/Llama-3.1-8B"
RECORDED = {
    "gemma_scope": ("gemma-scope", "blocks.3.hook_resid_post", 3, "google/gemma-2-2b", RES_2B),
    "gemma_scope-2": ("gemma-scope", "model.layers.5.output", 5, "google/gemma-3-270m-pt", SCOPE_2),
    "llamascopium-1": ("llamascopium", "blocks.15.hook_resid_post", 15, LLAMA, "llamascoper-8x"),
    "qwen_scope": (
        "qwen-scope",
        "blocks.7.hook_resid_post",
        7,
        "Qwen/Qwen3-1.7B-Base",
        "qwenscope-res-32k-l0-6",
    ),
    "linear_layers": (
        "linear-layers",
        "blocks.19.hook_resid_post",
        19,
        f"{LLAMA}-Instruct",
        "llama-3.1-8b-instruct-sae-l19",
    ),
    "dictionary_learning-BatchTopKSAE": (
        "dictionary_learning",
        "blocks.8.hook_resid_post",
        8,
        "EleutherAI/pythia-160m-deduped",
        "batchtopksae-trainer_0",
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_published_collections_are_known_by_their_folders_and_files(name: str) -> None:
    found = load_checkpoint(CASES / name)
    assert (found.origin, found.hook, found.layer, found.model, found.set_name) == RECORDED[name]


@pytest.mark.parametrize("name", EVERY)
def test_a_file_given_by_its_path_is_the_same_dictionary_as_its_folder(name: str) -> None:
    whole = load_checkpoint(CASES / name)
    place = whole.path
    files = [place] if place.is_file() else [f for f in place.glob("*.safetensors") if "sae" in f.name]
    found = load_checkpoint(files[0])
    assert found.path == place and torch.equal(found.dictionary.W_dec, whole.dictionary.W_dec)
    assert (found.hook, found.model, found.set_name) == (whole.hook, whole.model, whole.set_name)


@pytest.mark.parametrize("metadata", [[], "none", {"lexiscope": None}], ids=["list", "text", "null"])
def test_settings_without_metadata_record_no_layer(metadata: Any, copy: Any) -> None:
    found = load_checkpoint(copy("saelens-topk-none", config={"metadata": metadata}))
    assert (found.hook, found.model, found.details) == ("", "", {}) and found.origin == "saelens"
    with pytest.raises(CheckpointError, match="--layer"):
        _ = found.layer


@pytest.mark.parametrize(
    "name", ["saelens-topk-rescaled-none", "dictionary_learning-AutoEncoder", "llamascopium-1"]
)
def test_a_row_of_zeros_divides_nothing(name: str, tmp_path: Path) -> None:
    """A feature that was pruned writes nothing; the others are as they were."""
    folder = tmp_path / name
    shutil.copytree(CASES / name, folder)
    for settings in folder.rglob("hyperparams.json"):
        by_norm = {"act_fn": "topk", "top_k": 4, "sparsity_include_decoder_norm": True}
        settings.write_text(json.dumps(json.loads(settings.read_text()) | by_norm))
    before = load_checkpoint(folder).dictionary
    (file,) = [path for path in folder.rglob("*") if path.name in WEIGHTS]
    state = torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file)
    if "decoder.weight" in state:
        state["decoder.weight"][:, 0] = 0
    else:
        state["W_dec"][0] = 0
    torch.save(state, file) if file.suffix == ".pt" else save_file(state, file)
    found = load_checkpoint(folder).dictionary
    assert not found.W_dec[0].any() and torch.isfinite(found.reconstruct(torch.randn(9, found.d_in))).all()
    assert torch.equal(found.W_dec[1:], before.W_dec[1:])


def test_the_conversion_in_the_documentation_gives_the_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "name-any-sae.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    state = {"encoder.weight": torch.randn(64, 16), "decoder.weight": torch.randn(16, 64)}
    state |= {"pre_bias": torch.randn(16), "latent_bias": torch.randn(64)}
    monkeypatch.chdir(tmp_path)
    torch.save(state, "5.pt")
    exec(code, {})
    found = load_checkpoint(tmp_path / "openai-5")
    assert (found.model, found.layer) == ("gpt2", 5)
    x = torch.randn(9, 16)
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    normed = (x - mean) / (deviation + 1e-5)
    z = (normed - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"]
    values, indices = z.topk(32)
    z = torch.zeros_like(z).scatter(1, indices, values.relu())
    expected = (z @ state["decoder.weight"].T + state["pre_bias"]) * deviation + mean
    assert torch.allclose(found.dictionary.reconstruct(x), expected, atol=1e-4)


def test_a_file_or_folder_that_exists_is_never_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "weights.pt").write_bytes(b"x")
    weights = next((CASES / "llamascopium-r1").rglob("sae_weights.safetensors"))
    shutil.copy(weights, tmp_path / "final.safetensors")
    for name, words in (
        ("folder", "holds no dictionary that can be read here. It is empty"),
        ("notes.txt", "is no dictionary that can be read here, but another file"),
        ("weights.pt", "a pickle of another kind, which is never executed"),
        ("final.safetensors", "hyperparams.json .*is missing"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"There is no file or folder at .*none.$"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="hf download jbloom/GPT2-Small-SAEs"):
        load_checkpoint(Path("jbloom/GPT2-Small-SAEs"))


def test_a_folder_of_several_dictionaries_lists_them_and_each_can_be_read(tmp_path: Path) -> None:
    for name in ("blocks.2.hook_resid_post", "blocks.3.hook_resid_post"):
        shutil.copytree(CASES / "saelens-topk-none", tmp_path / "run" / name)
    with pytest.raises(CheckpointError, match=r"2 dictionaries \(blocks\.2\..*, blocks\.3.*--all"):
        load_checkpoint(tmp_path / "run")
    places = formats.paths_of(tmp_path / "run")
    assert [load_checkpoint(place).set_name for place in places] == ["run", "run"]


SIX = {"sae_lens_version": "6.0.0", "model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post"}


@pytest.mark.parametrize(
    ("said", "centred"),
    [
        ({"hook_layer": 3, "sae_lens_training_version": "3.18.2"}, True),
        ({"hook_layer": 3, "sae_lens_training_version": "3.19.2"}, False),
        ({"hook_layer": 3}, True),
        ({"hook_layer": 3, "model_from_pretrained_kwargs": {}}, False),
        ({"hook_layer": 3, "model_name": "gemma-2b", "sae_lens_training_version": "3.1.0"}, False),
        ({"metadata": SIX}, False),
    ],
)
def test_centred_streams_are_recognised_by_the_librarys_version_and_keys_and_said(
    said: dict[str, Any], centred: bool, copy: Any
) -> None:
    removed = {"hook_point_layer": None, "model_name": "gpt2-small"}
    found = load_checkpoint(copy("saelens-before-6-first", config=removed | said))
    assert (found.dictionary.dense_in is not None) == centred
    assert any("mean over the width" in note for note in found.notes) == centred


DAMAGED = [
    ("dictionary_learning-BatchTopKSAE", {"trainer": {"dict_class": "CrossCoder"}}, "CrossCoder"),
    ("dictionary_learning-BatchTopKSAE", {"trainer": {"dict_class": "AutoEncoder"}}, "bias is missing"),
    ("dictionary_learning-BatchTopKSAE", {"trainer": {}}, "AutoEncoderTopK or BatchTopKSAE"),
    (
        "dictionary_learning-BatchTopKSAE",
        {"trainer": {"dict_class": "BatchTopKSAE", "dict_size": 63}},
        "d_sae 63",
    ),
    ("llamascopium-1", {"dataset_average_activation_norm": None}, "mean norm .* is not recorded"),
    ("llamascopium-1", {"use_glu_encoder": True}, "gated linear unit"),
    ("llamascopium-1", {"act_fn": "batchtopk"}, "batchtopk"),
    ("llamascopium-1", {"norm_activation": "batch-wise"}, "batch-wise"),
    ("gemma_scope-2", {"architecture": "of-tomorrow"}, "of-tomorrow"),
]


@pytest.mark.parametrize(("name", "changed", "words"), DAMAGED)
def test_settings_of_other_layouts_that_would_be_read_wrongly_are_refused(
    name: str, changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    shutil.copytree(CASES / name, tmp_path / "case")
    file = next(path for path in (tmp_path / "case").rglob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "case")


def test_a_qwen_scope_file_outside_its_folder_does_not_tell_its_k(tmp_path: Path) -> None:
    shutil.copy(next((CASES / "qwen_scope").rglob("*.pt")), tmp_path)
    with pytest.raises(CheckpointError, match="how many features are active"):
        load_checkpoint(tmp_path / "layer7.sae.pt")


def test_a_gemma_scope_of_another_hook_point_is_refused_in_words(tmp_path: Path) -> None:
    inside = next((CASES / "gemma_scope").rglob("params.npz")).relative_to(CASES / "gemma_scope").parent
    for kind, words in (("mlp", "hook_mlp_out"), ("att", "hook_z"), ("transcoders", "transcoder")):
        folder = tmp_path / str(inside).replace("-res", f"-{kind}")
        shutil.copytree(CASES / "gemma_scope" / inside, folder)
        with pytest.raises(CheckpointError, match=words):
            _ = load_checkpoint(folder).layer


def test_a_gemma_scope_skip_connection_is_added_untransposed(tmp_path: Path) -> None:
    inside = next((CASES / "gemma_scope-2").rglob("params.safetensors"))
    shutil.copytree(inside.parent, tmp_path / "with")
    file = tmp_path / "with" / "params.safetensors"
    tensors = load_file(file)
    width = tensors["w_dec"].shape[1]
    skip = torch.arange(width * width, dtype=torch.float32).view(width, width) / width**2
    save_file(tensors | {"affine_skip_connection": skip}, file)
    x = torch.linspace(-1, 1, 3 * width).view(3, width)
    plain, found = (formats.gemma_scope.read(each).dictionary for each in (inside, file))
    assert torch.allclose(found.reconstruct(x), plain.reconstruct(x) + x @ skip, atol=1e-4)


def test_one_head_of_attention_is_no_residual_stream(copy: Any) -> None:
    metadata = {"hook_name": "blocks.3.hook_resid_post", "hook_head_index": 2}
    with pytest.raises(CheckpointError, match="head 2"):
        _ = load_checkpoint(copy("saelens-topk-none", config={"metadata": metadata})).layer
    with pytest.raises(CheckpointError, match="attention heads"):
        load_checkpoint(copy("saelens-topk-none", config={"reshape_activations": "hook_z"}))


def test_where_no_layer_is_recorded_a_person_gives_it(copy: Any) -> None:
    found = load_checkpoint(copy("saelens-topk-none", config={"metadata": {}}))
    with pytest.raises(CheckpointError, match="--layer"):
        _ = found.layer
    assert found._replace(chosen_layer=2).layer == 2


def test_the_set_is_named_as_asked_as_neuronpedia_has_it_or_after_its_folder(
    tmp_path: Path, copy: Any
) -> None:
    found = load_checkpoint(
        copy("saelens-topk-none", config={"metadata": {"neuronpedia_id": "gpt2-small/9-res-jb"}})
    )
    assert found.set_name == "res-jb"
    assert found._replace(chosen_set="My Set").set_name == "my-set"
    for folder, name in (
        ("GPT2-Small-SAEs/blocks.8.hook_resid_pre", "gpt2-small-saes"),
        ("runs/10-plain", "plain"),
        ("run/layers.10/seed1", "run"),
    ):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(CASES / "saelens-topk-none", tmp_path / folder)
        assert load_checkpoint(tmp_path / folder).set_name == name


def test_a_sparsify_run_stands_for_its_only_hook_point(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(CASES / "sparsify-plain", run)
    assert (load_checkpoint(run).layer, load_checkpoint(run / "layers.10").layer) == (10, 10)
    (run / "layers.10").rename(run / "h.4")
    assert load_checkpoint(run).layer == 4
    shutil.copytree(run / "h.4", run / "h.6" / "seed2")
    assert load_checkpoint(run / "h.6" / "seed2").hook == "h.6"
    with pytest.raises(CheckpointError, match=r"h\.4, h\.6/seed2"):
        load_checkpoint(run)


@pytest.mark.parametrize(
    ("case", "config", "words"),
    [
        ("sparsify-plain", {"transcode": True}, "transcoder"),
        ("sparsify-plain", {"activation": "groupmax"}, "groupmax"),
        ("sparsify-plain", {"signed": True}, "signed"),
        ("sparsify-plain", {"k": 65}, "k is 65"),
        ("sparsify-plain", {"d_in": 17}, "d_in 17"),
        ("saelens-topk-none", {"architecture": "temporal"}, "tokens before"),
        ("saelens-topk-none", {"architecture": "of-tomorrow"}, "of-tomorrow"),
        ("saelens-topk-none", {"architecture": "gated"}, "b_gate, b_mag, r_mag is missing"),
        ("saelens-jumprelu-none", {"architecture": "topk", "k": 6}, "also holds threshold"),
        ("saelens-topk-none", {"k": 3.5}, "k is 3.5"),
        ("saelens-topk-none", {"k": None}, "k is None"),
        ("saelens-topk-none", {"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ("saelens-before-6-topk", {"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ("saelens-standard-none", {"d_sae": 65}, "d_sae 65"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(
    case: str, config: dict[str, Any], words: str, copy: Any
) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(copy(case, config=config))


@pytest.mark.parametrize(
    ("case", "tensors", "words"),
    [
        ("saelens-topk-none", {"W_dec": None}, "W_dec is missing"),
        ("saelens-topk-none", {"b_enc": torch.full((64,), float("nan"))}, "NaN"),
        ("saelens-jumprelu-none", {"threshold": torch.full((64,), float("inf"))}, "Inf"),
        ("saelens-topk-none", {"scaling_factor": torch.full((64,), 2.0)}, "scaling_factor"),
        ("saelens-topk-none", {"b_dec": torch.zeros(15)}, "b_dec has shape"),
        ("saelens-jumprelu-none", {"threshold": torch.zeros(63)}, "threshold has shape"),
        ("sparsify-plain", {"b_dec": torch.zeros(15)}, "do not fit"),
        ("sparsify-plain", {"W_skip": torch.zeros(16, 16)}, "also holds W_skip"),
        ("sparsify-plain", {"encoder.bias": None}, "encoder.bias is missing"),
    ],
)
def test_damaged_weights_are_refused_by_name(
    case: str, tensors: dict[str, Tensor | None], words: str, copy: Any
) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(copy(case, tensors=tensors))


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/lexiscope-foreign-pickle-was-executed"),))


def test_the_authors_checkpoint_is_read_as_tensors_and_plain_values_only(tmp_path: Path) -> None:
    folder = tmp_path / "gpt2_L4_vasae_soft"
    shutil.copytree(CASES / folder.name, folder)
    file = folder / "checkpoint.pt"
    assert load_checkpoint(file).layer == 4
    held = torch.load(file, weights_only=True)

    def refused(words: str) -> None:
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(folder)

    torch.save(held | {"sae_config": held["sae_config"] | {"use_abs_topk": True}}, file)
    refused("negative")
    torch.save(held | {"sae_config": {"dim_input": 16}}, file)
    refused("k is None")
    torch.save({"weights": held}, file)
    refused("sae_config")
    state = dict(held["model_state_dict"])
    torch.save(held | {"model_state_dict": state | {"decoder_lowrank.0.weight": torch.zeros(2)}}, file)
    refused("decoder_lowrank")
    torch.save(held | {"metrics": Bomb()}, file)
    refused("never is")
    file.write_bytes(pickle.dumps(Bomb()))
    refused("never is|damaged")
    assert not Path("/tmp/lexiscope-foreign-pickle-was-executed").exists()
    whole = (CASES / folder.name / "checkpoint.pt").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused("damaged")


def test_a_truncated_or_empty_folder_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(CASES / "sparsify-plain", run)
    weights = run / "layers.10" / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(run)
    (run / "layers.10" / "cfg.json").unlink()
    with pytest.raises(CheckpointError, match=r"cfg\.json"):
        load_checkpoint(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"sae\.safetensors"):
        load_checkpoint(tmp_path / "empty")
    (run / "layers.10" / "cfg.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="list"):
        load_checkpoint(run)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of nested settings stand."""
    for key in value if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


ABSENT = object()
FIRST = [
    next(name for name in EVERY if name.startswith(kind)) for kind in sorted({e.split("-")[0] for e in EVERY})
]


@pytest.mark.parametrize("name", FIRST)
def test_settings_of_another_type_are_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(CASES / name, folder)
    for file in folder.rglob("*.json"):
        text = file.read_text()
        for place in places(json.loads(text)):
            for odd in (ABSENT, float("nan"), -1, "x", [1], {}):
                settings = inside = json.loads(text)
                for key in place[:-1]:
                    inside = inside[key]
                inside[place[-1]] = odd
                if odd is ABSENT:
                    del inside[place[-1]]
                file.write_text(json.dumps(settings))
                try:
                    load_checkpoint(folder, anchors=False)
                except CheckpointError as error:
                    assert "\n" not in str(error)
        file.write_text(text)
