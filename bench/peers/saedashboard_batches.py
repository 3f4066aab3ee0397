"""SAEDashboard's NeuronpediaRunner, unchanged, on a local model, dictionary and tokens.

Its own code does everything that is timed: forward passes (cached on disk after the first batch of features),
encoding, statistics, sequences, `batch-N.json`. Two of its steps reach for a hub and are replaced: the model
and its tokenizer are read from a folder, unprocessed (as the dictionary was trained), and no text is
streamed, because its tokens file is laid where it looks for one. Runs in SAEDashboard's environment; prints
one line of JSON: the folder written, the seconds of each batch, CPU seconds of all, tokens given, package
versions.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import torch
from sae_dashboard.neuronpedia.neuronpedia_runner import NeuronpediaRunner
from sae_dashboard.neuronpedia.neuronpedia_runner_config import NeuronpediaRunnerConfig
from sae_lens import HookedSAETransformer
from transformer_lens.loading_from_pretrained import get_pretrained_model_config, get_pretrained_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGES = ("sae-dashboard", "sae-lens", "transformer-lens", "transformers", "torch")


def as_transformers_4_wrote_it(folder: Path, copy: Path) -> Path:
    """A folder of links to the model's files, with the names that its configurations had before transformers
    5.
    """
    copy.mkdir()
    for file in folder.resolve().iterdir():
        (copy / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    if "n_positions" in config:
        config.setdefault("n_ctx", config["n_positions"])
    if "rope_parameters" in config:
        config.setdefault("rope_theta", config["rope_parameters"]["rope_theta"])
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    if tokens.get("tokenizer_class") == "TokenizersBackend":
        tokens["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, content in (("config.json", config), ("tokenizer_config.json", tokens)):
        (copy / name).unlink()
        (copy / name).write_text(json.dumps(content))
    return copy


class LocalRunner(NeuronpediaRunner):
    """As its parent, but nothing is fetched."""

    def _load_sae_or_transcoder(self) -> None:
        """It folds decoder norms in, which SAELens refuses for TopK without rescaling by them; equal norms
        change no choice of features.
        """
        super()._load_sae_or_transcoder()
        norms = self.sae.W_dec.norm(dim=-1)
        if norms.max() > 1.001 * norms.min():
            span = f"{norms.min():.4f} to {norms.max():.4f}"
            raise SystemExit(f"{self.cfg.sae_path}: decoder norms from {span}, where equal ones are needed.")
        self.sae.cfg.rescale_acts_by_decoder_norm = True
        origin = json.loads((Path(self.cfg.sae_path) / "cfg.json").read_text())["metadata"]
        # SAELens drops these where the metadata does not say which SAELens wrote it
        for name in ("model_name", "hook_name"):
            self.sae.cfg.metadata[name] = origin[name]

    model_id: str

    def _extract_model_info(self) -> None:
        super()._extract_model_info()
        self.folder = self.model_id
        # the output folder is named by this, and a path would lead out of it
        self.model_id = self.cfg.model_id = Path(self.folder).name

    def _initialize_model(self) -> None:
        """transformer-lens 2 opens official names only; its own two steps take a folder."""
        folder = str(as_transformers_4_wrote_it(Path(self.folder), Path("model").resolve()))
        weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        config = get_pretrained_model_config(folder, device=self.cfg.model_device)
        if hasattr(weights.config, "rope_theta"):
            config.rotary_base = (
                weights.config.rope_theta
            )  # it takes 10,000 for every Llama that it does not know by name
        self.model = HookedSAETransformer(config, AutoTokenizer.from_pretrained(folder))
        self.model.load_state_dict(
            get_pretrained_state_dict(folder, config, weights, dtype=torch.float32), strict=False
        )
        self.hook_name = self.sae.cfg.metadata["hook_name"]

    def _setup_activation_store(self) -> None:
        self.activations_store = None
        self.cached_activations_dir = Path("cached_activations")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dictionary", help="folder in SAELens's layout whose metadata names the model's folder"
    )
    parser.add_argument("tokens", type=Path, help="[prompts, length] int64, saved by torch")
    parser.add_argument("out", type=Path, help="its batches and its cache of activations go here")
    parser.add_argument("--features", type=int, default=128, help="features a batch (its default is 128)")
    parser.add_argument("--batches", type=int, help="stop after so many batches of features")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tokens = torch.load(asked.tokens)
    asked.out.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.out)
    runner = LocalRunner(
        NeuronpediaRunnerConfig(
            sae_set=Path(asked.dictionary).name,
            sae_path=asked.dictionary,
            outputs_dir=".",
            from_local_sae=True,
            huggingface_dataset_path="local",
            n_prompts_total=tokens.shape[0],
            n_tokens_in_prompt=tokens.shape[1],
            n_features_at_a_time=asked.features,
            end_batch=None if asked.batches is None else asked.batches - 1,
        )
    )
    written = Path(runner.cfg.outputs_dir)
    torch.save(tokens, written / f"tokens_{tokens.shape[0]}.pt")
    began, began_cpu = time.time(), time.process_time()
    runner.run()
    cpu = time.process_time() - began_cpu
    ends = sorted(path.stat().st_mtime for path in written.glob("batch-*.json"))
    seconds = [end - start for start, end in zip([began, *ends], ends, strict=False)]
    versions = {name: version(name) for name in PACKAGES}
    print(
        json.dumps(
            {
                "folder": str(written.resolve()),
                "seconds": seconds,
                "cpu": cpu,
                "tokens": tokens.numel(),
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    main()
