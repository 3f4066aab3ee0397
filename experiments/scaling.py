"""`python -m experiments.scaling OUT MODEL --text FILE…`: how the error of TopK falls with the width, with k
and with the tokens it is trained on, and the law of Gao et al. (2024, arXiv 2406.04093, section 3.1) fitted
to it:

    error = exp(α + β_k log k + β_n log n + γ log k log n) + exp(ζ + η log k)

for the width n and k active features, over dictionaries trained on the same tokens. The error is held out, as
a share of the variance (1 − FVE). Figures are kept under results, the plot and its table are in
docs/methods.md. A run whose figures are there is not made again; `--tables` only writes the page and the
plot.
"""

import argparse
import json
import sys
from dataclasses import replace
from math import ceil, floor, log2
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from scipy.optimize import least_squares

import trainer
from bench.report import machine
from experiments.figures import rounded
from experiments.page import DOCS, RESULTS, fill, table
from experiments.plots import DISTINCT, Panel, Point, Series, draw
from experiments.training import parse, plan_of, training_parser
from lexiscope.checkpoint import load_checkpoint
from lexiscope.files import portable_command
from lexiscope.language_model import LanguageModel, load_language_model

FOLDER, PAGE = RESULTS / "scaling", DOCS / "methods.md"
WIDTHS, KS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536), (8, 16, 32, 64)
SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the tokens, at the widths of SHORTER and k 32."""
SHORTER, BATCH, RATE = (2048, 8192, 32768), 1024, 1e-3
LEAST = 10
"""Runs of all tokens that the law is fitted to, at least: it has six parameters."""
MILLIONS = 16 << 20
"""Features of the largest dictionary of that paper."""


class Run(NamedTuple):
    width: int
    k: int
    seen: int

    @property
    def name(self) -> str:
        return f"{self.width}-{self.k}-{self.seen}"


def runs(seen: int, largest: int) -> list[Run]:
    """Narrow ones first."""
    wide = [Run(width, 32, seen) for width in WIDTHS]
    by_k = [Run(width, k, seen) for width in WIDTHS[:6:2] for k in KS if k != 32]
    shorter = [Run(width, 32, int(seen * share)) for width in SHORTER for share in SHARES]
    return [run for run in sorted({*wide, *by_k, *shorter}) if run.width <= largest]


def law(parameters: np.ndarray, n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The error at widths n and numbers k of active features."""
    alpha, by_k, by_n, both, zeta, eta = parameters
    n, k = np.log(n), np.log(k)
    found: np.ndarray = np.exp(alpha + by_k * k + by_n * n + both * k * n) + np.exp(zeta + eta * k)
    return found


def fit(n: np.ndarray, k: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The law's six parameters, by least squares in the logarithm of the error, from several starts."""

    def residual(parameters: np.ndarray) -> np.ndarray:
        difference: np.ndarray = np.log(law(parameters, n, k)) - np.log(error)
        return difference

    starts = [(1.0, -0.3, slope, 0.0, floor, -0.3) for slope in (-0.1, -0.3) for floor in (-1.0, -3.0, -6.0)]
    found = [least_squares(residual, start, bounds=(-20, 20)) for start in starts]
    best: np.ndarray = min(found, key=lambda one: one.cost).x
    return best


def power(seen: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """(a, b) of error = a · seen^b, by least squares in logarithms."""
    slope, offset = np.polyfit(np.log(seen), np.log(error), 1)
    return float(np.exp(offset)), float(slope)


def on_paper(d_model: int, width: int = MILLIONS) -> dict[str, float]:
    """What a dictionary of that width asks for, in float32 with Adam: memory, and operations a token."""
    weights = 2 * width * d_model
    return {
        "weights": weights,
        "gigabytes": weights * 4 * 4 / 1e9,
        "operations_a_token": 2 * 2 * width * d_model,
    }


def figures(model: LanguageModel, run: Run, given: argparse.Namespace) -> dict[str, Any]:
    config = replace(
        trainer.recipe("plain"),
        k=run.k,
        batch=BATCH,
        learning_rate=RATE,  # type: ignore[call-arg]
    )
    plan = plan_of(given, [(config, [given.layer])], width=run.width, seen=run.seen, set_name=run.name)
    folder = given.out / model.id / f"{given.layer}-{run.name}"
    if not (folder / "metrics.json").is_file():
        trainer.train(model, plan, console=Console())
    found = load_checkpoint(folder)
    kept = {name: found.metrics[name] for name in ("fve", "delta_ce", "dead_share")}
    return kept | {"cpu_seconds": found.details["cpu_seconds"]} | run._asdict()


def measure(given: argparse.Namespace) -> None:
    model = load_language_model(given.model, model_id=given.model_id)
    path = FOLDER / f"{model.id}-{given.layer}.json"
    for run in runs(given.seen, given.largest):
        known = json.loads(path.read_text())["runs"] if path.is_file() else {}
        if run.name in known:
            continue
        known[run.name] = figures(model, run, given)
        kept = {
            "command": portable_command(["python", "-m", "experiments.scaling", *sys.argv[1:]]),
            "model": model.id,
            "layer": given.layer,
            "d_model": model.d_model,
            "weights": model.fingerprint,
            "machine": machine(),
            "tokens": given.tokens,
            "seen": given.seen,
            "runs": known,
        }
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rounded(kept), indent=1) + "\n")


