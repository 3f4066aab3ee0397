"""What features write, by steering: does adding a direction raise the tokens that a lens says it writes, by
more than controls of equal KL? And, of content words drawn from the text: does anything in the dictionary
write them?

Controls of a rise: the same token under CONTROLS other live features of the dictionary, and tokens of like
frequency under the same direction. A word's best feature must also beat the word's raw embedding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from indexer.causal.steering import KL, PREFIX_LENGTH, Ground
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import rises

CONTROLS = 24
"""Features that stand for chance: what has no effect of its own beats all of them once in 25."""
CANDIDATES = 2
"""Features tried for a word, those that a lens says write it most."""
WORDS = 200
"""Content words drawn."""
MIN_WORD = 4
"""Letters of a content word."""


class WriteRequest(NamedTuple):
    ground: Ground
    dictionary: Dictionary
    live: Tensor
    """[d_sae] bool"""
    lens: Tensor | None
    """[d_model, d_model] the Jacobian lens of the layer; the logit lens stands for it where there is none"""
    tokens: Tensor
    """[d_sae, WRITTEN] the first tokens of each feature's write list"""
    controls: Tensor
    """[vocab, draws] tokens of like frequency"""
    words: Tensor
    """token ids of the content words"""
    features: int
    """live features tested, drawn by seed"""
    seed: int = 0


class WriteEffects(NamedTuple):
    """Per feature [d_sae], NaN where it was not steered."""

    rises: Tensor
    """[d_sae, WRITTEN] of each written token's probability"""
    control: Tensor
    """the largest rise of the first token among its controls"""
    strength: Tensor
    """in mean residual norms"""
    reached: float
    """share of the features steered that came within a tenth of the KL divergence"""
    measured: list[dict[str, Any]]
    """rows of the table `written`, without dictionary_id"""
    shares: dict[str, float]
    """measures of the dictionary"""


class _Chance(NamedTuple):
    """What other live features do to tokens."""

    features: Tensor
    """[controls] their numbers"""
    rise: Tensor
    """[prefixes, controls, q] of each of q tokens"""

    def most(self, token: Tensor, feature: Tensor, prefixes: slice = slice(None)) -> Tensor:
        """[m] the largest mean rise of tokens [m] (of the q) under the controls, without the features [m]
        themselves (−1: under all); −1 where that leaves none.
        """
        rise = self.rise[prefixes].mean(0)[:, token]
        own = self.features[:, None] == feature
        return torch.cat([rise.masked_fill(own, -1), rise.new_full((1, len(token)), -1)]).amax(0)


class _Tried(NamedTuple):
    """Directions tried for words, each with the rise of its word by prefix."""

    word: Tensor
    """[m] index into the words"""
    number: Tensor
    """[m] of the feature, the token row or the token"""
    feature: Tensor
    """[m] of the feature, −1 for what is none"""
    rise: Tensor
    """[prefixes, m]"""
    strength: Tensor

    def best(self, n_words: int) -> tuple[Tensor, Tensor]:
        """([n_words] rise of the best direction for each word, as odd prefixes judge the one that even
        prefixes choose; [n_words] which of the m it is, −1 where nothing was tried)
        """
        choosing, judging = self.rise[::2].mean(0), self.rise[1::2].mean(0)
        chosen, found = torch.full((n_words,), -1), torch.full((n_words,), float("nan"))
        for at in choosing.argsort(stable=True).tolist():
            chosen[self.word[at]] = at
        found[chosen >= 0] = judging[chosen[chosen >= 0]]
        return found, chosen


def steered_writes(request: WriteRequest) -> WriteEffects:
    ground, live, words = request.ground, request.live, request.words
    directions = request.dictionary.directions
    alive = live.nonzero().squeeze(1)
    draw = torch.Generator().manual_seed(request.seed)
    order = alive[torch.randperm(len(alive), generator=draw)]
    tested, others = order[: request.features], order[-CONTROLS:]
    tokens = request.tokens[tested]
    width, draws = tokens.shape[1], request.controls.shape[1]
    watched = torch.cat([tokens, request.controls[tokens].flatten(1)], 1)
    own = ground.at_equal_kl(directions[tested], watched)
    every = torch.cat([tokens.flatten(), words])[None].expand(len(others), -1)
    chance = _Chance(others, ground.at_equal_kl(directions[others], every).rise)
    under_others = chance.most(torch.arange(tokens.numel()), tested.repeat_interleave(width)).view_as(tokens)
    mean, alike = own.rise.mean(0).split([width, width * draws], 1)
    control = torch.maximum(under_others, alike.view(*tokens.shape, draws).amax(-1))
    measured = [
        _row(token, "feature", feature, rise, above, strength)
        for feature, strength, *row in zip(
            *(column.tolist() for column in (tested, own.strength, tokens, mean, control)), strict=True
        )
        for token, rise, above in zip(*row, strict=True)
    ]
    of_words, shares = _words(request, chance._replace(rise=chance.rise[:, :, tokens.numel() :]))
    kept = {(row["token_id"], row["kind"], row["index"]): row for row in [*of_words, *measured]}
    d_sae = len(live)
    return WriteEffects(
        _spread(mean, tested, d_sae),
        _spread(control[:, 0], tested, d_sae),
        _spread(own.strength, tested, d_sae),
        float(((own.kl - KL).abs() < 0.1 * KL).float().mean()) if len(tested) else 1.0,
        [kept[key] for key in sorted(kept)],
        shares,
    )


