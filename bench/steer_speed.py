"""`make bench-steer`: what steering costs beside plain generation, and how the model worker serves it.

Targets on two cores: a steered row at most 1.15 times a plain row at equal batch, on the bundled model and at
GPT-2's shape (random weights); first token within 150 ms; 16 concurrent steers within 4 times one; idle
within 200 ms of a closed connection. Plain is the same model writing as many rows without a hook, with the
same sampler; the two are timed in turns, and the ratio is the median of the pairs'.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from bench.report import Report, write_option
from lexiscope.checkpoint import save_weights
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.records import FeatureRef, Token
from lexiscope.records.requests import Sampling
from lexiscope.selection import TopK
from lexiscope.settings import Settings
from server.live import Intervention, SteerJob, WorkerClient, spawn_worker
from server.live.generation import Batches, Sampler
from server.live.interventions import SteerPlan, make_plan
from server.live.model_cache import ModelCache

DEMO = Path(__file__).parent.parent / "data" / "demo" / "model"
TOKENS = 48
PROMPT = "Once upon a time there was a little girl who lived in a house"


class Setting(NamedTuple):
    """A model and a dictionary as wide as its vocabulary at its middle layer."""

    name: str
    path: str
    checkpoint: str
    layer: int


def setting(name: str, path: str, folder: Path, *, k: int = 32) -> Setting:
    model = load_language_model(path, model_id=name)
    layer = model.n_layers // 2
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(model.vocab_size, model.d_model), dim=-1)
    dictionary = Dictionary(
        rows.T.contiguous(), torch.zeros(model.vocab_size), rows, torch.zeros(model.d_model), TopK(k)
    )
    checkpoint = folder / f"{name}-dictionary"
    checkpoint.mkdir()
    residual = model.read(torch.tensor([[model.bos, *model.tokenise(PROMPT)]]), [layer])[layer][0, 1:]
    details = {"mean_norm": residual.norm(dim=-1).mean().item()}
    save_weights(
        checkpoint,
        dictionary,
        fit=None,
        model=name,
        hook=f"blocks.{layer}.hook_resid_post",
        context=128,
        details=details,
    )
    return Setting(name, path, str(checkpoint), layer)


def gpt2_shape(folder: Path) -> str:
    """GPT-2's own shape with random weights and the bundled model's tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    AutoTokenizer.from_pretrained(str(DEMO)).save_pretrained(folder / "gpt2-shape")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder / "gpt2-shape")
    return str(folder / "gpt2-shape")


def does(where: Setting, mode: str, index: int = 100, strength: float = 0.5) -> Intervention:
    feature = FeatureRef(
        id=f"{where.name}/{where.layer}-bench/{index}",
        model=where.name,
        source=f"{where.layer}-bench",
        layer=where.layer,
        index=index,
        name=Token(id=index, shown="x"),
        cosine=0,
        verdict="specific",
        density=0.01,
    )
    return Intervention(
        feature=feature, checkpoint_path=where.checkpoint, mode=mode, strength=strength, unit="activation"
    )


def write(model: LanguageModel, prompt: list[int], plans: list[SteerPlan | None]) -> float:
    """Seconds to generate TOKENS tokens in as many rows as there are plans. Each row is a job of its own,
    because one job's unsteered rows would be computed once.
    """
    batches = Batches()
    sampler = Sampler(Sampling(max_tokens=TOKENS), len(plans), model.vocab_size, model.device)
    begun = time.perf_counter()
    rows = [batches.join(model, prompt, [plan]) for plan in plans]
    for _ in range(TOKENS - 1):
        tokens = sampler.draw(torch.cat([row.logits for row in rows]))
        for row, token in zip(rows, tokens, strict=True):
            row.put(token[None])
        batches.step()
    sampler.draw(torch.cat([row.logits for row in rows]))
    return time.perf_counter() - begun


