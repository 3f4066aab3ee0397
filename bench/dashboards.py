"""`make bench-index`: `lexiscope index` beside SAEDashboard's runner, on one model, one dictionary and the
same passages.

SAEDashboard takes prompts of one length, so the text is cut into distinct passages of exactly that length and
written out such that both read the same ids. Its batches of features all cost the same but for the first,
which fills its cache of activations; where only some are run, the whole is extrapolated from them.
SAEDashboard's start and loading are left out; `lexiscope index` is the whole command.
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

import torch

from bench.peer_environments import VENVS, interpreter
from bench.report import Report, times, write_option
from experiments.page import ROOT
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import END, passages

DEMO = ROOT / "data" / "demo"
TARGET, TARGET_BYTES = "≥ 10×", "≤ 2,000"


class Process(NamedTuple):
    """One process from its start to its end."""

    wall: float
    cpu: float
    """seconds, of all threads"""
    peak: float
    """bytes resident"""
    printed: dict[str, Any]
    """the JSON of its last line, where it is any"""


class Peer(NamedTuple):
    """SAEDashboard at one size of batch."""

    features: int
    """measured"""
    batch: int
    process: Process
    whole: float
    """seconds for the whole dictionary, loading left out"""
    cpu_whole: float
    disk: int
    """bytes of the batches written"""
    live: int
    """of those measured, by our count"""
    repeated: float
    """share of a live feature's contexts that repeat another of its contexts"""
    zeros: float
    """share of stored activation values that are 0"""
    agrees: float
    """share of features with as many firings as ours, as far as its five digits of density tell"""


