"""The causal pass: what taking a feature away, or adding it, does to the model's next-token logits.

A second pass, over a sample of each live feature's own firings, after the text was read. Ablation at one
position: x' = x − what the feature writes there; a token's effect is how far its logit falls. Beside it the
input and output scores of Arad, Mueller and Belinkov 2025 ("SAEs Are Good for Steering – If You Select the
Right Features", arXiv 2505.20063; their code, github.com/technion-cs-nlp/saes-are-good-for-steering,
src/input_score.py and output_score.py), with the feature's name where they take its top 20 logit-lens tokens.
Everything stands beside the same for frequency-matched control tokens.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.counts.firings import Firings
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import AblationCounts, ablation_p, benjamini_hochberg
from lexiscope.language_model import LanguageModel

CONTEXTS = 5
PROMPT = "In my opinion,"
STRENGTH = 1.0
"""Of what the output score adds to the prompt's last position, in mean residual norms of the layer."""
FALLS = 5
TOP = 20
LOGITS = 16_000_000
"""Logits held at once, which bounds the positions changed in one pass."""

KEPT = 1 << 30
"""Bytes of residual streams kept between the dictionaries of one index."""

Passages = Sequence[np.ndarray] | Mapping[int, np.ndarray]


class Streams:
    """The residual streams of passages at each dictionary's layer: read once for several of them as far as
    KEPT goes, else each time.
    """

    def __init__(self, model: LanguageModel, layers: Sequence[int], passages: Passages) -> None:
        self.passages = passages
        self._model, self._layers = model, sorted(set(layers))
        self._kept: dict[int, dict[int, Tensor]] = {}
        self._room = KEPT if len(layers) > 1 else 0

    @torch.inference_mode()
    def __call__(self, passage: int, layer: int, n: int) -> Tensor:
        """[1, n, d_model] after `layer`, of the passage's first n tokens."""
        if passage not in self._kept:
            tokens = torch.from_numpy(np.asarray(self.passages[passage]).astype(np.int64))[None].to(
                self._model.device
            )
            if self._room <= 0:
                return self._model.read(tokens[:, :n], [layer])[layer]
            self._kept[passage] = self._model.read(tokens, self._layers)
            self._room -= sum(stream.nbytes for stream in self._kept[passage].values())
        return self._kept[passage][layer][:, :n]


class Causal(NamedTuple):
    """Per feature [d_sae]; NaN (contexts: −1) where a feature was not tested. Named as the columns of the
    store.
    """

    ablation_rank: Tensor
    """median rank of the name among all tokens by how far the ablation lowers their logits, 0 = lowers it
    most
    """
    ablation_top1: Tensor
    ablation_top1_null: Tensor
    ablation_top5: Tensor
    ablation_top5_null: Tensor
    q_ablation: Tensor
    ablation_contexts: Tensor
    input_score: Tensor
    """share of the top contexts whose strongest token is the name"""
    input_score_null: Tensor
    output_score: Tensor
    """rise of (1 − rank / |V|) · p of the name after the prompt, when the feature is added at its last
    position
    """
    output_score_null: Tensor
    p_ablation: Tensor
    """for the verdict"""
    parameters: dict[str, Any]
    """how the pass was run, as the dictionary's `causal` JSON"""

    def measures(self) -> dict[str, Tensor]:
        """Those of `lexiscope.measures.FEATURE`, by name."""
        return {
            name: value for name, value in self._asdict().items() if name not in ("p_ablation", "parameters")
        }


@torch.inference_mode()
def causal_effects(
    model: LanguageModel,
    layer: int,
    dictionary: Dictionary,
    names: Tensor,
    controls: Tensor,
    *,
    sample: Firings,
    top: Firings,
    passages: Passages,
    occurrences: Tensor,
    live: Tensor,
    mean_norm: float,
    contexts_each: int = CONTEXTS,
    limit: int | None = None,
    seed: int = 0,
    streams: Streams | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Causal:
    """The causal evidence for names [d_sae], with controls [vocab, draws] as in `lexiscope.evidence`.

    `sample` is a uniform sample of each feature's firings, `top` its best contexts (one a passage), both by
    feature; occurrences [vocab] are the text's; live [d_sae] says which features to test, of which a random
    `limit` at most are. `streams` may be shared between the dictionaries of one text. `advance` is told of
    positions ablated.
    """
    begun = time.monotonic()
    tested = _some(live, limit, seed)
    chosen = spread(sample, tested, contexts_each)
    asked = torch.cat([names[:, None], controls[names]], 1)
    ablated = ablate(
        model, layer, dictionary, asked, chosen, streams or Streams(model, [layer], passages), advance
    )
    counts = ablated.counts(names, 0, slice(1, None))
    p = ablation_p(counts, occurrences[names])
    input_score, input_null = input_scores(top, passages, names, controls, tested)
    output_score, output_null = output_scores(
        model, layer, dictionary, names, controls, tested, length=STRENGTH * mean_norm
    )
    known = counts.contexts > 0
    most = ablated.share_of_most(len(names))
    return Causal(
        ablation_rank=ablated.medians(len(names), 0),
        ablation_top1=most[:, 0],
        ablation_top1_null=most[:, 1:].mean(1),
        ablation_top5=counts.hits / counts.contexts,
        ablation_top5_null=counts.control_hits.float().mean(1) / counts.contexts,
        q_ablation=benjamini_hochberg(p.nan_to_num(1), known).float().where(known, float("nan")),
        ablation_contexts=counts.contexts.where(known, -1),
        input_score=input_score,
        input_score_null=input_null,
        output_score=output_score,
        output_score_null=output_null,
        p_ablation=p,
        parameters={
            "contexts": contexts_each,
            "features": int(known.sum()),
            "limit": limit,
            "controls": controls.shape[1],
            "positions": len(chosen.feature),
            "prompt": PROMPT,
            "strength": STRENGTH,
            "mean_norm": mean_norm,
            "seconds": round(time.monotonic() - begun, 1),
        },
    )


def _some(live: Tensor, limit: int | None, seed: int) -> Tensor:
    """[d_sae] bool: the live features, a random `limit` of them at most."""
    alive = live.nonzero().squeeze(1)
    if limit is None or len(alive) <= limit:
        return live
    tested = torch.zeros_like(live)
    tested[alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))[:limit]]] = True
    return tested