def tables() -> list[str]:
    """A table a model and layer, and where there are runs enough for it, the law and a plot."""
    lines: list[str] = []
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text())
        made = sorted(kept["runs"].values(), key=lambda run: (run["seen"], run["k"], run["width"]))
        whole = [run for run in made if run["seen"] == kept["seen"]]
        law_of = None
        words = f"**{kept['model']}, layer {kept['layer']}**, {kept['seen']:,} tokens seen"
        words += f" of {kept['tokens']:,}"
        if len(whole) >= LEAST:
            n, k, error = (np.array([get(run) for run in whole], float) for get in GETTERS)
            law_of = fit(n, k, error)
            missed = float(np.abs(np.log(law(law_of, n, k)) - np.log(error)).mean())
            plot(path.stem, made, law_of, kept)
            names = ("α", "β_k", "β_n", "γ", "ζ", "η")
            values = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, law_of, strict=True))
            predicted = float(law(law_of, np.array([MILLIONS]), np.array([32]))[0])
            words += (
                f": {values}; the law misses the error by {missed:.1%} on average, and gives {predicted:.3f} "
                "for 16 million features, far outside what it was fitted on"
            )
        lines += [f"{words}. {_by_tokens(made)}{_on_paper(kept['d_model'])} `{kept['command']}`", ""]
        if law_of is not None:
            lines += [f"![error against width and tokens](plots/scaling-{path.stem}.svg)", ""]
        header = ["features", "k", "tokens seen", "FVE", "ΔCE", "dead"]
        header += [] if law_of is None else ["error by the law"]
        lines += table(header, [_row(run, law_of, kept["seen"]) for run in made])
        lines.append("")
    return lines[:-1]


def _by_tokens(made: list[dict[str, Any]]) -> str:
    """The exponent of the tokens seen, at each width that was trained on several numbers of them."""
    found = []
    for width in SHORTER:
        own = [run for run in made if run["k"] == 32 and run["width"] == width]
        if len({run["seen"] for run in own}) > 2:
            seen, error = np.array([(run["seen"], 1 - run["fve"]) for run in own], float).T
            found.append(f"{width:,} features: {power(seen, error)[1]:.3f}")
    return f"Exponent of the tokens seen, k 32: {'; '.join(found)}. " if found else ""


def _on_paper(d_model: int) -> str:
    paper = on_paper(d_model)
    return (
        f"A dictionary of 16 million features would have {paper['weights'] / 1e9:.1f} billion weights here, "
        f"{paper['gigabytes']:,.0f} GB with gradients and Adam's moments, and take "
        f"{paper['operations_a_token'] / 1e9:.0f} billion operations a token."
    )


GETTERS = (lambda run: run["width"], lambda run: run["k"], lambda run: 1 - run["fve"])


def _row(run: dict[str, Any], law_of: np.ndarray | None, seen: int) -> list[str]:
    row = [
        f"{run['width']:,}",
        str(run["k"]),
        f"{run['seen']:,}",
        f"{run['fve']:.3f}",
        f"{run['delta_ce']:.4f}",
        f"{run['dead_share']:.1%}",
    ]
    if law_of is None:
        return row
    by_law = float(law(law_of, np.array([run["width"]]), np.array([run["k"]]))[0])
    return [*row, f"{by_law:.3f}" if run["seen"] == seen else ""]


def plot(name: str, made: list[dict[str, Any]], law_of: np.ndarray, kept: dict[str, Any]) -> None:
    """Error against width, a line a k, with the law's; and against tokens, a line a width."""
    left, right = list[Series](), list[Series]()
    for k, colour in zip(KS, DISTINCT, strict=True):
        own = [run for run in made if run["k"] == k and run["seen"] == kept["seen"]]
        widths = [run["width"] for run in own]
        left.append(Series(f"k {k}", colour, [Point(log2(run["width"]), 1 - run["fve"]) for run in own]))
        by_law = law(law_of, np.array(widths, float), np.full(len(widths), float(k)))
        points = [Point(log2(width), float(error)) for width, error in zip(widths, by_law, strict=True)]
        left.append(Series("law", "#999999", points))
    for width, colour in zip(SHORTER, DISTINCT, strict=False):
        own = [run for run in made if run["k"] == 32 and run["width"] == width]
        points = [Point(log2(run["seen"] / 1000), 1 - run["fve"]) for run in own]
        right.append(Series(f"{width:,} features", colour, points))
    highest = max(1 - run["fve"] for run in made) * 1.05
    panels = []
    for title, what, series in (
        ("Width", "log2 of the features", left),
        ("Tokens", "log2 of thousands of tokens seen", right),
    ):
        drawn = [each for each in series if each.points]
        at = [point.x for each in drawn for point in each.points]
        ticks = range(floor(min(at)), ceil(max(at)) + 1)
        panels.append(Panel(title, what, "1 − FVE, held out", drawn, (0.0, highest), list(map(float, ticks))))
    (DOCS / "plots" / f"scaling-{name}.svg").write_text(draw(panels), encoding="utf-8")


def main() -> None:
    parser = training_parser(__doc__, tokens=250_000, seen=256_000, eval_tokens=10_000, ce_tokens=5_000)
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--largest", type=int, default=WIDTHS[-1], help="the widest dictionary")
    parser.add_argument("--tables", action="store_true", help="train nothing; write the page again")
    given = parse(parser)
    if not given.tables:
        measure(given)
    fill(PAGE, {"scaling": tables()})


if __name__ == "__main__":
    main()
