"""Rows generated side by side get the tokens that they get alone, whichever others join and leave."""

import pytest
import torch

from lexiscope.language_model import load_language_model
from server.live.generation.padded_batch import PaddedBatch
from tests.live.jobs import within_rounding

PROMPTS = ("Once upon a time", "A", "The little girl went to the garden and saw a big red")


def architectures():
    from transformers import GPT2Config, GPTNeoConfig, LlamaConfig

    shape = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 0}
    small = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
    }
    yield "gpt2", GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, initializer_range=0.3, **shape)
    yield (
        "llama",
        LlamaConfig(hidden_size=32, max_position_embeddings=64, initializer_range=0.3, **small, **shape),
    )
    layers = {
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 6,
    }
    yield (
        "neo",
        GPTNeoConfig(hidden_size=32, max_position_embeddings=64, initializer_range=0.3, **layers, **shape),
    )


@pytest.fixture(scope="module", params=list(architectures()), ids=lambda param: param[0])
def model(request, tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    name, config = request.param
    folder = tmp_path_factory.mktemp("decoding") / name
    pieces = ["<end>", *(chr(code) for code in range(33, 127)), "Ġ"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_language_model(str(folder))


def prompt(model, text, rows=1):
    return torch.tensor([[model.bos, *model.tokenise(text)]] * rows)


def alone(model, text, n):
    return [
        int(step.tokens[0]) for step in model.stream(prompt(model, text), max_tokens=n, temperature=0, seed=0)
    ]


def test_rows_that_join_and_leave_get_the_tokens_that_they_get_alone(model):
    batch, written = PaddedBatch(model), {text: [] for text in PROMPTS}
    here: list[str] = []

    def draw(logits):
        for text, row in zip(here, logits, strict=True):
            written[text].append(int(row.argmax()))

    def join(text):
        first = batch.join(prompt(model, text))
        here.append(text)
        written[text].append(int(first[0].argmax()))

    def step(n):
        for _ in range(n):
            draw(batch.step(torch.tensor([written[text][-1] for text in here])))

    join(PROMPTS[0])
    step(3)
    join(PROMPTS[1])
    step(2)
    join(PROMPTS[2])
    step(4)
    batch.leave([0])
    here.pop(0)
    step(3)
    batch.leave([1])
    here.pop(1)
    step(5)
    for text, tokens in written.items():
        assert tokens == alone(model, text, len(tokens))
    assert batch.lengths == [len(PROMPTS[1]) + 1 + len(written[PROMPTS[1]]) - 1]


def test_a_padded_row_has_the_logits_of_a_row_without_padding(model):
    batch = PaddedBatch(model)
    batch.join(prompt(model, PROMPTS[2]))
    batch.join(prompt(model, PROMPTS[0]))
    logits = batch.step(torch.tensor([5, 7]))
    expected = model.logits(torch.cat([prompt(model, PROMPTS[0]), torch.tensor([[7]])], 1))[0, -1]
    assert within_rounding(logits[1], expected)


def test_a_row_can_be_generated_up_to_the_end_of_the_context_window(model):
    batch = PaddedBatch(model)
    batch.join(prompt(model, "a" * (model.context_length - 4)))
    batch.join(prompt(model, "b"))
    for _ in range(3):
        batch.step(torch.tensor([3, 3]))
    batch.leave([0])
    assert torch.isfinite(batch.step(torch.tensor([3]))).all() and batch.lengths == [6]


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_rows_agree_up_to_rounding_whatever_the_shape_of_the_batch(model, threads):
    """Not in every bit: a matrix product may treat the last rows of a block differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        single = PaddedBatch(model)
        single.join(prompt(model, PROMPTS[0]))
        expected = [single.step(torch.tensor([token]))[0] for token in (5, 9, 11)]
        for rows in range(1, 9):
            batch = PaddedBatch(model)
            batch.join(prompt(model, PROMPTS[2]))
            batch.join(prompt(model, PROMPTS[0], rows=rows))
            for token, alone in zip((5, 9, 11), expected, strict=True):
                for row in batch.step(torch.tensor([token] * (1 + rows)))[1:]:
                    assert within_rounding(row, alone) and row.argmax() == alone.argmax()
    finally:
        torch.set_num_threads(before)