def spread(sample: Firings, tested: Tensor, each: int) -> Firings:
    """Up to `each` firings of every tested feature: sorted by activation, one from the middle of each of
    `each` equal parts.
    """
    rows = np.flatnonzero(tested.numpy()[sample.feature])
    rows = rows[
        np.lexsort((sample.position[rows], sample.passage[rows], sample.value[rows], sample.feature[rows]))
    ]
    _, starts, sizes = np.unique(sample.feature[rows], return_index=True, return_counts=True)
    taken = np.minimum(sizes, each)
    nth = np.arange(taken.sum()) - np.repeat(taken.cumsum() - taken, taken)
    middle = ((nth + 0.5) * np.repeat(sizes / taken, taken)).astype(np.int64)
    picked = rows[np.repeat(starts, taken) + middle]
    return Firings(*(column[picked] for column in sample))


class _Passage(NamedTuple):
    """The chosen firings of one passage."""

    number: int
    rows: np.ndarray
    tokens: Tensor
    """[1, n] up to the last of them"""
    positions: Tensor


def _by_passage(chosen: Firings, passages: Passages) -> Iterator[_Passage]:
    order = np.lexsort((chosen.position, chosen.passage))
    _, starts = np.unique(chosen.passage[order], return_index=True)
    for rows in np.split(order, starts[1:]) if len(order) else ():
        positions = chosen.position[rows].astype(np.int64)
        number = int(chosen.passage[rows[0]])
        tokens = np.asarray(passages[number])[: positions[-1] + 1]
        yield _Passage(
            number, rows, torch.from_numpy(tokens.astype(np.int64))[None], torch.from_numpy(positions)
        )