def _spread(values: Tensor, tested: Tensor, d_sae: int) -> Tensor:
    spread = torch.full((d_sae, *values.shape[1:]), float("nan"))
    spread[tested] = values
    return spread


def _row(token: int, kind: str, index: int, rise: float, control: float, strength: float) -> dict[str, Any]:
    return {
        "token_id": token,
        "kind": kind,
        "index": index,
        "rise": rise,
        "control": control,
        "strength": strength,
        "above": bool(rises(torch.tensor(rise), torch.tensor(control))),
    }


def _words(request: WriteRequest, chance: _Chance) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of `written` for the words, and the measures; `chance` is of the words. Nothing where no feature
    is live, or where there is no prefix to judge on.
    """
    words, ground = request.words, request.ground
    if not len(words) or not len(chance.features) or len(ground.prefixes) < 2:
        return [], {}
    model, n = ground.model, len(words)
    vectors = model.unembedding().cpu()
    vectors = vectors[words] - vectors.mean(0)
    embeddings = model.embedding_directions(words).cpu()
    alive, directions = request.live.nonzero().squeeze(1), request.dictionary.directions
    tried = {"feature": _features(request, alive, directions, vectors, request.lens)}
    if request.lens is not None:
        tried["logit"] = _features(request, alive, directions, vectors, None)
        tried["jacobian"] = _directions(request, F.normalize(vectors @ request.lens, dim=-1))
    if embeddings.shape[1] == directions.shape[1]:
        tried["embedding"] = _directions(request, embeddings)
    if request.dictionary.lookup is not None:
        tried["row"] = _directions(request, request.dictionary.lookup_directions(words))
    best = {kind: each.best(n) for kind, each in tried.items()}
    embedded = best["embedding"][0] if "embedding" in best else torch.full((n,), float("-inf"))

    def share(kind: str, *, over_embedding: bool = True) -> float:
        found, chosen = best[kind]
        control = chance.most(torch.arange(n), tried[kind].feature[chosen], slice(1, None, 2))
        return _share(rises(found, torch.maximum(control, embedded) if over_embedding else control))

    shares = {
        "writes": share("feature"),
        "writes_over_features": share("feature", over_embedding=False),
        "writes_logit": share("logit" if "logit" in tried else "feature"),
        **({"writes_rows": share("row")} if "row" in tried else {}),
    }
    rows = []
    for kind, each in tried.items():
        above = chance.most(each.word, each.feature)
        columns = (each.word, each.number, each.rise.mean(0), above, each.strength)
        for word, index, rise, control, strength in zip(*(c.tolist() for c in columns), strict=True):
            name = "feature" if kind == "logit" else kind
            rows.append(_row(int(words[word]), name, index, rise, control, strength))
    return rows, shares


def _features(
    request: WriteRequest, alive: Tensor, directions: Tensor, vectors: Tensor, lens: Tensor | None
) -> _Tried:
    """The live features that a lens says write each word most."""
    own = directions[alive]
    carried = own if lens is None else F.normalize(own @ lens.T, dim=-1)
    top = (carried @ vectors.T).topk(min(CANDIDATES, len(alive)), dim=0).indices
    word = torch.arange(len(vectors)).expand_as(top).reshape(-1)
    number = alive[top.reshape(-1)]
    done = request.ground.at_equal_kl(directions[number], request.words[word, None])
    return _Tried(word, number, number, done.rise[:, :, 0], done.strength)


def _directions(request: WriteRequest, directions: Tensor) -> _Tried:
    """One direction a word."""
    done = request.ground.at_equal_kl(directions, request.words[:, None])
    word, none = torch.arange(len(directions)), torch.full((len(directions),), -1)
    return _Tried(word, request.words, none, done.rise[:, :, 0], done.strength)


def _share(holds: Tensor) -> float:
    return holds.float().mean().item()


def content_words(
    raws: Sequence[bytes],
    words: np.ndarray,
    shown: np.ndarray,
    occurrences: np.ndarray,
    *,
    n: int = WORDS,
    least: int,
    common: int,
    seed: int = 0,
) -> Tensor:
    """Token ids of `n` words drawn by seed: the token that shows a word of at least MIN_WORD letters, begins
    with a space, and occurs `least` times, without the `common` commonest words of the text. All of them
    where there are fewer.
    """
    counts = np.bincount(words, occurrences, len(words))
    order = np.argsort(-counts, kind="stable")
    allowed = counts >= least
    allowed[order[:common]] = False
    tokens = np.unique(shown[np.unique(words[allowed[words]])])
    content = [token for token in tokens.tolist() if _is_word(raws[token])]
    drawn = np.random.default_rng(seed).permutation(len(content))[:n]
    return torch.tensor(sorted(content[at] for at in drawn), dtype=torch.long)


def _is_word(raw: bytes) -> bool:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return False
    return text.startswith(" ") and len(text) > MIN_WORD and text[1:].isalpha()


def parameters(request: WriteRequest) -> dict[str, Any]:
    """How the steering was done, for JSON."""
    return {
        "kl": KL,
        "prefixes": len(request.ground.prefixes),
        "prefix_length": PREFIX_LENGTH,
        "controls": CONTROLS,
        "features": min(request.features, int(request.live.sum())),
        "words": len(request.words),
        "lens": "logit" if request.lens is None else "jacobian",
        "seed": request.seed,
    }
