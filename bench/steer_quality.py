"""Does steering by name work? `python bench/steer_quality.py --name demo --text FILE` writes docs/results/demo/steering.json and the page.

Every dictionary of one model in the served index (sets `vasae`, `plain`, `paper-soft`, …) is asked the same question at each of its
layers: if a live feature's direction is added to the residual stream at the last position of a prompt, does the probability that its
name comes next rise more than under controls of equal effect? Every direction gets the strength at which KL(steered ‖ default),
averaged over the prompts, is 0.5 nats. Controls of a feature: its name's raw token embedding (centred); a random live feature of the
same dictionary whose density is nearest; the nearest feature of the layer's `plain` dictionary by cosine (not for `plain` itself).
*Success*: the rise of the mean probability is above zero and above that of every control. *Over features*: above zero and above the
controls that are features; the raw embedding, which no dictionary is needed for, is left out.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.machine import machine
from bench.results import FOLDER
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.settings import ROOT, Settings
from lexiscope.text import passages
from store import Store

KL = 0.5
"""nats, the strength of every direction"""
STEPS = 9
"""bisections of the logarithm of the strength"""
WEAKEST, STRONGEST = 1 / 64, 16.0
"""the strengths bisected between, in mean residual norms"""
ROWS = 256
OUTPUT_SCORE = 0.01
"""features above it pass the filter of Arad et al. 2025"""
COLUMNS = ("index", "name_token", "live", "density", "verdict", "output_score")
PAGE = ROOT / "docs" / "steering.md"
VERDICTS = ("predicts", "both", "reads", "unsupported")
EMBEDDING = "the name's raw embedding"
RARE = 60
"""features of a verdict, where there are so many"""


class Prompt(NamedTuple):
    """A passage whose last position is steered."""

    tokens: Tensor
    """[1, n]"""
    stream: Tensor
    """[1, n, d] after the layer"""
    default: Tensor
    """[vocab] log probabilities"""


def prompts(model: LanguageModel, text: Sequence[str], layer: int, *, n: int, length: int = 32) -> list[Prompt]:
    """The first `length` tokens of `n` passages spread over the text's beginning."""
    taken = []
    for passage in passages(model, text, length=length, tokens=n * 8 * length):
        if len(passage) == length:
            taken.append(torch.from_numpy(passage.astype(np.int64))[None])
    found = []
    for tokens in taken[:: max(1, len(taken) // n)][:n]:
        reading = model.read_on(tokens, [layer])
        found.append(Prompt(tokens, reading.residuals[layer].clone(), reading.logits[0, -1].float().log_softmax(-1)))
    return found


class Steered(NamedTuple):
    """What adding each of m directions did, averaged over prompts."""

    kl: Tensor
    """[m] KL(steered ‖ default), nats"""
    rise: Tensor
    """[m] of the probability of each direction's token"""


@torch.inference_mode()
def steer(model: LanguageModel, layer: int, some: Sequence[Prompt], directions: Tensor, strengths: Tensor, tokens: Tensor) -> Steered:
    """Unit directions [m, d] added at each prompt's last position with strengths [m] (in raw norm); tokens [m] are watched."""
    kl, rise = torch.zeros(len(directions)), torch.zeros(len(directions))
    for prompt in some:
        last = prompt.tokens.shape[1] - 1
        for part in torch.arange(len(directions)).split(ROWS):
            changed = prompt.stream[0, last] + strengths[part, None] * directions[part]
            logits = model.logits_at(prompt.tokens, layer, prompt.stream, torch.full((len(part),), last), changed)
            steered = logits.float().log_softmax(-1)
            kl[part] += (steered.exp() * (steered - prompt.default)).sum(-1)
            watched = tokens[part]
            rise[part] += steered.gather(1, watched[:, None])[:, 0].exp() - prompt.default[watched].exp()
    return Steered(kl / len(some), rise / len(some))


def at_equal_kl(
    model: LanguageModel, layer: int, some: Sequence[Prompt], directions: Tensor, tokens: Tensor, norm: float
) -> tuple[Steered, Tensor]:
    """Each direction at the strength where its mean KL is KL nats; also those strengths [m], in mean residual norms."""
    low, high = torch.full((len(directions),), WEAKEST).log(), torch.full((len(directions),), STRONGEST).log()
    for _ in range(STEPS):
        middle = (low + high) / 2
        over = steer(model, layer, some, directions, middle.exp() * norm, tokens).kl > KL
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    strengths = ((low + high) / 2).exp()
    return steer(model, layer, some, directions, strengths * norm, tokens), strengths


class Source(NamedTuple):
    """A dictionary with what the index says of its features."""

    set_name: str
    layer: int
    directions: Tensor
    """[d_sae, d] unit"""
    features: Mapping[str, np.ndarray]
    mean_norm: float

    @property
    def live(self) -> np.ndarray:
        return np.flatnonzero(self.features["live"])


def sources(store: Store, model_id: str, sets: Sequence[str]) -> list[Source]:
    """The dictionaries of the asked sets, in layer order."""
    found = []
    with store.snapshot() as snapshot:
        for entry in snapshot.part(model=model_id, source=None).dictionaries:
            set_name = entry.source.split("-", 1)[1]
            if set_name not in sets:
                continue
            rows = pa.concat_tables(part.select(list(COLUMNS)) for part in snapshot.of_dictionary("feature", entry))
            checkpoint = load_checkpoint(Path(entry.checkpoint_path), anchors=False)
            if entry.mean_norm is None:
                sys.exit(f"{entry.id} was indexed without the layer's mean norm; index it again.")
            columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
            found.append(Source(set_name, entry.layer, checkpoint.dictionary.directions, columns, entry.mean_norm))
    return sorted(found, key=lambda source: (source.layer, sets.index(source.set_name)))


def measure(model: LanguageModel, source: Source, plain: Source | None, some: Sequence[Prompt], *, n: int, seed: int) -> dict[str, Any]:
    """The success rates of one dictionary, over `n` of its live features and as many more as RARE asks."""
    draw = np.random.default_rng(seed)
    live = source.live
    order, verdicts = draw.permutation(live), source.features["verdict"].astype(str)
    more = [order[verdicts[order] == word][: min(n, RARE)] for word in VERDICTS]
    chosen = np.unique(np.concatenate([order[:n], *more]))
    sampled = np.isin(chosen, order[:n])
    names = torch.from_numpy(source.features["name_token"][chosen].astype(np.int64))
    own = source.directions[chosen]
    centred = model.embedding - model.embedding.mean(0)
    density = np.log(np.maximum(source.features["density"], 1e-9))
    by_density = live[np.argsort(density[live], kind="stable")]
    place = {int(feature): at for at, feature in enumerate(by_density)}
    step = draw.choice([-3, -2, -1, 1, 2, 3], len(chosen))
    alike = by_density[np.clip([place[int(f)] for f in chosen] + step, 0, len(live) - 1)]
    rivals = {EMBEDDING: F.normalize(centred[names], dim=-1), "a feature of equal density": source.directions[alike]}
    if centred.shape[1] != own.shape[1]:
        rivals.pop(EMBEDDING)
    if plain is not None:
        theirs = plain.directions[plain.live]
        rivals["plain's nearest feature"] = theirs[(own @ theirs.T).argmax(-1)]
    every = torch.cat([own, *rivals.values()])
    done, strengths = at_equal_kl(model, source.layer, some, every, names.repeat(1 + len(rivals)), source.mean_norm)
    rise = done.rise.view(1 + len(rivals), -1)
    beats = {name: (rise[0] > rise[at]).numpy() for at, name in enumerate(rivals, 1)}
    over_features = (rise[0] > 0).numpy() & np.logical_and.reduce([won for name, won in beats.items() if name != EMBEDDING])
    success = over_features & beats.get(EMBEDDING, True)
    verdict = verdicts[chosen]
    score = source.features["output_score"][chosen].astype(float)
    passes = np.nan_to_num(score, nan=-1.0) > OUTPUT_SCORE

    def rate(rows: np.ndarray) -> dict[str, Any]:
        shares = {"success": success, "over_features": over_features}
        return {"n": int(rows.sum())} | {name: round(float(won[rows].mean()), 4) if rows.any() else None for name, won in shares.items()}

    return {
        "layer": source.layer,
        "set": source.set_name,
        "live": len(live),
        "verdicts": {word: int((verdicts[live] == word).sum()) for word in VERDICTS},
        **rate(sampled),
        "rises": round(float((rise[0, sampled] > 0).float().mean()), 4),
        "mean_rise": round(float(rise[0, sampled].mean()), 5),
        "rival_rise": {name: round(float(rise[at, sampled].mean()), 5) for at, name in enumerate(rivals, 1)},
        "beats": {name: round(float(won[sampled].mean()), 4) for name, won in beats.items()},
        "embedding_wins": round(float((~beats[EMBEDDING])[sampled].mean()), 4) if EMBEDDING in beats else None,
        "with_output_score": rate(passes & sampled),
        "by_verdict": {word: rate(verdict == word) for word in VERDICTS},
        "strength": round(float(strengths[: len(chosen)][sampled].median()), 3),
        "kl_reached": round(float(((done.kl - KL).abs() < 0.1 * KL).float().mean()), 4),
    }


def write_page(folder: Path = FOLDER) -> None:
    """docs/steering.md, from every docs/results/<model>/steering.json."""
    lines = ["# Steering by name: how often it works", "", *__doc__.split("\n\n", 1)[1].strip().splitlines(), ""]
    lines += [
        "*All* is a random sample of live features, each cell *success / over features (n)*; *filtered* keeps those with an output score "
        f"above {OUTPUT_SCORE} (Arad et al. 2025). A verdict's cell takes in more of its features, up to {RARE}. *Mean rise* is of the "
        "name's probability, beside it the raw embedding's; *strength* is the median, in mean residual norms, at which KL is "
        f"{KL} nats. `plain` has one control fewer, which flatters it.",
        "",
    ]
    for file in sorted(folder.glob("*/steering.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        lines += [
            f"## {found['model']}",
            "",
            f"`{found['command']}`",
            "",
            f"{found['prompts']} prompts of {found['text']}; {found['machine']}; {found['date']}.",
            "",
        ]
        lines += _table(found["rows"])
        lines += ["", *_reading(found["rows"]), ""]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    controls = list(dict.fromkeys(name for row in rows for name in row["beats"]))
    head = ["layer", "set", "all", "filtered", *VERDICTS, *(f"beats {name}" for name in controls)]
    head += ["rises", "mean rise", "embedding's", "strength"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(row["layer"]), row["set"], _counted(row), _counted(row["with_output_score"])]
        cells += [_counted(row["by_verdict"][word]) for word in VERDICTS] + [_share(row["beats"].get(name)) for name in controls]
        embedding = row["rival_rise"].get(EMBEDDING)
        cells += [_share(row["rises"]), f"{row['mean_rise']:+.3f}", "–" if embedding is None else f"{embedding:+.3f}"]
        lines.append("| " + " | ".join([*cells, f"{row['strength']:.2f}"]) + " |")
    lines += ["", "Live features by verdict, in the whole dictionary:", ""]
    lines += ["| layer | set | live | " + " | ".join(VERDICTS) + " |", "|" + "---|" * (3 + len(VERDICTS))]
    lines += [
        f"| {r['layer']} | {r['set']} | {r['live']:,} | " + " | ".join(f"{r['verdicts'][w]:,}" for w in VERDICTS) + " |" for r in rows
    ]
    return lines


def _reading(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures say, in sentences that follow from them alone."""
    said = []
    for layer in sorted({row["layer"] for row in rows}):
        at = {row["set"]: row for row in rows if row["layer"] == layer}
        for name, row in at.items():
            if name != "plain" and "plain" in at and at["plain"]["over_features"]:
                ratio = row["over_features"] / at["plain"]["over_features"]
                said.append(f"- Layer {layer}: `{name}` rises over features {ratio:.2f} times as often as `plain` (aim for `vasae`: 2).")
            if row["embedding_wins"] is not None and row["embedding_wins"] >= 0.5:
                share = f"{row['embedding_wins']:.0%}"
                said.append(f"- Layer {layer}: for `{name}` the raw embedding raises the name at least as much in {share} of cases.")
    return said


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _counted(found: dict[str, Any]) -> str:
    return f"{_share(found['success'])} / {_share(found['over_features'])} ({found['n']:,})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write, or with --page only write the page from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", help="the model's id in the index")
    parser.add_argument("--text", action="append", default=[], help="text the prompts are from, held out of training")
    parser.add_argument("--sets", default="vasae,plain,paper-soft")
    parser.add_argument("--layers", help="numbers separated by commas; all unless given")
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write docs/steering.md from docs/results and stop")
    asked = parser.parse_args(arguments)
    if asked.page:
        return write_page()
    if not asked.name or not asked.text:
        parser.error("--name and --text are needed")
    store = Store(Settings())
    found = sources(store, asked.name, asked.sets.split(","))
    layers = sorted({s.layer for s in found}) if asked.layers is None else [int(layer) for layer in asked.layers.split(",")]
    model = load_language_model(store.model_paths()[asked.name], model_id=asked.name)
    rows = []
    for layer in layers:
        here = [source for source in found if source.layer == layer]
        some = prompts(model, asked.text, layer, n=asked.prompts)
        plain = next((source for source in here if source.set_name == "plain"), None)
        for source in here:
            against = None if source is plain else plain
            rows.append(measure(model, source, against, some, n=asked.features, seed=asked.seed))
            print(json.dumps(rows[-1]), flush=True)
    store.close()
    result = {
        "model": asked.name,
        "text": ", ".join(Path(text).name for text in asked.text),
        "prompts": asked.prompts,
        "seed": asked.seed,
        "command": " ".join(["python bench/steer_quality.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "rows": rows,
    }
    folder = FOLDER / asked.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steering.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_page()
    return None


if __name__ == "__main__":
    main()
