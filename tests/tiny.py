"""A language model small enough to train dictionaries on in a second: random weights, a BPE vocabulary of
400, two layers.
"""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

END = "<|endoftext|>"
WORDS = (
    "the cat sat on a mat and then one dog ran to Paris while rain fell over old grey stone houses by night"
).split()


def text(n_words: int, *, seed: int = 0) -> str:
    """Sentences of WORDS, many documents, one a line between END lines."""
    draw = random.Random(seed)
    documents, left = [], n_words
    while left > 0:
        length = draw.randrange(20, 60)
        documents.append(" ".join(draw.choices(WORDS, k=length)) + ".")
        left -= length
    return f"\n{END}\n".join(documents) + "\n"


def save_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE tokenizer whose token 0, END, is BOS and EOS. Returns its number of tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [text(2000)], trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet)
    )
    ends = {"bos_token": END, "eos_token": END, "unk_token": END}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def make_model(folder: Path, *, kind: str = "gpt2", seed: int = 0) -> Path:
    """Write a Hugging Face folder with random weights; "gpt2", "llama", or "gpt-neo", every second layer of
    which attends to the last 8 tokens alone.
    """
    size = save_tokenizer(folder)
    torch.manual_seed(seed)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=2, n_head=4, **ends)
        )
    elif kind == "gpt-neo":
        model = GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=size,
                max_position_embeddings=64,
                hidden_size=32,
                num_layers=2,
                num_heads=4,
                window_size=8,
                attention_types=[[["global", "local"], 1]],
                **ends,
            )
        )
    else:
        shape = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
        }
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=size, tie_word_embeddings=True, **shape, **heads, **ends)
        )
    for parameter in model.parameters():
        parameter.data.mul_(3 if parameter.ndim == 2 else 1)  # so that states differ enough to be told apart
    model.save_pretrained(folder)
    return folder
