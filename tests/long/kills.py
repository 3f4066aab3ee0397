"""One function for each process that is killed: it returns in how many rounds the process was still at work,
and what was found. Wrong findings are AssertionErrors.
"""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from rich.console import Console

import indexer
import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import load_language_model
from lexiscope.settings import Settings
from lexiscope.text import Text
from server import create_app
from server.live import WorkerClient, WorkerRefused
from server.live.app import create_worker_app
from store import NoIndex, Store
from tests import tiny
from tests.live.jobs import Tiny

torch.set_num_threads(1)
QUIET = Console(quiet=True)


@contextmanager
def forked(act: Callable[[], object]) -> Iterator[int]:
    """The id of a process that runs `act`; it is killed at the end of the block, and waited for."""
    process = os.fork()
    if process == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            act()
        finally:
            os._exit(0)
    try:
        yield process
    finally:
        kill(process)


def kill(process: int) -> bool:
    """Kill and reap. Whether the process was still at work."""
    try:
        ended, _ = os.waitpid(process, os.WNOHANG)
    except ChildProcessError:
        return False
    if ended:
        return False
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def killed_after(seconds: float, act: Callable[[], object]) -> bool:
    with forked(act) as process:
        time.sleep(seconds)
        return kill(process)


def plan(folder: Path, out: Path) -> trainer.Plan:
    recipes = [replace(trainer.recipe(name), k=4, batch=64) for name in ("vasae", "plain")]
    return trainer.Plan(
        [str(folder / "text.txt")], [(recipes[0], [0, 1]), (recipes[1], [1])], out,
        1000, 10_000, 100, length=48, snapshot_every=0, resume=True,
    )  # fmt: skip


def begin(folder: Path) -> Any:
    """A tiny model and a text in `folder`."""
    tiny.make_model(folder / "tiny")
    (folder / "text.txt").write_text(tiny.text(6000))
    return load_language_model(str(folder / "tiny"))


