"""Make the bundled language model, and the text sampled from it.

    python data/demo/make_model.py train --text books-train.txt.xz --heldout books-heldout.txt.xz --minutes 60
    python data/demo/make_model.py sample

`train` takes any text file (.txt, .txt.xz, .txt.gz; a line `<|endoftext|>` separates documents), trains a
byte-level BPE tokenizer on it, then a small GPT-2, and writes a Hugging Face folder (fp16) with a model card.
The schedule runs on the clock, so that `--minutes` is the whole cost whatever the machine; `--resume` starts
from the weights in `--out`. With `--checkpoints N --keep DIR` it also writes N models along the way, each
with its held-out figures. `sample` writes text drawn from that model: what the demo's dictionaries
are trained and indexed on.
"""

import argparse
import gzip
import json
import lzma
import math
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
END = "<|endoftext|>"


def read_text(path: Path) -> str:
    openers: dict[str, Callable[..., TextIO]] = {".xz": lzma.open, ".gz": gzip.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        return file.read()


def pieces(text: str, size: int = 20_000) -> Iterator[str]:
    """Cut text into pieces of about `size` characters at white space, so that BPE runs in parallel and in
    little memory.
    """
    at = 0
    while at < len(text):
        end = text.find(" ", at + size)
        end = len(text) if end < 0 else end
        yield text[at:end]
        at = end


def make_tokenizer(text: str, vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(pieces(text), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=256
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    """Token ids [n] of a whole text, as uint16."""
    backend, ids = tokenizer.backend_tokenizer, []
    batch: list[str] = []
    for piece in [*pieces(text), None]:
        if piece is not None:
            batch.append(piece)
        if piece is None or len(batch) == 256:
            ids += [np.array(e.ids, dtype=np.uint16) for e in backend.encode_batch(batch)]
            batch = []
    return np.concatenate(ids)


def sentence_starts(ids: np.ndarray, tokenizer: PreTrainedTokenizerFast, window: int) -> np.ndarray:
    """Positions right after a token that ends a sentence: where a document may begin."""
    ends = [
        token.endswith((".", "!", "?", "Ċ", '."', '!"', '?"'))
        for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ]
    starts = np.flatnonzero(np.array(ends)[ids]) + 1
    return starts[starts < len(ids) - window]


def windows(ids: np.ndarray, at: np.ndarray, length: int, bos: int) -> torch.Tensor:
    """[batch, length] windows, each opened by the document token."""
    body = np.stack([ids[i : i + length - 1] for i in at]).astype(np.int64)
    return torch.from_numpy(np.concatenate([np.full((len(at), 1), bos), body], axis=1))


def loss_of(model: Callable[..., Any], batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, nats a token, of positions 1.. given those before."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), batch[:, 1:].reshape(-1))


class ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy of the tokens [n] given states [n, d] and W_U [vocab, d], in chunks whose logits
    stay in cache: the gradients are taken in the same pass.
    """

    CHUNK = 512

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, unembedding: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        dtype = torch.bfloat16 if fast_bf16(states.device) else torch.float32
        rows, total = unembedding.to(dtype), states.new_zeros((), dtype=torch.float32)
        to_states, to_rows = torch.empty_like(states), torch.zeros_like(unembedding)
        for at in range(0, len(tokens), ChunkedLoss.CHUNK):
            part, wanted = (
                states[at : at + ChunkedLoss.CHUNK].to(dtype),
                tokens[at : at + ChunkedLoss.CHUNK, None],
            )
            log_p = (part @ rows.T).float().log_softmax(-1)
            total -= log_p.gather(1, wanted).sum()
            slope = (
                log_p.exp_().scatter_add_(1, wanted, -torch.ones_like(wanted, dtype=log_p.dtype)).to(dtype)
            )
            to_states[at : at + ChunkedLoss.CHUNK] = slope @ rows
            to_rows += (slope.T @ part).float()
        ctx.save_for_backward(to_states / len(tokens), to_rows / len(tokens))
        return total / len(tokens)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        to_states, to_rows = ctx.saved_tensors
        return slopes[0] * to_states, slopes[0] * to_rows, None


@torch.no_grad()
def held_out(
    model: torch.nn.Module,
    ids: np.ndarray,
    *,
    bos: int,
    bytes_per_token: float,
    n_windows: int = 2000,
    length: int = 256,
) -> dict[str, float]:
    """Nats a token and bits a byte over about `n_windows` evenly spaced windows of the held-out token ids
    [n].
    """
    at = np.arange(0, len(ids) - length, length - 1)
    at = at[:: max(1, len(at) // n_windows)]
    total, n_tokens = 0.0, 0
    for chunk in np.array_split(at, max(1, len(at) // 16)):
        batch = windows(ids, chunk, length, bos)
        total += loss_of(model, batch).item() * batch[:, 1:].numel()
        n_tokens += batch[:, 1:].numel()
    nats = total / n_tokens
    return {"nats_per_token": round(nats, 3), "bits_per_byte": round(nats / bytes_per_token / math.log(2), 3)}


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products are faster than float32 ones: on GPUs, and on CPUs with AMX or AVX-512 BF16."""
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (Jordan et al. 2024), in the parameter's own
    precision.

    torch.optim.Muon does the same in bf16, which is seven times slower than fp32 on a CPU without bf16 units.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # closures are not supported
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                speed = state.setdefault("speed", torch.zeros_like(parameter))
                speed.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(speed, group["momentum"])
                tall = update.shape[0] > update.shape[1]
                x = update.T if tall else update
                x = x / (x.norm() + 1e-7)
                for a, b, c in [(3.4445, -4.7750, 2.0315)] * 5:
                    gram = x @ x.T
                    x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
                x = x.T if tall else x
                parameter.add_(
                    x, alpha=-group["lr"] * max(1, x.shape[1] / x.shape[0]) ** 0.5
                )  # Conv1D: [in, out]


def make_optimisers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    return [
        Muon(matrices, lr=0.02),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def fresh(text: str, vocab: int) -> tuple[PreTrainedTokenizerFast, GPT2LMHeadModel, dict[str, int]]:
    """A tokenizer trained on the text, a model with random weights, and no tokens and steps so far."""
    tokenizer = make_tokenizer(text, vocab)
    config = GPT2Config(
        vocab_size=vocab, n_positions=256, n_embd=256, n_layer=6, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return tokenizer, GPT2LMHeadModel(config), {"tokens_seen": 0, "steps": 0}


def resumed(folder: Path) -> tuple[PreTrainedTokenizerFast, GPT2LMHeadModel, dict[str, int]]:
    """The tokenizer, the model, and the tokens and steps of the runs so far."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    record = json.loads((folder / "training.json").read_text())
    return PreTrainedTokenizerFast.from_pretrained(folder), model, record


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    text = "\n\n".join(read_text(path) for path in args.text)
    tokenizer, model, before = resumed(args.out) if args.resume else fresh(text, args.vocab)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    bos = tokenizer.bos_token_id
    ids = encode(tokenizer, text)
    heldout_text = read_text(args.heldout)
    heldout_ids = encode(tokenizer, heldout_text)
    measure = partial(
        held_out, ids=heldout_ids, bos=bos, bytes_per_token=len(heldout_text.encode()) / len(heldout_ids)
    )
    starts = sentence_starts(ids, tokenizer, 256)
    print(f"{len(ids):,} tokens, {len(text.encode()) / len(ids):.2f} bytes a token", flush=True)
    del text, heldout_text

    optimisers = make_optimisers(model)
    peak = [o.param_groups[0]["lr"] for o in optimisers]
    compiled = torch.compile(model.transformer)
    begun, step, seen, losses, kept = time.monotonic(), 0, 0, [], 0
    while (spent := (time.monotonic() - begun) / (60 * args.minutes)) < 1:
        for optimiser, lr in zip(optimisers, peak, strict=True):
            optimiser.param_groups[0]["lr"] = lr * schedule(step, spent)
        batch = windows(ids, rng.choice(starts, args.batch), 256, bos).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            states = compiled(input_ids=batch[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
        loss = ChunkedLoss.apply(states, model.lm_head.weight, batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item())
        step, seen = step + 1, seen + batch.numel()
        if step % 50 == 0:
            rate = seen / (time.monotonic() - begun)
            print(f"step {step} loss {np.mean(losses[-50:]):.3f} {rate:,.0f} tok/s {spent:.0%}", flush=True)
        if step % 250 == 0:
            save(model, tokenizer, args.out)
        if args.keep and spent * args.checkpoints > kept + 1:
            kept += 1
            folder = args.keep / f"{kept}-of-{args.checkpoints}"
            save(model, tokenizer, folder)
            record = measure(reloaded(folder), n_windows=200) | progress(before, seen, step)
            write_record(folder, record)
    save(model.cpu(), tokenizer, args.out)
    record = measure(reloaded(args.out)) | progress(before, seen, step) | {"seed": args.seed}
    write_record(args.out, record)
    (args.out / "README.md").write_text(model_card(record, args))


def schedule(step: int, spent: float) -> float:
    """Share of the peak learning rate: warm-up over 100 steps, a plateau, linear decay over the second half
    of the time.
    """
    return min(1.0, (step + 1) / 100, (1 - spent) / 0.5)


def reloaded(folder: Path) -> GPT2LMHeadModel:
    """The saved model, so that what is measured is what is shipped."""
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


def progress(before: dict[str, int], seen: int, steps: int) -> dict[str, int]:
    """Tokens and steps of all runs: those before this one, and this one."""
    return {"tokens_seen": before["tokens_seen"] + seen, "steps": before["steps"] + steps}


def write_record(folder: Path, record: dict) -> None:
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(folder.name, record, flush=True)


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    half = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    copy = GPT2LMHeadModel(model.config)
    copy.load_state_dict(half)
    copy.tie_weights()
    copy.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def model_card(record: dict, args: argparse.Namespace) -> str:
    minutes = f"{args.minutes:g}{' --resume' if args.resume else ''}"
    return f"""# The bundled model

A GPT-2-architecture language model: 6 layers, d_model 256, 4 heads, context 256, tied embeddings, byte-level
BPE vocabulary of 8,192. Weights are fp16.

- **Trained on** {record["tokens_seen"] / 1e6:.1f} million tokens ({record["steps"]:,} steps) of public-domain
  English books (Project Gutenberg texts); none of that text is in this repository.
- **Held out** (16 further books, windows of 256 tokens): {record["nats_per_token"]} nats a token,
  {record["bits_per_byte"]} bits a byte.
- **Made by** `python data/demo/make_model.py train --text TEXT --heldout TEXT --minutes {minutes}`.

It is here so that every part of Lexiscope can be tried in minutes on a laptop, with nothing downloaded. It is
**not good for** anything else: it writes the grammar of old novels without their sense, knows no facts, no
dialogue turns, no code and no language but English, and carries the views of its sources' times. Conclusions
about "language models" should not rest on it.
"""


@torch.no_grad()
def sample(args: argparse.Namespace) -> None:
    """Documents of 64 to 250 tokens drawn from the model, one a paragraph, separated by END lines."""
    torch.manual_seed(args.seed)
    lengths = random.Random(args.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    model = GPT2LMHeadModel.from_pretrained(args.out, dtype=torch.float32).eval()
    documents: list[str] = []
    while len(documents) < args.documents:
        length = lengths.randrange(64, 251)
        prompt = torch.full((256, 1), tokenizer.bos_token_id)
        rows = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0,
            temperature=args.temperature, max_new_tokens=length,
            suppress_tokens=[tokenizer.bos_token_id], pad_token_id=tokenizer.bos_token_id,
        )  # fmt: skip
        documents += [tokenizer.decode(row[1:]).strip() for row in rows]
        print(f"{len(documents)} documents", flush=True)
    target = HERE / "corpus.txt.xz"
    with lzma.open(target, "wt", encoding="utf-8", preset=9) as file:
        file.write(f"\n{END}\n".join(documents[: args.documents]) + "\n")
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument("--seed", type=int, default=0)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("--text", type=Path, nargs="+", required=True)
    training.add_argument("--heldout", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=60)
    training.add_argument("--batch", type=int, default=16, help="windows of 256 tokens a step")
    training.add_argument("--vocab", type=int, default=8192)
    training.add_argument("--resume", action="store_true", help="go on from the weights in --out")
    training.add_argument(
        "--checkpoints", type=int, default=8, help="models written along the way, with --keep"
    )
    training.add_argument("--keep", type=Path, help="folder for the models along the way")
    training.set_defaults(run=train)
    sampling = commands.add_parser("sample")
    sampling.add_argument("--documents", type=int, default=2400)
    sampling.add_argument(
        "--temperature",
        type=float,
        default=0.85,
        help="1 draws from the model's own distribution, whose rare tokens make broken words",
    )
    sampling.set_defaults(run=sample)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
