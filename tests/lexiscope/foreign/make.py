"""Write the fixtures of test_foreign.py: small dictionaries with random weights, and what their own libraries
make of some inputs.

    python tests/lexiscope/foreign/make.py KIND OUT

    saelens    in an environment with sae-lens (committed: 6.54.12, torch 2.13.0)
    sparsify   in an environment with eai-sparsify (committed: 1.3.3, torch 2.13.0)
    vasae      anywhere with torch
    layouts    with sae-lens: Gemma Scope, Llama Scope, Qwen Scope and Goodfire, as its own loaders read them
    dictionary_learning   with dictionary-learning (committed: 0.1.0)
    exported   with sae-lens: reads back what lexiscope exported

`make check-foreign` makes the environments, writes everything afresh and reads it back. A case is one folder,
saved by its library's own code: weights and settings, and beside them `expected.safetensors` with x [n,
d_in], codes [n, d_sae] (dense) and reconstructions [n, d_in].
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D_IN, D_SAE, K, N = 16, 64, 6, 24


def inputs(seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(N, D_IN, generator=draw) * 2 + torch.randn(D_IN, generator=draw)


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Every parameter random, so that one left out would show."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            scale = {"threshold": 0.5, "r_mag": 0.3}.get(
                name.split(".")[-1], 0.4 if parameter.ndim > 1 else 0.3
            )
            values = torch.randn(parameter.shape, generator=draw) * scale
            parameter.copy_(values.abs() if "threshold" in name else values)


def expect(folder: Path, x: Tensor, codes: Tensor, rebuilt: Tensor) -> None:
    tensors = {"x": x, "codes": codes, "rebuilt": rebuilt}
    save_file(
        {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()},
        folder / "expected.safetensors",
    )


def saelens(out: Path) -> None:
    import sae_lens
    from sae_lens import SAE, TrainingSAE

    print("sae-lens", sae_lens.__version__, "torch", torch.__version__)
    x = inputs()
    metadata = {
        "model_name": "gpt2",
        "hook_name": "blocks.3.hook_resid_post",
        "neuronpedia_id": None,
        "context_size": 64,
    }

    def ask(folder: Path) -> None:
        sae = SAE.load_from_disk(folder)
        with torch.no_grad():
            codes = sae.encode(x)
            expect(folder, x, codes, sae.decode(codes))  # decode undoes the normalisation of the last encode

    base = {"d_in": D_IN, "d_sae": D_SAE, "metadata": metadata, "device": "cpu", "dtype": "float32"}
    architectures: dict[str, list[dict[str, Any]]] = {
        "standard": [{}],
        "topk": [{"k": K, "rescale_acts_by_decoder_norm": rescale} for rescale in (False, True)],
        "jumprelu": [{}],
        "gated": [{}],
    }
    for seed, (architecture, options) in enumerate(
        (name, given) for name, every in architectures.items() for given in every
    ):
        for subtracted, normalise in itertools.product(
            (False, True), ("none", "constant_norm_rescale", "layer_norm")
        ):
            settings = (
                base
                | options
                | {
                    "architecture": architecture,
                    "apply_b_dec_to_input": subtracted,
                    "normalize_activations": normalise,
                }
            )
            rescaled = "-rescaled" if options.get("rescale_acts_by_decoder_norm") else ""
            folder = out / f"saelens-{architecture}{rescaled}{'-b_dec' if subtracted else ''}-{normalise}"
            config_class = SAE.get_sae_config_class_for_architecture(architecture)
            sae = SAE.get_sae_class_for_architecture(architecture)(config_class.from_dict(settings))
            randomise(sae, seed)
            sae.save_model(folder)
            ask(folder)

    for architecture in (
        "batchtopk",
        "matryoshka_batchtopk",
        "topk",
        "jumprelu",
        "standard",
        "gated",
    ):  # as a finished training saves them
        config_class = TrainingSAE.get_sae_config_class_for_architecture(architecture)
        given = {"k": K} if "topk" in architecture else {}
        given |= {"matryoshka_widths": [16, D_SAE]} if architecture.startswith("matryoshka") else {}
        settings = (
            base | given | {"architecture": architecture, "normalize_activations": "expected_average_only_in"}
        )
        sae = TrainingSAE.get_sae_class_for_architecture(architecture)(config_class.from_dict(settings))
        randomise(sae, 11)
        if "batchtopk" in architecture:
            sae.topk_threshold.fill_(0.8)
        sae.fold_activation_norm_scaling_factor(0.37)
        folder = out / f"saelens-trained-{architecture}"
        sae.save_inference_model(folder)
        ask(folder)

    before_six(out, ask)


def before_six(out: Path, ask: Any) -> None:
    """Folders as SAELens wrote them before version 6, by hand: `hook_point` (version 1 and 2), then
    `hook_name` beside the rest.
    """
    draw = torch.Generator().manual_seed(5)
    weights = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=draw) * 0.4,
        "b_enc": torch.randn(D_SAE, generator=draw) * 0.3,
        "W_dec": torch.randn(D_SAE, D_IN, generator=draw) * 0.4,
        "b_dec": torch.randn(D_IN, generator=draw) * 0.3,
    }
    # the spelling of jbloom/GPT2-Small-SAEs-Reformatted; the model is one without LayerNorm, see
    # test_saelens_centred_streams
    oldest = {
        "model_name": "gemma-2b",
        "hook_point": "blocks.6.hook_resid_pre",
        "hook_point_layer": 6,
        "hook_point_head_index": None,
    }
    common = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
    later = {
        "model_name": "mistral-7b",
        "hook_name": "blocks.8.hook_resid_pre",
        "hook_layer": 8,
        "hook_head_index": None,
    }
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "architecture": "standard"}
    for name, config, extra in (
        ("first", oldest | common, {"scaling_factor": torch.ones(D_SAE)}),
        (
            "hook_name",
            later
            | common
            | {"activation_fn_str": "relu", "apply_b_dec_to_input": False, "normalize_activations": False},
            {},
        ),
        ("topk", later | common | topk | {"sae_lens_version": "5.3.0"}, {}),
    ):
        folder = out / f"saelens-before-6-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights | extra, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps(config))
        ask(folder)


def sparsify(out: Path) -> None:
    from importlib.metadata import version

    from sparsify import SparseCoder, SparseCoderConfig

    print("eai-sparsify", version("eai-sparsify"), "torch", torch.__version__)
    x = inputs(2)
    for name, options in (
        ("plain", {}),
        ("skip", {"skip_connection": True}),
        ("expansion", {"num_latents": 0, "expansion_factor": 4}),
    ):
        run = out / f"sparsify-{name}"
        coder = SparseCoder(
            D_IN, SparseCoderConfig(**({"num_latents": D_SAE, "k": K, "normalize_decoder": False} | options))
        )
        randomise(coder, 3)
        coder.save_to_disk(run / "layers.10")
        (run / "config.json").write_text(
            json.dumps({"model": "HuggingFaceTB/SmolLM2-135M", "hookpoints": ["layers.10"]})
        )
        coder = SparseCoder.load_from_disk(run / "layers.10")
        with torch.no_grad():
            found = coder.encode(x)
            codes = torch.zeros(N, D_SAE).scatter_(1, found.top_indices, found.top_acts)
            expect(run / "layers.10", x, codes, coder(x).sae_out)


class VocabularyAligned(torch.nn.Module):
    """The authors' SAEModel as far as its arithmetic goes: linear encoder, ReLU, TopK, linear decoder, under
    their names of parameters.
    """

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.encoder = torch.nn.ModuleDict({"fc": torch.nn.Linear(D_IN, D_SAE)})
        self.decoder = torch.nn.Linear(D_SAE, D_IN, bias=bias)

    def codes(self, x: Tensor) -> Tensor:
        positive = self.encoder["fc"](x).relu()
        kept = positive.topk(K, dim=-1)
        return torch.zeros_like(positive).scatter_(1, kept.indices, kept.values)


def vasae(out: Path) -> None:
    x = inputs(4)
    for method, bias in (("vasae_soft", True), ("hard_tied_baseline", False)):
        model = VocabularyAligned(bias=bias)
        randomise(model, 7)
        folder = out / f"gpt2_L4_{method}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "dim_input": D_IN,
            "dim_sparse": D_SAE,
            "k": K,
            "nonneg_latents": True,
            "use_abs_topk": False,
            "decoder_mode": "learnable",
        }
        state = {
            "model_state_dict": model.state_dict(),
            "sae_config": settings,
            "method": method,
            "epoch": 3,
            "metrics": {"loss": 0.5},
        }
        torch.save(state, folder / "checkpoint.pt")
        with torch.no_grad():
            codes = model.codes(x)
            expect(folder, x, codes, model.decoder(codes))


def layouts(out: Path) -> None:
    """The published collections that SAELens converts at loading, in the folders of their repositories."""
    import numpy as np
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def weights(seed: int) -> dict[str, Tensor]:
        shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
        draw = torch.Generator().manual_seed(seed)
        found = {
            name: torch.randn(*shape, generator=draw) * (0.4 if len(shape) > 1 else 0.3)
            for name, shape in shapes.items()
        }
        return found | {"threshold": torch.rand(D_SAE, generator=draw) * 0.8}

    def keep(name: str, folder: Path, loader: Any, repository: str, inside: str, scale: float = 1.0) -> None:
        """What SAELens makes of the files in `folder`, which it takes for those of the hub's `repository`."""

        def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
            assert repo_id == repository
            return str(out / name / repository / subfolder / filename)

        def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
            return {key: list(t.shape) for key, t in load_file(local(repo_id, filename)).items()}

        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
        config, state, _ = loader(
            repository, inside, "cpu", False, {"dtype": "float32", "d_in": D_IN, "d_sae": D_SAE}
        )
        sae = SAE.from_dict(loaders.handle_config_defaulting(config))
        sae.process_state_dict_for_loading(state)
        sae.load_state_dict(state)
        if sae.cfg.normalize_activations == "expected_average_only_in":
            sae.fold_activation_norm_scaling_factor(scale)
        x = inputs(5)
        with torch.no_grad():
            codes = sae.encode(x)
            expect(folder, x, codes, sae.decode(codes))

    w = weights(1)
    root, inside = "gemma_scope/google/gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_9"
    folder = out / root / inside
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in w.items()})
    keep(
        "gemma_scope", folder, loaders.gemma_2_sae_huggingface_loader, "google/gemma-scope-2b-pt-res", inside
    )

    w = weights(2)
    repository, inside = "google/gemma-scope-2-270m-pt", "resid_post/layer_5_width_16k_l0_small"
    folder = out / "gemma_scope-2" / repository / inside
    folder.mkdir(parents=True)
    save_file({name.lower(): tensor for name, tensor in w.items()}, folder / "params.safetensors")
    settings = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-270m-pt",
        "hf_hook_point_in": "model.layers.5.output",
    }
    (folder / "config.json").write_text(json.dumps(settings))
    keep("gemma_scope-2", folder, loaders.gemma_3_sae_huggingface_loader, repository, inside)

    w = weights(3)
    linear = {
        "encoder.weight": w["W_enc"].T,
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T,
        "decoder.bias": w["b_dec"],
    }
    linear = {name: tensor.contiguous() for name, tensor in linear.items()}
    hook = "blocks.15.hook_resid_post"
    scope = {
        "d_model": D_IN,
        "d_sae": D_SAE,
        "hook_point_in": hook,
        "hook_point_out": hook,
        "act_fn": "jumprelu",
    }
    repository, inside = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x"
    folder = out / "llamascopium-1" / repository / inside
    (folder / "checkpoints").mkdir(parents=True)
    save_file(linear, folder / "checkpoints" / "final.safetensors")
    norm = {"jump_relu_threshold": 0.4, "dataset_average_activation_norm": {"in": 9.0, "out": 9.0}}
    (folder / "hyperparams.json").write_text(json.dumps(scope | norm | {"norm_activation": "dataset-wise"}))
    loader = loaders.llama_scope_sae_huggingface_loader
    keep("llamascopium-1", folder, loader, repository, inside, D_IN**0.5 / 9.0)

    repository, inside = "fnlp/Llama-Scope-R1-Distill", "800M-Slimpajama-0-OpenR1-Math-220k/L15R"
    folder = out / "llamascopium-r1" / repository / inside
    folder.mkdir(parents=True)
    save_file(linear | {"log_jumprelu_threshold": w["threshold"].log()}, folder / "sae_weights.safetensors")
    settings = scope | {"expansion_factor": D_SAE // D_IN, "dataset_average_activation_norm": {"in": 9.0}}
    (folder / "config.json").write_text(json.dumps(settings))
    loader = loaders.llama_scope_r1_distill_sae_huggingface_loader
    keep("llamascopium-r1", folder, loader, repository, inside, D_IN**0.5 / 9.0)

    w = weights(4)
    repository = f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    folder = out / "qwen_scope" / repository
    folder.mkdir(parents=True)
    state = {"W_enc": w["W_enc"].T, "b_enc": w["b_enc"], "W_dec": w["W_dec"].T, "b_dec": w["b_dec"]}
    torch.save({name: tensor.contiguous() for name, tensor in state.items()}, folder / "layer7.sae.pt")
    keep("qwen_scope", folder, loaders.qwen_scope_sae_huggingface_loader, repository, "layer7.sae.pt")

    repository, file = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"
    folder = out / "linear_layers" / repository
    folder.mkdir(parents=True)
    torch.save({name.replace(".", "_linear."): tensor for name, tensor in linear.items()}, folder / file)
    keep("linear_layers", folder, loaders.get_goodfire_huggingface_loader, repository, file)


def dictionary_learning(out: Path) -> None:
    from dictionary_learning.dictionary import (
        AutoEncoder,
        AutoEncoderNew,
        GatedAutoEncoder,
        JumpReluAutoEncoder,
    )
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    x = inputs(6)
    made = [
        AutoEncoder(D_IN, D_SAE),
        AutoEncoderNew(D_IN, D_SAE),
        GatedAutoEncoder(D_IN, D_SAE),
        JumpReluAutoEncoder(D_IN, D_SAE),
        AutoEncoderTopK(D_IN, D_SAE, K),
        BatchTopKSAE(D_IN, D_SAE, K),
        MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [24, D_SAE - 24]),
    ]
    for seed, module in enumerate(made):
        kind = type(module).__name__
        randomise(module, seed)
        if "BatchTopK" in kind:
            module.threshold.fill_(0.7)
        folder = out / f"dictionary_learning-{kind}" / "trainer_0"
        folder.mkdir(parents=True)
        torch.save(module.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": kind,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "k": K,
            "layer": 8,
            "lm_name": "EleutherAI/pythia-160m-deduped",
            "submodule_name": "resid_post_layer_8",
        }
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        loaded = type(module).from_pretrained(folder / "ae.pt")
        with torch.no_grad():
            codes = loaded.encode(x)
            expect(folder, x, codes, loaded.decode(codes))


def exported(out: Path) -> None:
    """Does SAELens find in each folder, which lexiscope exported, the codes and reconstructions that are
    expected of it?
    """
    from sae_lens import SAE

    for folder in sorted(out.iterdir()):
        wanted, sae = load_file(folder / "expected.safetensors"), SAE.load_from_disk(folder)
        with torch.no_grad():
            codes = sae.encode(wanted["x"])
            rebuilt = sae.decode(codes)
        apart = max(
            (codes - wanted["codes"]).abs().max().item(), (rebuilt - wanted["rebuilt"]).abs().max().item()
        )
        print(f"{folder.name}: {sae.cfg.architecture()}, within {apart:.1e}")
        if apart > 1e-5 * max(1, wanted["rebuilt"].abs().max().item()):
            raise SystemExit(f"{folder}: SAELens encodes it otherwise.")


KINDS = {kind.__name__: kind for kind in (saelens, sparsify, vasae, layouts, dictionary_learning, exported)}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]))