def run(command: list[str], environment: dict[str, str]) -> Process:
    """Run to the end; raises SystemExit with the process's last lines where it fails."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        printed, errors = out.read().strip().splitlines(), err.read().splitlines()
    if child.returncode:
        lines = "\n".join(errors[-12:])
        raise SystemExit(f"{shlex.join(command)}\nended with {child.returncode}:\n{lines}")
    last = printed[-1] if printed else ""
    found = json.loads(last) if last.startswith("{") else {}
    return Process(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, found)


def environment(threads: int, **more: str) -> dict[str, str]:
    """Of every process that is measured."""
    ours = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    return os.environ | ours | more


def same_passages(
    model: LanguageModel, source: Path, length: int, most: int, folder: Path
) -> tuple[Path, Path, int]:
    """At most `most` distinct passages of exactly `length` tokens: (a text that is cut into them, [n, length]
    ids on disk, n). Passages with special tokens, which SAEDashboard leaves out of its counts, are left out.
    """
    special = {model.bos, model.tokenizer.eos_token_id, model.tokenizer.pad_token_id}
    found: dict[bytes, str] = {}
    for passage in passages(model, [str(source)], length=length):
        body = passage[1:].tolist()
        text = model.text(body)
        whole = len(passage) == length and not special & set(body)
        if whole and "\r" not in text and model.tokenise(text.strip("\n")) == body:
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


def run_peer(dictionary: Path, ids: Path, out: Path, batch: int, firings: torch.Tensor, given: Any) -> Peer:
    """Whole batches of features by SAEDashboard, and what is in its files; `firings` are our counts."""
    command = [interpreter("saedashboard", given.venvs), "-m", "bench.peers.saedashboard_batches"]
    command += [
        str(dictionary.resolve()),
        str(ids),
        str(out),
        f"--features={batch}",
        f"--threads={given.threads}",
    ]
    command += [f"--batches={given.batches}"] if given.batches else []
    process = run(command, environment(given.threads, HF_HUB_OFFLINE="1"))
    files = sorted(Path(process.printed["folder"]).glob("batch-*.json"))
    repeated, zeros, agrees = [], [], []
    tokens = process.printed["tokens"]
    for feature in (feature for file in files for feature in json.loads(file.read_text())["features"]):
        fired = int(firings[feature["feature_index"]])
        agrees.append(abs(feature["frac_nonzero"] * tokens - fired) <= max(0.5, 1e-5 * tokens))
        if not fired:
            continue
        contexts = feature["activations"]
        repeated.append(1 - len(Counter(tuple(context["tokens"]) for context in contexts)) / len(contexts))
        values = [value for context in contexts for value in context["values"]]
        zeros.append(values.count(0) / len(values))
    seconds = process.printed["seconds"]
    further = len(firings) / len(agrees) * len(seconds) - 1
    whole = seconds[0] + statistics.fmean(seconds[1:] or seconds) * further
    return Peer(
        features=len(agrees),
        batch=batch,
        process=process,
        whole=whole,
        cpu_whole=process.printed["cpu"] * whole / sum(seconds),
        disk=sum(file.stat().st_size for file in files),
        live=len(repeated),
        repeated=statistics.fmean(repeated),
        zeros=statistics.fmean(zeros),
        agrees=statistics.fmean(agrees),
    )


def index(
    dictionary: Path, model: Path, text: Path, place: Path, given: Any, ablate: int
) -> tuple[Process, int]:
    """The command from nothing, and the bytes of the index it published."""
    command = [
        str(Path(sys.executable).with_name("lexiscope")),
        "index",
        str(dictionary),
        "--model",
        str(model),
    ]
    command += ["--text", str(text), "--length", str(given.length), f"--ablate={ablate}"]
    place_of_index = {"LEXISCOPE_INDEX": str(place), "LEXISCOPE_DATABASE_URL": ""}
    process = run(command, environment(given.threads, **place_of_index))
    return process, sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def measure(report: Report, given: Any, place: Path) -> None:
    """Everything, one after another."""
    text, ids, n = same_passages(
        load_language_model(str(given.model)), given.text, given.length, given.prompts, place
    )
    counted = place / "firings.pt"
    command = [
        sys.executable,
        "-m",
        "bench.forward_and_encode",
        str(given.dictionary),
        f"--model={given.model}",
    ]
    command += [f"--text={text}", f"--length={given.length}", f"--firings={counted}"]
    bare = run(command, environment(given.threads))
    firings = torch.load(counted)
    live = int((firings > 0).sum())
    indexed = {}
    for label, ablate in (("without the ablation pass", 0), ("with it", 5)) if given.ablation else (("", 0),):
        print(f"lexiscope index {label} …", file=sys.stderr, flush=True)
        target = place / f"index-{ablate}"
        indexed[f"lexiscope index {label}".strip()] = index(
            given.dictionary, given.model, text, target, given, ablate
        )
    peers = []
    for batch in given.features:
        print(f"SAEDashboard, {batch} features a batch …", file=sys.stderr, flush=True)
        peers.append(run_peer(given.dictionary, ids, place / f"peer-{batch}", batch, firings, given))
    about = f"{given.dictionary.name} of {given.model.name}: {len(firings):,} features, {live:,} live; "
    about += f"{n:,} passages of {given.length} tokens of {given.text.name}; {given.threads} threads"
    _speed(report, about, indexed, peers, len(firings))
    (first, _), *_ = indexed.values()
    wall, cpu = times(first.wall, bare.printed["seconds"]), times(first.cpu, bare.printed["cpu"])
    report.notes.append(
        f"`lexiscope index`, from its start to the published index, ÷ forward pass and encoding alone: "
        f"{wall}, CPU {cpu}; reading the text alone stands under the next heading."
    )
    _size(report, list(indexed.values())[-1][1] / live, peers)
    shares = ", ".join(f"{peer.agrees:.1%} of {peer.features:,}" for peer in peers)
    report.notes.append(f"Features whose firings both count alike: {shares}.")
    if given.batches == 1:
        report.notes.append(
            "With one batch measured, filling SAEDashboard's cache is counted for every batch."
        )
    versions = ", ".join(f"{name} {number}" for name, number in peers[0].process.printed["versions"].items())
    report.notes.append(f"SAEDashboard's environment: {versions}.")


def _speed(
    report: Report, about: str, indexed: dict[str, tuple[Process, int]], peers: list[Peer], width: int
) -> None:
    columns = [
        "",
        "features/min",
        f"speed-up ({TARGET})",
        "features/CPU-min",
        "CPU speed-up",
        "s",
        "CPU s",
        "peak GB",
    ]
    table = report.table(about, columns)
    best, least = min(peer.whole for peer in peers), min(peer.cpu_whole for peer in peers)
    lines = []
    for peer in peers:
        extent = "all" if peer.features == width else f"{peer.features:,} measured"
        label = f"SAEDashboard, {peer.batch:,} features a batch ({extent})"
        lines.append((label, peer.whole, peer.cpu_whole, peer.process))
    lines += [(label, process.wall, process.cpu, process) for label, (process, _) in indexed.items()]
    for label, wall, cpu, process in lines:
        speeds = [
            f"{60 * width / wall:,.0f}",
            times(best, wall),
            f"{60 * width / cpu:,.0f}",
            times(least, cpu),
        ]
        table.rows.append([label, *speeds, f"{wall:,.0f}", f"{cpu:,.0f}", f"{process.peak / 1e9:.2f}"])


def _size(report: Report, ours: float, peers: list[Peer]) -> None:
    columns = ["", f"bytes a live feature ({TARGET_BYTES})", "contexts that repeat another", "stored zeros"]
    table = report.table("On disk", columns)
    table.rows.append(["lexiscope index", f"{ours:,.0f}", "0%", "0%"])
    for peer in peers:
        shares = [f"{peer.repeated:.0%}", f"{peer.zeros:.1%}"]
        table.rows.append([f"SAEDashboard, {peer.batch:,} a batch", f"{peer.disk / peer.live:,.0f}", *shares])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dictionary", type=Path, metavar="RUN", help="a plain dictionary of the model")
    parser.add_argument("--model", type=Path, default=DEMO / "model", help="a Hugging Face folder")
    parser.add_argument("--text", type=Path, default=DEMO / "corpus.txt.xz")
    parser.add_argument("--prompts", type=int, default=256, help="passages, at most")
    parser.add_argument(
        "--length", type=int, default=128, help="tokens of a passage (SAEDashboard's default)"
    )
    parser.add_argument(
        "--features",
        type=int,
        nargs="+",
        default=[128],
        help="features a batch of SAEDashboard (its default: 128)",
    )
    parser.add_argument("--batches", type=int, default=2, help="batches of SAEDashboard to run; 0 for all")
    parser.add_argument("--ablation", action="store_true", help="time the index with its ablation pass too")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--venvs", type=Path, default=VENVS, help="environments of other libraries")
    write_option(parser)
    given = parser.parse_args()
    report = Report("dashboards")
    with tempfile.TemporaryDirectory(prefix="bench-index-") as place:
        measure(report, given, Path(place))
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
