"""`python -m experiments.steering --name MODEL --text FILE`: how often adding a feature raises the
probability of its name. Writes results/MODEL/steering.json and the table of docs/steering.md, which defines
the measurement.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.report import machine
from experiments.page import DOCS, RESULTS, dagger, fill, outdated, table
from indexer.causal.scores import STRENGTH, output_scores
from lexiscope.checkpoint import load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import FDR
from lexiscope.files import portable_command
from lexiscope.language_model import LanguageModel, ReadPassages, load_language_model
from lexiscope.settings import Settings
from lexiscope.text import passages
from store import Store

KL = 0.5
"""nats, the strength of every direction"""
STEPS = 7
"""bisections of the logarithm of the strength"""
WEAKEST, STRONGEST = 1 / 16, 8.0
"""the strengths bisected between, in mean residual norms"""
VALUES = 1 << 23
"""logits of one pass"""
OUTPUT_SCORE = 0.01
"""features above it pass the filter of Arad et al. 2025"""
COLUMNS = ("index", "name_token", "live", "density", "q_reads", "q_predicts")
PAGE = DOCS / "steering.md"
VERDICTS = ("predicts", "both", "reads", "unsupported")
EMBEDDING = "the name's raw embedding"
EQUAL_DENSITY = "a feature of equal density"
NEAREST_PLAIN = "plain's nearest feature"
RARE = 30
"""features of a verdict, where there are so many"""


class Prompt(NamedTuple):
    """A passage that is steered."""

    tokens: Tensor
    """[1, n]"""
    stream: Tensor
    """[1, n, d] after the layer"""
    default: Tensor
    """[n, vocab] log probabilities"""
    read: ReadPassages


def prompts(model: LanguageModel, text: Sequence[str], layer: int, *, n: int, length: int) -> list[Prompt]:
    """The first `length` tokens of `n` passages spread over the text's beginning."""
    taken = []
    for passage in passages(model, text, length=length, tokens=n * 8 * length):
        if len(passage) == length:
            taken.append(torch.from_numpy(passage.astype(np.int64))[None])
    found = []
    for tokens in taken[:: max(1, len(taken) // n)][:n]:
        read = model.read_passages(tokens, [layer])
        default = model.unembed_residual(read.last[0]).float().log_softmax(-1)
        found.append(Prompt(tokens, read.streams[layer].clone(), default, read))
    return found


class Steered(NamedTuple):
    """What adding each of m directions did, averaged over positions and passages."""

    kl: Tensor
    """[m] KL(steered ‖ default), nats"""
    rise: Tensor
    """[m] of the probability of each direction's token"""


class Ground(NamedTuple):
    """Where directions are added."""

    model: LanguageModel
    layer: int
    prompts: Sequence[Prompt]
    everywhere: bool

    def logits(self, prompt: Prompt, added: Tensor) -> Tensor:
        """[m, positions, vocab] with `added` [m, d]: the last position's, or of all but the first."""
        n, m = prompt.tokens.shape[1], len(added)
        if not self.everywhere:
            at = torch.full((1, m), n - 1)
            changed = prompt.stream[:, -1] + added
            last = self.model.changed(prompt.read, self.layer, at, changed[None])
            return self.model.unembed_residual(last[0])[:, None]
        changed = prompt.stream.repeat(m, 1, 1)
        changed[:, 1:] += added[:, None]
        return self.model.logits_from(prompt.tokens.repeat(m, 1), self.layer, changed)[:, 1:]

    @torch.inference_mode()
    def steer(self, directions: Tensor, strengths: Tensor, tokens: Tensor) -> Steered:
        """Unit directions [m, d] added with strengths [m] (in raw norm); tokens [m] are watched."""
        kl, rise = torch.zeros(len(directions)), torch.zeros(len(directions))
        for prompt in self.prompts:
            default = prompt.default[1:] if self.everywhere else prompt.default[-1:]
            for part in torch.arange(len(directions)).split(max(1, min(256, VALUES // default.numel()))):
                steered = (
                    self.logits(prompt, strengths[part, None] * directions[part]).float().log_softmax(-1)
                )
                kl[part] += (steered.exp() * (steered - default)).sum(-1).mean(-1)
                watched = tokens[part]
                after = steered.gather(2, watched[:, None, None].expand(-1, len(default), 1))[..., 0]
                rise[part] += (after.exp() - default.T[watched].exp()).mean(-1)
        return Steered(kl / len(self.prompts), rise / len(self.prompts))

    def at_equal_kl(self, directions: Tensor, tokens: Tensor, norm: float) -> tuple[Steered, Tensor]:
        """Each direction at the strength where its mean KL is KL nats; also those strengths [m], in mean
        residual norms.
        """
        low, high = (
            torch.full((len(directions),), WEAKEST).log(),
            torch.full((len(directions),), STRONGEST).log(),
        )
        for _ in range(STEPS):
            middle = (low + high) / 2
            over = self.steer(directions, middle.exp() * norm, tokens).kl > KL
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        strengths = ((low + high) / 2).exp()
        return self.steer(directions, strengths * norm, tokens), strengths


class Source(NamedTuple):
    """A dictionary with what the index says of its features."""

    set_name: str
    layer: int
    dictionary: Dictionary
    directions: Tensor
    """[d_sae, d] unit"""
    features: Mapping[str, np.ndarray]
    mean_norm: float

    @property
    def live(self) -> np.ndarray:
        return np.flatnonzero(self.features["live"])


def sources(store: Store, model_id: str, sets: Sequence[str]) -> list[Source]:
    """The dictionaries of these sets, in layer order."""
    found = []
    with store.snapshot() as snapshot:
        for entry in snapshot.part(model=model_id, source=None).dictionaries:
            set_name = entry.source.split("-", 1)[1]
            if set_name not in sets:
                continue
            rows = pa.concat_tables(
                part.select(list(COLUMNS)) for part in snapshot.of_dictionary("feature", entry)
            )
            checkpoint = load_checkpoint(Path(entry.checkpoint_path), anchors=False)
            if entry.mean_norm is None:
                sys.exit(f"{entry.id} was indexed without the layer's mean norm; index it again.")
            columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
            dictionary = checkpoint.dictionary
            found.append(
                Source(set_name, entry.layer, dictionary, dictionary.directions, columns, entry.mean_norm)
            )
    return sorted(found, key=lambda source: (source.layer, sets.index(source.set_name)))


def measure(ground: Ground, source: Source, plain: Source | None, *, n: int, seed: int) -> dict[str, Any]:
    """The success rates of one dictionary, over `n` of its live features and up to RARE more of each
    verdict.
    """
    draw = np.random.default_rng(seed)
    live = source.live
    order, verdicts = draw.permutation(live), tests_passed(source.features)
    more = [order[verdicts[order] == word][: min(n // 2, RARE)] for word in VERDICTS]
    chosen = np.unique(np.concatenate([order[:n], *more]))
    sampled = np.isin(chosen, order[:n])
    names = torch.from_numpy(source.features["name_token"][chosen].astype(np.int64))
    own = source.directions[chosen]
    model = ground.model
    centred = model.embedding - model.embedding.mean(0)
    density = np.log(np.maximum(source.features["density"], 1e-9))
    by_density = live[np.argsort(density[live], kind="stable")]
    place = {int(feature): at for at, feature in enumerate(by_density)}
    step = draw.choice([-3, -2, -1, 1, 2, 3], len(chosen))
    alike = by_density[moved(np.array([place[int(f)] for f in chosen]), step, len(live))]
    rivals = {
        EMBEDDING: F.normalize(centred[names], dim=-1),
        EQUAL_DENSITY: source.directions[alike],
    }
    if centred.shape[1] != own.shape[1]:
        rivals.pop(EMBEDDING)
    if plain is not None:
        theirs = plain.directions[plain.live]
        rivals[NEAREST_PLAIN] = theirs[(own @ theirs.T).argmax(-1)]
    every = torch.cat([own, *rivals.values()])
    done, strengths = ground.at_equal_kl(every, names.repeat(1 + len(rivals)), source.mean_norm)
    rise = done.rise.view(1 + len(rivals), -1)
    beats = {name: (rise[0] > rise[at]).numpy() for at, name in enumerate(rivals, 1)}
    over_features = (rise[0] > 0).numpy() & np.logical_and.reduce(
        [won for name, won in beats.items() if name != EMBEDDING]
    )
    success = over_features & beats.get(EMBEDDING, True)
    verdict = verdicts[chosen]
    passes = scores(model, source, chosen) > OUTPUT_SCORE

    def rate(rows: np.ndarray) -> dict[str, Any]:
        shares = {"success": success, "over_features": over_features}
        return {"n": int(rows.sum())} | {
            name: round(float(won[rows].mean()), 4) if rows.any() else None for name, won in shares.items()
        }

    return {
        "layer": source.layer,
        "set": source.set_name,
        "where": "everywhere" if ground.everywhere else "last",
        "live": len(live),
        "verdicts": {word: int((verdicts[live] == word).sum()) for word in VERDICTS},
        **rate(sampled),
        "rises": round(float((rise[0, sampled] > 0).float().mean()), 4),
        "mean_rise": round(float(rise[0, sampled].mean()), 5),
        "rival_rise": {name: round(float(rise[at, sampled].mean()), 5) for at, name in enumerate(rivals, 1)},
        "beats": {name: round(float(won[sampled].mean()), 4) for name, won in beats.items()},
        "embedding_wins": round(float((~beats[EMBEDDING])[sampled].mean()), 4)
        if EMBEDDING in beats
        else None,
        "with_output_score": rate(passes & sampled),
        "by_verdict": {word: rate(verdict == word) for word in VERDICTS},
        "strength": round(float(strengths[: len(chosen)][sampled].median()), 3),
        "kl_reached": round(float(((done.kl - KL).abs() < 0.1 * KL).float().mean()), 4),
    }


def moved(place: np.ndarray, step: np.ndarray, n: int) -> np.ndarray:
    """place + step, with the step turned round where it would leave the range 0 to n − 1."""
    inside = (place + step >= 0) & (place + step < n)
    return place + np.where(inside, step, -step)


def tests_passed(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which tests of its nearest anchor's token each feature passes at a false discovery rate of 5 %, one of
    VERDICTS.
    """
    reads, predicts = (features[name].astype(float) <= FDR for name in ("q_reads", "q_predicts"))
    return np.select([reads & predicts, reads, predicts], ["both", "reads", "predicts"], "unsupported")


def scores(model: LanguageModel, source: Source, chosen: np.ndarray) -> np.ndarray:
    """The output scores of some features, which the index holds only where it was built with an ablation
    pass.
    """
    tested = torch.zeros(len(source.directions), dtype=torch.bool)
    tested[chosen] = True
    names, length = (
        torch.from_numpy(source.features["name_token"].astype(np.int64)),
        source.mean_norm * STRENGTH,
    )
    no_controls = torch.arange(model.vocab_size)[:, None]
    scores = output_scores(model, source.layer, source.dictionary, names, no_controls, tested, length=length)
    return scores.name[chosen].numpy()


def write_page(page: Path = PAGE, results: Path = RESULTS) -> None:
    """The table of docs/steering.md, from every results/<model>/steering.json."""
    kept = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*/steering.json"))]
    rows = [[outdated(found["model"], found), *_cells(row)] for found in kept for row in found["rows"]]
    header = [
        "model",
        "layer",
        "set",
        "every control",
        "by chance",
        "the features",
        "raw embedding",
        "equal density",
    ]
    header += ["plain's nearest", "every control, predicts only", "strength"]
    fill(page, {"steering": [*table(header, rows), *dagger(kept)]})


def _cells(row: dict[str, Any]) -> list[str]:
    predicts, beats = row["by_verdict"]["predicts"], row["beats"]
    return [
        str(row["layer"]) if row["where"] == "everywhere" else f"{row['layer']}, last position",
        f"`{row['set']}`",
        f"**{_share(row['success'])}** ({row['n']})",
        _share(1 / (len(beats) + 1)),
        _share(row["over_features"]),
        *(_share(beats.get(name)) for name in (EMBEDDING, EQUAL_DENSITY, NEAREST_PLAIN)),
        f"{_share(predicts['success'])} ({predicts['n']})" if predicts["n"] else "–",
        f"{row['strength']:.2f}",
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write, or with --page only write the page from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", help="the model's id in the index")
    parser.add_argument(
        "--text", action="append", default=[], help="text of the passages, held out of training"
    )
    parser.add_argument("--sets", default="cone,plain,paper-soft")
    parser.add_argument("--layers", help="numbers separated by commas; all unless given")
    parser.add_argument("--where", choices=["everywhere", "last", "both"], default="both")
    parser.add_argument("--features", type=int, default=300, help="live features of each dictionary")
    parser.add_argument("--prompts", type=int, default=8, help="passages")
    parser.add_argument("--length", type=int, default=32, help="tokens of a passage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write the table from results/ and stop")
    given = parser.parse_args(arguments)
    if given.page:
        return write_page()
    if not given.name or not given.text:
        parser.error("--name and --text are needed")
    result = {
        "model": given.name,
        "text": ", ".join(Path(text).name for text in given.text),
        "prompts": given.prompts,
        "seed": given.seed,
        "command": portable_command(
            ["python", "-m", "experiments.steering", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "rows": run(given),
    }
    folder = RESULTS / given.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steering.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_page()
    return None


def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every dictionary of the chosen sets and layers, one after another; each row is printed as it comes."""
    store = Store(Settings())
    found = sources(store, given.name, given.sets.split(","))
    model = load_language_model(store.model_paths()[given.name], model_id=given.name)
    store.close()
    layers = (
        [int(layer) for layer in given.layers.split(",")]
        if given.layers
        else sorted({s.layer for s in found})
    )
    places = {"everywhere": [True], "last": [False], "both": [True, False]}[given.where]
    rows = []
    for layer in layers:
        here = [source for source in found if source.layer == layer]
        taken = prompts(model, given.text, layer, n=given.prompts, length=given.length)
        plain = next((source for source in here if source.set_name == "plain"), None)
        for source in here:
            for everywhere in places:
                ground = Ground(model, layer, taken, everywhere)
                beside = None if source is plain else plain
                rows.append(measure(ground, source, beside, n=given.features, seed=given.seed))
                print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
