"""What an index costs by its parts, measured on a model and its dictionaries, and from it what larger jobs
would cost: every layer of the model, and Llama-3.1-8B (32 layers × 131,072 features) on 1, 8 and 64 workers.

    python -m bench.scale RUN... --model FOLDER --text FILE

Larger jobs are on paper: parts grow as their arithmetic does, and workers share blocks of the text without
waiting for one another (`--cluster` measures two nodes of a real Ray cluster on this machine).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from rich.console import Console

import indexer
from bench.index_speed import Turns, peak
from bench.report import Report, write_option
from indexer.dictionaries import identify, name_dictionary
from indexer.job import BYTES_A_FEATURE
from indexer.text_pass.text_pass import BATCH_TOKENS
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.settings import Settings
from lexiscope.text import batches, passages

LLAMA_BLOCK = 218_112_000
"""Weights of a block of Llama-3.1-8B: 4096² · 2 + 4096 · 1024 · 2 (attention), 3 · 4096 · 14,336 (MLP)."""


class Costs(NamedTuple):
    """CPU seconds of one thread."""

    forward: float
    """a weight of the blocks that are run, and a token"""
    encode: float
    """a weight of an encoder, and a token"""
    counting: float
    """a token and a dictionary"""
    naming: float
    """a feature, a token of the vocabulary and a dimension"""
    state: float
    """bytes of memory a feature, while the text is read"""


class Job(NamedTuple):
    label: str
    layers: int
    features: int
    """of a dictionary, one a layer"""
    width: int
    vocab: int
    block_weights: int
    tokens: int

    def hours(self, costs: Costs) -> tuple[float, float]:
        """CPU hours of reading the text, which workers share, and of what is done once."""
        weights = self.layers * self.block_weights
        encoders = self.layers * self.features * self.width
        a_token = costs.forward * weights + costs.encode * encoders + costs.counting * self.layers
        once = costs.naming * self.layers * self.features * self.vocab * self.width
        return a_token * self.tokens / 3600, once / 3600


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def block_weights(model: LanguageModel) -> int:
    """Of one block: all that is not the embedding, which is the unembedding too."""
    return (model.n_bytes // 4 - model.embedding.numel()) // model.n_layers


def measured(model: LanguageModel, runs: list[Path], text: list[str], tokens: int) -> Costs:
    checkpoints = [load_checkpoint(run) for run in runs]
    last = max(checkpoint.layer for checkpoint in checkpoints)
    texts = list(passages(model, text, tokens=tokens))
    n = sum(map(len, texts))

    def forward() -> None:
        for batch in batches(texts, tokens=BATCH_TOKENS):
            model.read(batch.tokens, [last], fast=True)

    forward()  # the first pass makes what is made once
    blocks = seconds(forward)
    turns = Turns(model, runs, text, tokens=tokens, length=256).run()
    state = sum(array.nbytes for array in turns.state.arrays().values())
    batch = next(batches(texts, tokens=BATCH_TOKENS))
    streams = model.read(batch.tokens, [encoder.layer for encoder in turns.encoders], fast=True)
    on = batch.tokens[batch.mask]

    def encode() -> None:
        for encoder in turns.encoders:
            encoder.dictionary.select(streams[encoder.layer][batch.mask].float(), on, runners_up=0)

    with torch.inference_mode():
        encode()
        encoding = seconds(encode)
    checkpoint = checkpoints[0]
    fit = checkpoint.fit
    assert fit is not None
    member = identify(model, checkpoint)
    naming = seconds(lambda: name_dictionary(model, member, fit))
    features = sum(checkpoint.dictionary.d_sae for checkpoint in checkpoints)
    return Costs(
        forward=blocks / n / ((last + 1) * block_weights(model)),
        encode=encoding / len(on) / (features * model.d_model),
        counting=max(turns.indexing.cpu - turns.alone.cpu, 0) / n / len(runs),
        naming=naming / checkpoint.dictionary.d_sae / model.vocab_size / model.d_model,
        state=state / features,
    )


def cluster(model: LanguageModel, runs: list[Path], text: list[str], tokens: int, report: Report) -> None:
    """The same index in this process and on two nodes of Ray."""
    import ray
    from ray.cluster_utils import Cluster

    request = indexer.IndexRequest(tokens=tokens, ablate=0, block_passages=16)

    def build(engine: Literal["local", "ray"]) -> float:
        with tempfile.TemporaryDirectory(prefix="scale-") as place:
            begun = time.monotonic()
            indexer.index(
                [(model, map(load_checkpoint, runs))],
                text,
                settings=Settings(index=Path(place)),
                console=Console(quiet=True),
                request=request._replace(engine=engine),
            )
            return time.monotonic() - begun

    local = build("local")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False)
        nodes = len([node for node in ray.nodes() if node["Alive"]])
        shared = build("ray")
    finally:
        ray.shutdown()
        made.shutdown()
    title = f"{model.id}: {', '.join(run.name for run in runs)}, {tokens:,} tokens, one thread a reader"
    table = report.table(title, ["", "s"])
    table.rows += [["in this process", f"{local:.0f}"], [f"Ray, {nodes} nodes", f"{shared:.0f}"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="dictionaries of one model, of one width")
    parser.add_argument("--model", required=True, help="its folder")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=8_000)
    parser.add_argument("--cluster", action="store_true", help="measure two nodes of Ray, and nothing else")
    write_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_language_model(given.model)
    report = Report("scale", kept_as="cluster" if given.cluster else "")
    if given.cluster:
        cluster(model, given.runs, given.text, given.tokens, report)
        report.finish(write=given.write)
        return
    costs = measured(model, given.runs, given.text, given.tokens)
    features = load_checkpoint(given.runs[0]).dictionary.d_sae
    title = f"{len(given.runs)} × {features:,} features, {given.tokens:,} tokens of text, one thread"
    table = report.table(title, ["part", "measured"])
    table.rows += [
        ["forward pass", f"{2e-9 / costs.forward:,.0f} GFLOP/s"],
        ["encoding", f"{2e-9 / costs.encode:,.0f} GFLOP/s"],
        ["counting", f"{1e6 * costs.counting:,.0f} µs a token and dictionary"],
        ["names and logit effects", f"{4e-9 / costs.naming:,.0f} GFLOP/s"],
        ["counts in memory", f"{costs.state:,.0f} bytes a feature"],
        ["peak memory", f"{peak():.2f} GB"],
    ]
    own = Job(
        f"all {model.n_layers} layers × {features:,}",
        model.n_layers, features, model.d_model, model.vocab_size, block_weights(model), 1_000_000,
    )  # fmt: skip
    llama = Job("Llama-3.1-8B, 32 × 131,072", 32, 131_072, 4096, 128_256, LLAMA_BLOCK, 1_000_000)
    columns = [
        "1,000,000 tokens",
        "CPU h, reading",
        "CPU h, once",
        "h, 1 worker of 2 cores",
        "8",
        "64",
        "counts GB (≤)",
    ]
    table = report.table("On paper", columns)
    for job in (own, llama):
        reading, once = job.hours(costs)
        hours = [f"{reading / 2 / workers + once / 2:,.1f}" for workers in (1, 8, 64)]
        memory = f"{BYTES_A_FEATURE * job.layers * job.features / 1e9:.1f}"
        table.rows.append([job.label, f"{reading:,.1f}", f"{once:,.2f}", *hours, memory])
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