def kill_trainer(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """What is at a destination is whole; steps of snapshots are not lost; the end has the same weights."""
    model = begin(folder)
    started = time.monotonic()
    whole = trainer.train(model, plan(folder, folder / "whole"), console=QUIET)
    seconds = time.monotonic() - started
    at_work, runs = 0, 0
    while at_work < rounds:
        out = folder / f"parts-{runs}"
        steps: dict[str, int] = {}
        while True:
            act = lambda out=out: trainer.train(model, plan(folder, out), console=QUIET)
            if at_work >= rounds or not killed_after(draw.uniform(0, seconds), act):
                break
            at_work += 1
            steps = _whole_runs(out / model.id, steps)
        finished = trainer.train(model, plan(folder, out), console=QUIET)
        for one, other in zip(whole, finished, strict=True):
            a, b = load_checkpoint(one).dictionary.tensors(), load_checkpoint(other).dictionary.tensors()
            assert all(torch.equal(a[name], b[name]) for name in a), f"{other} has other weights"
        runs += 1
    return (
        at_work,
        f"{runs} runs finished with the weights of undisturbed ones, no half checkpoint, no step lost",
    )


def _whole_runs(folder: Path, before: dict[str, int]) -> dict[str, int]:
    """The steps of the snapshots that are there; asserts that none went back and that finished runs load."""
    steps = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith("."):
            found = load_checkpoint(path)
            assert found.fit is not None and found.metrics, path
        elif (path / "snapshot.pt").is_file():
            steps[path.name] = torch.load(path / "snapshot.pt", weights_only=True)["step"]
    for name, step in before.items():
        ended = (folder / name.removeprefix(".").removesuffix(".unfinished")).is_dir()
        assert ended or steps.get(name, -1) >= step, f"{name} lost steps"
    return steps


def kill_indexer(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """What is served is the last published build, whole, and readable at any moment."""
    model = begin(folder)
    paths = trainer.train(model, plan(folder, folder / "runs"), console=QUIET)
    settings = Settings(index=folder / "index", lenses=folder / "lenses")

    def index() -> None:
        ask = indexer.IndexRequest(tokens=3000, length=48, resume=True)
        loaded = [(model, [load_checkpoint(path) for path in paths])]
        indexer.index(
            loaded, Text((str(folder / "text.txt"),)), settings=settings, console=QUIET, request=ask
        )

    started = time.monotonic()
    index()
    seconds = time.monotonic() - started
    expected = contents(settings)
    at_work, builds = 0, {expected.pop("build")}
    while at_work < rounds:
        at_work += killed_after(draw.uniform(0, seconds), index)
        found = contents(settings)
        builds.add(found.pop("build"))
        assert found == expected, "another index is served"
    index()
    last = contents(settings)
    last.pop("build")
    assert last == expected
    return at_work, f"{len(builds)} builds were published, each whole and the same"


def contents(settings: Settings) -> dict[str, Any]:
    """Pages of the index, as JSON."""
    store = Store(settings)
    try:
        home = store.home().model_dump(mode="json")
        pages = [
            store.feature(entry.model, entry.source, feature).model_dump(mode="json", exclude={"build"})
            for entry in store.dictionaries()
            for feature in (0, 7, 100)
        ]
        return {"build": home.pop("build"), "home": home, "pages": pages}
    except NoIndex:
        return {"build": "", "home": None, "pages": None}
    finally:
        store.close()


def kill_server(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """Every response that came is the right one; the next process serves at once."""
    from tests.store import synthetic

    index = folder / "index"
    synthetic.publish(index, [synthetic.Dictionary("m", 0)])
    addresses = ["/", "/index.json", "/m/0-vasae", *(f"/m/0-vasae/{feature}.json" for feature in range(20))]
    expected: dict[str, bytes] = {}
    answered = lost = at_work = 0

    def act() -> None:
        uvicorn.run(create_app(Settings(index=index)), uds=str(folder / "socket"), log_level="critical")

    transport = httpx.HTTPTransport(uds=str(folder / "socket"), verify=False)
    for round_number in range(rounds + 1):
        own = httpx.Client(transport=transport, base_url="http://localhost", timeout=120)
        with forked(act) as process, own as client:
            until_ready(client)
            if round_number == 0:
                expected = {address: client.get(address).content for address in addresses}
                continue
            timer = threading.Timer(draw.uniform(0, 2), os.kill, [process, signal.SIGKILL])
            timer.start()
            for address in draw.choices(addresses, k=10_000):
                try:
                    answer = client.get(address)
                except httpx.TransportError:
                    lost += 1
                    break
                assert answer.status_code == 200 and answer.content == expected[address], address
                answered += 1
            timer.join()
            at_work += 1
        transport = httpx.HTTPTransport(uds=str(folder / "socket"), verify=False)
    return at_work, f"{answered:,} right answers, {lost} connections cut, no wrong answer"


def until_ready(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError


def kill_worker(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """A stream whose worker dies ends with an error; its text is a beginning of the right one; the next
    worker gives the same text.
    """
    from lexiscope.checkpoint import save_weights
    from lexiscope.dictionary import Dictionary
    from lexiscope.selection import TopK

    model = begin(folder)
    dictionary = Dictionary(
        torch.randn(32, 48), torch.zeros(48), torch.randn(48, 32), torch.zeros(32), TopK(16)
    )
    (folder / "dictionary").mkdir()
    save_weights(
        folder / "dictionary", dictionary, fit=None, model="tiny", hook="blocks.0.hook_resid_post",
        context=64, details={"mean_norm": 5.0},
    )  # fmt: skip
    place = Tiny(model.path, {0: str(folder / "dictionary")})
    job = place.job((0, 3, "add", 1.0), max_tokens=40, prompt="the cat")

    def act() -> None:
        uvicorn.run(create_worker_app(Settings()), uds=str(folder / "socket"), log_level="critical")

    async def steered(process: int, after: float) -> tuple[str, str]:
        """(the name of the last event, the steered text so far)"""
        client = WorkerClient(f"unix://{folder / 'socket'}")
        for _ in range(600):
            try:
                await client.health()
                break
            except WorkerRefused:
                await asyncio.sleep(0.05)
        timer = threading.Timer(after, os.kill, [process, signal.SIGKILL])
        timer.start()
        text, last = "", ""
        try:
            async with client.submit(job) as events:
                async for event in events:
                    last = event.event
                    if event.event == "step" and event.steered is not None:
                        text += event.steered.text
        except WorkerRefused as refused:
            last = f"refused {refused.status}"
        finally:
            timer.cancel()
        return last, text

    with forked(act) as process:
        begun = time.monotonic()
        last, expected = asyncio.run(steered(process, 600))
        seconds = time.monotonic() - begun
    assert last == "done" and expected
    at_work, ends = 0, dict.fromkeys(("error", "refused 503", "done"), 0)
    for _ in range(rounds):
        with forked(act) as process:
            last, text = asyncio.run(steered(process, draw.uniform(0, seconds)))
        at_work += last != "done"
        ends[last] += 1
        assert expected.startswith(text) and (last != "done" or text == expected), text
    found = f"{ends['error']} streams ended with an error, {ends['refused 503']} requests with a 503"
    return at_work, f"{found}, {ends['done']} ended before; no wrong text"


KILLS = {"trainer": kill_trainer, "indexer": kill_indexer, "server": kill_server, "worker": kill_worker}
