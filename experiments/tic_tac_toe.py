"""`python -m experiments.tic_tac_toe OUT`: a language model of random tic-tac-toe games, for `lexiscope study
board`, in about two minutes of one core.

Writes OUT/model, a Hugging Face folder (GPT-2, one token a letter), OUT/games.jsonl, games that it was not
trained on, and prints how many of its likeliest moves are legal.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from studies.tic_tac_toe import ENDS, SQUARES, boards, game, winner

END = "<|endoftext|>"
LONGEST = 11
"""tokens of a game: BOS, nine moves, the end"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte; END is BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=257, special_tokens=[END], initial_alphabet=alphabet)
    )
    ends = {"bos_token": END, "eos_token": END, "unk_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **ends)


def batches(tokenizer: PreTrainedTokenizerFast, draw: Random, *, size: int) -> Iterator[Tensor]:
    """[size, LONGEST] games of token ids, padded with END, without end."""
    ids = {letter: tokenizer.encode(letter)[0] for letter in [*SQUARES, *ENDS.values()]}
    end = int(tokenizer.bos_token_id)
    while True:
        rows = [[end, *(ids[letter] for letter in game(draw))] for _ in range(size)]
        yield torch.tensor([row + [end] * (LONGEST - len(row)) for row in rows])


def train(
    tokenizer: PreTrainedTokenizerFast, draw: Random, *, steps: int, batch: int, width: int
) -> GPT2LMHeadModel:
    """A model of games that are drawn anew in every step; the padding after a game's first END is not
    learned.
    """
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=16,
        n_embd=width,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **ends,
    )
    model = GPT2LMHeadModel(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _, ids in zip(range(steps), batches(tokenizer, draw, size=batch), strict=False):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        wanted = ids[:, 1:].clone()
        wanted[(ids[:, :-1] == ids[0, 0]).cumsum(1) > 1] = -100
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def legal(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, games: list[str]) -> float:
    """The share of positions of games at which the likeliest token is legal: a free square, or the end."""
    right = total = 0
    for moves in games:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(moves)]])
        likeliest = [tokenizer.decode([each]) for each in model(input_ids=ids).logits[0].argmax(-1).tolist()]
        for board, told in zip([[0] * 9, *boards(moves)], likeliest, strict=False):
            over = winner(board) or all(board)
            right += (
                told == ENDS[winner(board)] if over else told in SQUARES and not board[SQUARES.index(told)]
            )
            total += 1
    return right / total


def make(
    out: Path, *, games: int, steps: int = 1000, batch: int = 256, width: int = 64, seed: int = 0
) -> float:
    """Train the model and write it with its games. Returns `legal` of 200 of them."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = train(tokenizer, Random(seed), steps=steps, batch=batch, width=width)
    (out / "model").mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    draw = Random(seed + 1)
    held = [game(draw) for _ in range(games)]
    lines = "".join(json.dumps({"text": each}) + "\n" for each in held)
    (out / "games.jsonl").write_text(lines, encoding="utf-8")
    return legal(model, tokenizer, held[:200])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tic_tac_toe")
    parser.add_argument("out", type=Path)
    parser.add_argument("--games", type=int, default=40_000, help="games in OUT/games.jsonl")
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    share = make(given.out, games=given.games, steps=given.steps)
    print(f"{given.out / 'model'}: {100 * share:.1f} % of its likeliest tokens are legal")


if __name__ == "__main__":
    main()
