"""A tiny random GPT-2 over bytes, two random dictionaries, and worker processes."""

import pytest
import torch
from fastapi.testclient import TestClient

from lexiscope.checkpoint import save_weights
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.selection import TopK
from lexiscope.settings import Settings
from server import create_app
from server.live import WorkerClient, spawn_worker
from server.live.model_cache import ModelCache
from store import IndexedDictionary, Store
from tests.live.jobs import CHAT_TEMPLATE, CONTEXT, MEAN_NORM, SILENT, VOCAB, WIDTH, D, Tiny, finish
from tests.store import synthetic


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("live")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*alphabet, "<|endoftext|>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder / "tiny")
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_embd=D,
        n_head=2,
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        initializer_range=0.3,
        bos_token_id=256,
        eos_token_id=256,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "tiny")
    checkpoints = {}
    for layer in (0, 1):
        bias = torch.zeros(WIDTH)
        bias[SILENT] = -1e6
        dictionary = Dictionary(torch.randn(D, WIDTH), bias, torch.randn(WIDTH, D), torch.zeros(D), TopK(16))
        path = folder / f"dictionary-{layer}"
        path.mkdir()
        hook = f"blocks.{layer}.hook_resid_post"
        save_weights(
            path, dictionary, fit=None, model="tiny", hook=hook, context=64, details={"mean_norm": MEAN_NORM}
        )
        checkpoints[layer] = str(path)
    return Tiny(str(folder / "tiny"), checkpoints)


@pytest.fixture(scope="session")
def model(tiny) -> LanguageModel:
    return load_language_model(tiny.model_path, model_id="tiny")


@pytest.fixture(scope="session")
def model_cache() -> ModelCache:
    return ModelCache()


@pytest.fixture(scope="module")
def worker(starts_worker):
    with spawn_worker(Settings()) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(starts_worker):
    """A worker that runs one job at a time; four may wait, two of one client."""
    with spawn_worker(Settings(worker_queue=4, worker_batch=1)) as running:
        yield running


@pytest.fixture
def ask(worker):
    """All events of one job, from the worker process."""

    async def events(job):
        async with WorkerClient(worker).submit(job) as stream:
            return [event async for event in stream]

    return lambda job: finish(events(job))


@pytest.fixture(scope="module")
def client(starts_worker, tiny, tmp_path_factory):
    """The application over a synthetic index with the paths of the tiny model and its dictionaries."""

    class Here(Store):
        def dictionaries(self) -> list[IndexedDictionary]:
            moved = {"model_path": tiny.model_path}
            return [
                place._replace(checkpoint_path=tiny.checkpoints[place.layer], **moved)
                for place in super().dictionaries()
            ]

    root = tmp_path_factory.mktemp("index")
    synthetic.publish(root, [synthetic.Dictionary("tiny", layer, "random", WIDTH) for layer in (0, 1)])
    settings = Settings(index=root)
    with TestClient(create_app(settings, store=Here(settings))) as client:
        yield client
        client.app.state.worker.close()