def ratio(pairs: int, plain: Callable[[], float], steered: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds of both and the median of the pairs' ratios, timed in turns after one of each."""
    plain(), steered()
    times = [(plain(), steered()) for _ in range(pairs)]
    one, other = zip(*times, strict=True)
    return statistics.median(one), statistics.median(other), statistics.median(b / a for a, b in times)


def generation(where: Setting, pairs: int, report: Report) -> None:
    model = load_language_model(where.path, model_id=where.name)
    prompt, model_cache = model.tokenise(PROMPT), ModelCache()
    title = f"{where.name}: rows of {TOKENS} tokens, {torch.get_num_threads()} threads"
    table = report.table(title, ["", "plain s", "steered s", "ratio (≤ 1.15)"])

    def row(label: str, plain: list[SteerPlan | None], steered: list[SteerPlan | None]) -> None:
        found = ratio(pairs, lambda: write(model, prompt, plain), lambda: write(model, prompt, steered))
        table.rows.append([label, *(f"{seconds:.3f}" for seconds in found[:2]), f"{found[2]:.3f}×"])

    for mode in ("add", "orthogonal", "clamp", "ablate"):
        done = make_plan([does(where, mode)], model_cache.dictionary, model, prompt=len(prompt))
        row(f"two rows, {mode}", [None, None], [None, done])
    row("one plain row; two rows, default and steered", [None], [None, done])


def service(where: Setting, pairs: int, report: Report) -> None:
    job = SteerJob(
        model=where.name,
        model_path=where.path,
        interventions=[does(where, "add")],
        prompt=PROMPT,
        max_tokens=TOKENS,
        temperature=0.8,
        seed=0,
    )

    async def one(client: WorkerClient, seed: int) -> float:
        """Seconds to the first token; the whole steer is awaited."""
        begun, first = time.perf_counter(), 0.0
        async with client.submit(job.model_copy(update={"seed": seed}), client=f"client {seed}") as events:
            async for event in events:
                first = first or (time.perf_counter() - begun if event.event == "step" else 0.0)
        return first

    async def timed(client: WorkerClient, n: int) -> tuple[float, list[float]]:
        begun = time.perf_counter()
        firsts = await asyncio.gather(*(one(client, seed) for seed in range(n)))
        return time.perf_counter() - begun, firsts

    async def rounds(client: WorkerClient) -> None:
        await timed(client, 16)
        singles, crowds, firsts = [], [], []
        for _ in range(pairs):
            seconds, first = await timed(client, 1)
            singles.append(seconds)
            firsts += first
            crowds.append((await timed(client, 16))[0])
        ratios = statistics.median(b / a for a, b in zip(singles, crowds, strict=True))
        medians = f"{statistics.median(crowds):.2f} s, {statistics.median(singles):.2f} s"
        to_first = f"{1000 * statistics.median(firsts):.0f} ms (least {1000 * min(firsts):.0f})"
        table.rows.append(["first token (≤ 150 ms)", to_first])
        table.rows.append(["16 steers at once ÷ one (≤ 4)", f"{ratios:.2f}× ({medians})"])

    async def leave(client: WorkerClient, n: int) -> float:
        """Seconds from a connection closed after n events until nothing runs."""
        async with client.submit(job.model_copy(update={"max_tokens": 4 * TOKENS})) as events:
            for _ in range(n):
                await anext(events)
        begun = time.perf_counter()
        while (await client.health()).running:
            await asyncio.sleep(0.005)
        return time.perf_counter() - begun

    async def cancelled(client: WorkerClient) -> None:
        times = [1000 * await leave(client, n) for n in range(2, 4 * pairs)]
        idle = f"{statistics.median(times):.0f} ms (most {max(times):.0f})"
        table.rows.append(["idle after a closed connection (≤ 200 ms)", idle])

    table = report.table(f"{where.name}: model worker, medians of {pairs}", ["", "figure"])
    with spawn_worker(Settings()) as worker:
        asyncio.run(rounds(WorkerClient(worker)))
        asyncio.run(cancelled(WorkerClient(worker)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7, help="timings of each kind")
    parser.add_argument("--only", choices=["demo", "gpt2-shape"], help="one model alone")
    write_option(parser)
    given = parser.parse_args()
    report = Report("steer_speed")
    with tempfile.TemporaryDirectory(prefix="bench-steer-") as place:
        folder = Path(place)
        if given.only != "gpt2-shape":
            demo = setting("demo", str(DEMO), folder)
            generation(demo, given.pairs, report)
            service(demo, given.pairs, report)
        if given.only != "demo":
            generation(setting("gpt2-shape", gpt2_shape(folder), folder), given.pairs, report)
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
