"""`make bench-index`: `lexiscope index` beside SAEDashboard's runner, on one model, one dictionary and the
same passages.

SAEDashboard takes prompts of one length, so the text is cut into passages of exactly that length, without
repeats, and written out such that both read the same ids. It gets an environment of its own, which is made
where missing. Its batches of features all cost the same but for the first, which fills its cache of
activations; where only some are run, the whole is extrapolated from them. Prints tables, targets beside them;
asserts none.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from bench.machine import machine
from bench.trainers import SCRATCH
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import END, passages

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
BENCH = Path(__file__).parent
PEER = "sae-dashboard==0.8.0"
PEER_NEEDS = (
    "torch==2.13.0",
    "sae-lens==6.54.12",
    "transformer-lens==2.17.0",
    "transformers==4.56.2",
    "dataclasses-json>=0.6.4,<0.7",
    "datasets>=3,<4",
    "eindex-callum>=0.1,<0.2",
    "hf-transfer>=0.1.9,<0.2",
    "jaxtyping>=0.2.28,<0.3",
    "matplotlib>=3.8.4,<4",
    "pandas<3",
    "pyarrow<21",
    "rich>=13.7.1,<14",
    "safetensors>=0.4.3,<0.5",
    "typer>=0.12.3,<0.13",
)
"""What it declares, less decode-clt, which it never imports and which brings CUDA builds; newer pyarrow and
pandas refuse its numpy.
"""


class Subject(NamedTuple):
    """A model, a text to read, and how to train a plain dictionary where none is given."""

    model: Path
    text: Path
    layer: int
    k: int


SUBJECTS = {
    "demo": Subject(ROOT / "data" / "demo" / "model", ROOT / "data" / "demo" / "corpus.txt.xz", 3, 32),
    "tinystories": Subject(
        SHARED / "models" / "tinystories-instruct-3m", SHARED / "corpus" / "tinystories-800.txt.xz", 3, 16
    ),
    "smollm2": Subject(
        ROOT.parent / "scratch" / "smollm2", SHARED / "corpus" / "wikitext2-valid.txt.xz", 10, 32
    ),
}


INDEXES = {"lexiscope index, no ablation pass": ("--ablate=0",), "lexiscope index, ablation pass too": ()}
"""Each command measured, by its label; the first does what SAEDashboard does, and more."""


class Run(NamedTuple):
    """One process from its start to its end."""

    wall: float
    cpu: float
    """seconds, of all threads"""
    peak: float
    """bytes resident"""
    load: float
    """the higher one-minute average of before and after"""
    said: dict[str, Any]
    """the JSON of its last line, where it is any"""


class Peer(NamedTuple):
    """SAEDashboard at one size of batch."""

    features: int
    """done"""
    batch: int
    run: Run
    whole: float
    """seconds for the whole dictionary, loading left out"""
    cpu_whole: float
    disk: int
    """bytes of the batches written"""
    live: int
    """of those done, by our count"""
    live_bytes: float
    """JSON bytes of a live feature, mean"""
    repeated: float
    """share of a live feature's contexts that repeat another of its contexts"""
    zeros: float
    """share of stored activation values that are 0"""
    agrees: float
    """share of features whose firings are as many as ours, as far as its five digits of density tell"""


def timed(command: list[str], environment: dict[str, str]) -> Run:
    """Run to the end; raises SystemExit with the process's last lines where it fails."""
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    if child.returncode:
        raise SystemExit(
            f"{shlex.join(command)}\nended with {child.returncode}:\n"
            + "\n".join(texts[1].splitlines()[-12:])
        )
    last = (texts[0].strip().splitlines() or [""])[-1]
    said = json.loads(last) if last.startswith("{") else {}
    return Run(
        wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, max(load, os.getloadavg()[0]), said
    )


def peer_python(venvs: Path) -> str:
    """SAEDashboard's Python, its environment made first where it is missing: torch before all, or CUDA
    packages come along.
    """
    folder = venvs / "saedashboard"
    python, ready = folder / "bin" / "python", folder / "installed"
    if not ready.exists():
        print(f"making {folder} for {PEER}", file=sys.stderr, flush=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*install, "torch==2.13.0", *index], check=True)
        subprocess.run([*install, *PEER_NEEDS], check=True)
        subprocess.run([*install, "--no-deps", PEER], check=True)
        ready.touch()
    return str(python)