class Ablated(NamedTuple):
    """What taking away m firings did to some tokens of each one's feature."""

    feature: Tensor
    """[m]"""
    ranks: Tensor
    """[m, q] of each of the feature's tokens, among all by how far their logits fall, 0 = falls most"""
    falling: Tensor
    """[vocab] how often each token was among the FALLS that fall most"""

    def counts(self, names: Tensor, column: int, controls: slice) -> AblationCounts:
        """Of names [d_sae], which stand in `column` of the ranks, and their controls."""
        d_sae = len(names)
        hits = torch.zeros(d_sae, self.ranks.shape[1], dtype=torch.long).index_add_(
            0, self.feature, (self.ranks < FALLS).long()
        )
        contexts = torch.bincount(self.feature, minlength=d_sae)
        others = (len(self.feature) - contexts).clamp_min(1)
        return AblationCounts(
            contexts, hits[:, column], hits[:, controls], (self.falling[names] - hits[:, column]) / others
        )

    def share_of_most(self, d_sae: int) -> Tensor:
        """[d_sae, q] share of each feature's contexts where the token falls most of all; NaN without
        contexts.
        """
        most = torch.zeros(d_sae, self.ranks.shape[1]).index_add_(0, self.feature, (self.ranks == 0).float())
        return most / torch.bincount(self.feature, minlength=d_sae)[:, None]

    def medians(self, d_sae: int, column: int) -> Tensor:
        """[d_sae] the median rank of each feature, NaN without contexts."""
        found = torch.full((d_sae,), float("nan"))
        feature, ranks = self.feature.numpy(), self.ranks[:, column].numpy()
        order = np.lexsort((ranks, feature))
        features, starts, sizes = np.unique(feature[order], return_index=True, return_counts=True)
        middle = (ranks[order][starts + (sizes - 1) // 2] + ranks[order][starts + sizes // 2]) / 2
        found[torch.from_numpy(features)] = torch.from_numpy(middle).float()
        return found


@torch.inference_mode()
def ablate(
    model: LanguageModel,
    layer: int,
    dictionary: Dictionary,
    tokens: Tensor,
    chosen: Firings,
    streams: Streams,
    advance: Callable[[int], None] = lambda n: None,
) -> Ablated:
    """Take each of the chosen firings away by itself; tokens [d_sae, q] are what is asked about in the
    contexts of each feature.
    """
    feature, value = (
        torch.from_numpy(chosen.feature.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(chosen.value)),
    )
    ranks = torch.zeros(len(feature), tokens.shape[1], dtype=torch.int32)
    falling = torch.zeros(model.vocab_size, dtype=torch.long)
    for passage in _by_passage(chosen, streams.passages):
        given = passage.tokens.to(model.device)
        stream = streams(passage.number, layer, given.shape[1])
        places, back = passage.positions.unique(return_inverse=True)
        rows = torch.from_numpy(passage.rows)
        x = stream[0, passage.positions]
        changed = x - dictionary.writes(x, feature[rows], value[rows])
        at, residuals = (
            torch.cat([places, passage.positions]),
            torch.cat([stream[0, places], changed]),
        )  # first as they are
        default = stream.new_empty(0, model.vocab_size)
        for part in torch.arange(len(at)).split(_positions_a_pass(model)):
            logits = model.logits_at(given, layer, stream, at[part], residuals[part])
            unchanged = max(0, len(places) - int(part[0]))
            default, logits = torch.cat([default, logits[:unchanged]]), logits[unchanged:]
            ablated = part[unchanged:] - len(places)
            fall = default[back[ablated]].sub_(logits)
            asked = fall.gather(1, tokens[feature[rows[ablated]]].to(fall.device))
            ranks[rows[ablated]] = (
                torch.stack([(fall > column[:, None]).sum(-1) for column in asked.unbind(1)], 1).int().cpu()
            )
            most = fall.topk(FALLS, dim=-1).indices.cpu().reshape(-1)
            falling += torch.bincount(most, minlength=model.vocab_size)
        advance(len(passage.rows))
    return Ablated(feature, ranks, falling)


def _positions_a_pass(model: LanguageModel) -> int:
    return max(32, min(512, LOGITS // model.vocab_size))


def input_scores(
    top: Firings, passages: Passages, names: Tensor, controls: Tensor, tested: Tensor
) -> tuple[Tensor, Tensor]:
    """[d_sae] twice: the share of a feature's top contexts whose strongest token is its name, and the same
    for the name's controls.

    Of at most TOP contexts; the strongest token of one is what put it there: contexts are one a passage, the
    strongest firing of it.
    """
    order = np.lexsort((-top.value, top.feature))
    _, starts, sizes = np.unique(top.feature[order], return_index=True, return_counts=True)
    best = order[np.arange(len(order)) - np.repeat(starts, sizes) < TOP]
    feature = torch.from_numpy(top.feature[best].astype(np.int64))
    where = zip(top.passage[best].tolist(), top.position[best].tolist(), strict=True)
    strongest = torch.tensor(
        [int(passages[passage][position]) for passage, position in where], dtype=torch.long
    )
    name = names[feature]
    hits = torch.stack([name == strongest, (controls[name] == strongest[:, None]).double().mean(1)]).double()
    n = torch.bincount(feature, minlength=len(names))
    score, null = torch.zeros(2, len(names), dtype=torch.float64).index_add_(1, feature, hits) / n.clamp_min(
        1
    )
    known = tested & (n > 0)
    return score.float().where(known, float("nan")), null.float().where(known, float("nan"))


def output_scores(
    model: LanguageModel,
    layer: int,
    dictionary: Dictionary,
    names: Tensor,
    controls: Tensor,
    tested: Tensor,
    *,
    length: float,
) -> tuple[Tensor, Tensor]:
    """[d_sae] twice: by how much adding `length` along a feature's direction, at the last position of PROMPT,
    raises the score (1 − rank / |V|) · p of its name, and the same for the name's controls. Arad et al. add
    ten times the strongest activation there.
    """
    tokens = torch.tensor([[model.bos, *model.tokenise(PROMPT)]], device=model.device)
    reading = model.read_with_logits(tokens, [layer])
    stream = reading.residuals[layer]
    last = tokens.shape[1] - 1
    found = torch.full((2, len(names)), float("nan"))
    for part in tested.nonzero().squeeze(1).split(_positions_a_pass(model)):
        added = stream[0, last] + length * torch.nn.functional.normalize(dictionary.W_dec[part], dim=-1)
        logits = model.logits_at(tokens, layer, stream, torch.full((len(part),), last), added)
        asked = torch.cat([names[part, None], controls[names[part]]], 1).to(logits.device)
        rise = weighted_probability(logits, asked) - weighted_probability(
            reading.logits[:, last], asked.view(1, -1)
        ).view(asked.shape)
        found[0, part], found[1, part] = rise[:, 0].cpu(), rise[:, 1:].mean(1).cpu()
    return found[0], found[1]


def weighted_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """[n, m] (1 − rank / |V|) · p of tokens [n, m] under logits [n, vocab]."""
    asked = logits.gather(1, tokens)
    p = (asked - logits.logsumexp(-1, keepdim=True)).exp()
    rank = torch.stack([(logits > column[:, None]).sum(-1) for column in asked.unbind(1)], 1)
    return p * (1 - rank / logits.shape[-1])
