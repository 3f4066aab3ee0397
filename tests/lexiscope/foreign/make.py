"""Write the fixtures of test_foreign.py: small dictionaries with random weights, and what their own libraries
make of some inputs.

    python tests/lexiscope/foreign/make.py KIND OUT

    saelens    in an environment with sae-lens (committed: 6.54.12, torch 2.13.0)
    sparsify   in an environment with eai-sparsify (committed: 1.3.3, torch 2.13.0)
    vasae      anywhere with torch
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


if __name__ == "__main__":
    {"saelens": saelens, "sparsify": sparsify, "vasae": vasae, "exported": exported}[sys.argv[1]](
        Path(sys.argv[2])
    )