def same_passages(
    model: LanguageModel, source: Path, length: int, most: int, folder: Path
) -> tuple[Path, Path, int]:
    """At most `most` distinct passages of exactly `length` tokens: (a text that is cut into them, [n, length]
    ids on disk, n).
    """
    special = {
        model.bos,
        model.tokenizer.eos_token_id,
        model.tokenizer.pad_token_id,
    }  # SAEDashboard leaves these out of its counts
    found: dict[bytes, str] = {}
    for passage in passages(model, [str(source)], length=length):
        body = passage[1:].tolist()
        text = model.text(body)
        if (
            len(passage) == length
            and not special & set(body)
            and "\r" not in text
            and model.tokenise(text.strip("\n")) == body
        ):
            found.setdefault(passage.tobytes(), text)
        if len(found) == most:
            break
    text_file, ids_file = folder / "passages.txt", folder / "passages.pt"
    text_file.write_text(f"\n{END}\n".join(found.values()), encoding="utf-8")
    rows = [torch.from_numpy(passage).long() for passage in passages(model, [str(text_file)], length=length)]
    if [bytes(row.int().numpy().tobytes()) for row in rows] != list(found):
        raise SystemExit(f"The passages of {source} do not come back from the text they were written to.")
    torch.save(torch.stack(rows), ids_file)
    return text_file, ids_file, len(rows)


def run_peer(
    python: str,
    dictionary: Path,
    ids: Path,
    out: Path,
    batch: int,
    batches: int,
    firings: torch.Tensor,
    asked: Any,
) -> Peer:
    """Whole batches of features by SAEDashboard, and what it wrote, looked into."""
    command = [
        python,
        str(BENCH / "peers" / "saedashboard_batches.py"),
        str(dictionary.resolve()),
        str(ids),
        str(out),
    ]
    command += [
        f"--features={batch}",
        f"--threads={asked.threads}",
        *([f"--batches={batches}"] if batches else []),
    ]
    run = timed(command, surroundings(asked) | {"HF_HUB_OFFLINE": "1"})
    files = sorted(Path(run.said["folder"]).glob("batch-*.json"))
    sizes, repeated, zeros, agree, done = [], [], [], [], 0
    for file in files:
        for feature in json.loads(file.read_text())["features"]:
            done += 1
            fired = int(firings[feature["feature_index"]])
            agree.append(
                abs(feature["frac_nonzero"] * run.said["tokens"] - fired)
                <= max(0.5, 1e-5 * run.said["tokens"])
            )
            if not fired:
                continue
            contexts = feature["activations"]
            sizes.append(len(json.dumps(feature, separators=(",", ":")).encode()))
            copies = Counter(tuple(context["tokens"]) for context in contexts)
            repeated.append(1 - len(copies) / len(contexts))
            values = [value for context in contexts for value in context["values"]]
            zeros.append(values.count(0) / len(values))
    seconds = run.said["seconds"]
    whole = seconds[0] + statistics.fmean(seconds[1:] or seconds) * (len(firings) / done * len(seconds) - 1)
    return Peer(
        done, batch, run, whole, run.said["cpu"] * whole / sum(seconds), sum(file.stat().st_size for file in files), len(sizes),
        statistics.fmean(sizes), statistics.fmean(repeated), statistics.fmean(zeros), statistics.fmean(agree),
    )  # fmt: skip


def surroundings(asked: Any, **more: str) -> dict[str, str]:
    return (
        os.environ
        | {"OMP_NUM_THREADS": str(asked.threads), "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
        | more
    )


def index(
    dictionaries: list[Path], model: Path, text: Path, place: Path, asked: Any, *options: str
) -> tuple[Run, int]:
    """The real command, from nothing; and the bytes of the index it published."""
    command = [
        str(Path(sys.executable).with_name("lexiscope")),
        "index",
        *map(str, dictionaries),
        "--model",
        str(model),
    ]
    command += ["--text", str(text), "--length", str(asked.length), *options]
    run = timed(command, surroundings(asked, LEXISCOPE_INDEX=str(place), LEXISCOPE_DATABASE_URL=""))
    return run, sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def trained(name: str, subject: Subject, asked: Any) -> Path:
    """A plain dictionary of the subject's layer, which SAELens reads as it is; trained first where it is
    missing.
    """
    folder = ROOT / "data" / "runs" / "bench" / name / f"{subject.layer}-plain"
    if not folder.is_dir():
        print(f"training {folder}", file=sys.stderr, flush=True)
        command = [
            str(Path(sys.executable).with_name("lexiscope")),
            "train",
            str(subject.model),
            f"--text={subject.text}",
        ]
        command += [
            f"--layers={subject.layer}",
            f"--k={subject.k}",
            "--recipe=plain",
            "--set=plain",
            "--tokens=200000",
        ]
        timed([*command, f"--model-id={name}", f"--out={folder.parents[1]}"], surroundings(asked))
    return folder


def speed_table(bare: Run, runs: list[tuple[str, Run]], peers: list[Peer], width: int) -> list[str]:
    """Features a minute of each; SAEDashboard without its loading, ours with all of it."""
    best = min(peer.whole for peer in peers)
    least = min(peer.cpu_whole for peer in peers)
    lines = [
        "| | features/min | × SAEDashboard | features/CPU-min | × SAEDashboard | s, whole | CPU-s | peak GB | load |"
    ]
    lines.append("|---|" + "--:|" * 8)

    def line(label: str, whole: float, cpu: float, run: Run) -> None:
        lines.append(
            f"| {label} | {60 * width / whole:,.0f} | {best / whole:.1f} | {60 * width / cpu:,.0f} | {least / cpu:.1f} "
            f"| {whole:,.0f} | {cpu:,.0f} | {run.peak / 1e9:.2f} | {run.load:.1f} |"
        )

    for peer in peers:
        extent = "all" if peer.features == width else f"{peer.features:,} measured, the rest extrapolated"
        line(
            f"SAEDashboard, {peer.batch:,} features a batch ({extent})", peer.whole, peer.cpu_whole, peer.run
        )
    for label, run in runs:
        line(label, run.wall, run.cpu, run)
    line("forward pass and encoding alone", bare.said["seconds"], bare.said["cpu"], bare)
    return lines


def size_table(disk: int, live: int, peers: list[Peer]) -> list[str]:
    lines = [
        "| | bytes on disk a live feature | JSON of a live one | contexts that repeat another | activation values that are 0 |"
    ]
    lines += ["|---|--:|--:|--:|--:|", f"| lexiscope (target ≤ 2,000) | {disk / live:,.0f} | – | – | – |"]
    for peer in peers:
        lines.append(
            f"| SAEDashboard, {peer.batch:,} a batch | {peer.disk / peer.live:,.0f} | {peer.live_bytes:,.0f} "
            f"| {peer.repeated:.0%} | {peer.zeros:.1%} |"
        )
    return lines


def report(place: Path, asked: Any) -> str:
    """Everything, run in turn, as Markdown."""
    subject = SUBJECTS[asked.model]
    dictionaries = asked.dictionary or [trained(asked.model, subject, asked)]
    python = peer_python(asked.venvs)
    text, ids, n = same_passages(
        load_language_model(str(subject.model)), subject.text, asked.length, asked.prompts, place
    )
    counted, bare_command = (
        place / "firings.pt",
        [sys.executable, str(BENCH / "bare_pass.py"), f"--model={subject.model}"],
    )
    bare_command += [f"--text={text}", f"--length={asked.length}"]
    bare = timed([*bare_command, f"--firings={counted}", str(dictionaries[0])], surroundings(asked))
    firings = torch.load(counted)
    live, tokens = int((firings > 0).sum()), bare.said["tokens"]
    runs, sizes = [], []
    for label, options in list(INDEXES.items())[: 2 if asked.ablation else 1]:
        print(f"{label} …", file=sys.stderr, flush=True)
        run, disk = index(
            dictionaries[:1], subject.model, text, place / f"index-{len(runs)}", asked, *options
        )
        runs.append((label, run))
        sizes.append(disk)
    peers = []
    for batch in asked.features:
        print(f"SAEDashboard, {batch} features a batch …", file=sys.stderr, flush=True)
        peers.append(
            run_peer(
                python, dictionaries[0], ids, place / f"peer-{batch}", batch, asked.batches, firings, asked
            )
        )
    lines = [
        "# Building an index beside SAEDashboard\n",
        f"Written by `python bench/dashboards.py {shlex.join(sys.argv[1:])}` on {time.strftime('%Y-%m-%d %H:%M')}.\n",
        f"Machine: {machine()}; {asked.threads} threads. Load is the higher one-minute average of before and",
        "after; above the number of threads the machine was shared, and features a CPU-minute are the fairer figure.\n",
        f"Model {subject.model.name}, dictionary {dictionaries[0].name} of {len(firings):,} features ({live:,} live on this text), "
        f"{n:,} passages of {asked.length} tokens of {subject.text.name}: {tokens:,} tokens encoded by each.",
        "Versions: "
        + ", ".join(f"{name} {number}" for name, number in peers[0].run.said["versions"].items())
        + ".\n",
        "SAEDashboard: its batches alone, start and loading left out. lexiscope: the whole command. Target: ≥ 10×.\n",
        *speed_table(bare, runs, peers, len(firings)),
        "",
        *(
            f"Of the {peer.features:,} features that SAEDashboard did at {peer.batch:,} a batch, {peer.agrees:.1%} fired exactly as often "
            "as in our pass."
            for peer in peers
        ),
        *(
            [
                "Only one batch was measured: its filling of the cache, which happens once, is counted for every batch, against SAEDashboard."
            ]
            if asked.batches == 1
            else []
        ),
        "",
        *size_table(sizes[-1], live, peers),
        "\n## Tokens a second\n",
        *tokens_table(bare, runs[0][1], dictionaries, subject, text, place, bare_command, asked),
    ]
    return "\n".join(lines) + "\n"


def tokens_table(
    bare: Run,
    one: Run,
    dictionaries: list[Path],
    subject: Subject,
    text: Path,
    place: Path,
    bare_command: list[str],
    asked: Any,
) -> list[str]:
    """The whole command against the loop that it cannot do without: one dictionary, and all that were given."""
    pairs = [("1 dictionary", bare, one)]
    if len(dictionaries) > 1:
        alone = timed([*bare_command, *map(str, dictionaries)], surroundings(asked))
        every, _ = index(dictionaries, subject.model, text, place / "index-all", asked, "--ablate=0")
        pairs.append((f"{len(dictionaries)} dictionaries, one pass", alone, every))
    lines = [
        "| | forward + encode, tok/s | lexiscope index, tok/s | × the time | × the CPU time (target ≤ 1.3) | load |",
        "|---|" + "--:|" * 5,
    ]
    for label, alone, every in pairs:
        tokens = alone.said["tokens"]
        lines.append(
            f"| {label} | {tokens / alone.said['seconds']:,.0f} | {tokens / every.wall:,.0f} | {every.wall / alone.said['seconds']:.2f} "
            f"| {every.cpu / alone.said['cpu']:.2f} | {max(alone.load, every.load):.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SUBJECTS, default="demo")
    parser.add_argument(
        "--dictionary",
        type=Path,
        nargs="+",
        help="plain ones of that model, the first beside SAEDashboard; else one is trained",
    )
    parser.add_argument("--prompts", type=int, default=256, help="passages, at most")
    parser.add_argument(
        "--length", type=int, default=128, help="tokens of a passage (SAEDashboard's default)"
    )
    parser.add_argument(
        "--features",
        type=int,
        nargs="+",
        default=[128],
        help="features a batch of SAEDashboard (its default is 128)",
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=2,
        help="batches of SAEDashboard to run, the rest extrapolated; 0 for all",
    )
    parser.add_argument(
        "--ablation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the index with its ablation pass too",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--venvs",
        type=Path,
        default=SCRATCH if SCRATCH.is_dir() else ROOT / ".venv" / "peers",
        help="peers' environments",
    )
    parser.add_argument("--write", type=Path, help="write the result to this Markdown file too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-index-") as place:
        text = report(Path(place), asked)
    print(text)
    if asked.write:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
