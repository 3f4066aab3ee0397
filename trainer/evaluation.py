"""Held-out evaluation (docs/method.md#definitions): one streaming pass over passages gives `metrics.json` for
every dictionary.

What needs only the code (reconstruction, firing, alignment, evidence, coverage) is counted over all passages;
what needs the model run again with x̂ in place (cross-entropy, KL, logit lens) over the first `ce_tokens`
tokens of them.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope import evidence, metrics
from lexiscope.anchors import ALIGNED, nearest_embedding, nearest_tokens
from lexiscope.checkpoint import METRICS, AnchorFit, write_json, write_tensors
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError, LexiscopeError, TextError
from lexiscope.language_model import LanguageModel, Point, hook_name
from lexiscope.sparse_code import SparseCode
from lexiscope.text import batches
from lexiscope.vocabulary_tables import family_table, word_table
from trainer.activations.harvest import points

EVIDENCE = "evidence.safetensors"
BATCH_LOGITS = 50_000_000
"""Logits of a batch at most, which bounds its tokens where the vocabulary is large."""
HEAD = 50_000
"""Tokens after which names are permuted among the features that have fired."""


class Candidate(NamedTuple):
    """A dictionary to evaluate."""

    layer: int
    dictionary: Dictionary
    fit: AnchorFit
    seed: int
    transcoder: bool = False
    """it reads the MLP's input and reconstructs its output, instead of the residual stream after the block"""

    @property
    def reads(self) -> Point:
        return points(self.layer, transcoder=self.transcoder)[0]

    @property
    def writes(self) -> Point:
        return points(self.layer, transcoder=self.transcoder)[1]


class Measured(NamedTuple):
    """What evaluation says of one candidate."""

    metrics: dict[str, Any]
    """`metrics.json`"""
    features: dict[str, Tensor]
    """`evidence.safetensors`, each [d_sae]: names, cosines, firings, live, supported, q_reads, q_predicts"""

    def save(self, folder: Path) -> None:
        """Write both files into a checkpoint's folder."""
        write_json(folder / METRICS, self.metrics)
        write_tensors(
            folder / EVIDENCE, {name: tensor.contiguous().cpu() for name, tensor in self.features.items()}
        )


class _Naming:
    """Evidence for one way of naming a dictionary's features; a name of −1 is none, and such a feature is not
    supported.
    """

    def __init__(self, names: Tensor, tables: evidence.NameTables) -> None:
        self.names = names
        self.counts = evidence.EvidenceCounts(names.clamp_min(0), tables)

    def result(self, live: Tensor) -> evidence.Evidence:
        return self.counts.result(live & (self.names >= 0))

    def figures(self, live: Tensor) -> dict[str, float]:
        """The named_… block of metrics.json: shares of live features, or of their firings."""
        found = self.result(live)
        named = live & (self.names >= 0)
        weight = found.firings * live
        kept = self.names[found.supported]
        return {
            "supported_live": metrics.weighted_share(found.supported, live),
            "supported_firing": metrics.weighted_share(found.supported, weight),
            "reads_precision": metrics.weighted_share(found.share["reads_here"] * named, weight),
            "reads_family": metrics.weighted_share(found.share["reads_family"] * named, weight),
            "predicts_precision": metrics.weighted_share(found.share["predicts"] * named, weight),
            "coverage_supported": metrics.coverage(
                kept, torch.ones_like(kept, dtype=torch.bool), self.counts.occurrences.to(kept.device)
            ),
        }


class _Permuted:
    """What the support test says of wrong names: names permuted among the features that fire in the first
    HEAD tokens.

    Permuted among all features, the live ones would be given names of tokens that never occur, which is too
    easy a null.
    """

    def __init__(self, names: Tensor, tables: evidence.NameTables) -> None:
        self.names, self.tables = names, tables
        self.head: list[tuple[SparseCode, evidence.FlatText]] = []
        self.firing = metrics.FiringSums(len(names), names.device)
        self.counts: evidence.EvidenceCounts | None = None

    def add(self, code: SparseCode, text: evidence.FlatText) -> None:
        if self.counts is not None:
            self.counts.add(code, text)
            return
        self.head.append((code, text))
        self.firing.add(code)
        if self.firing.n >= HEAD:
            self._permute()

    def _permute(self) -> evidence.EvidenceCounts:
        fired = self.firing.firings.nonzero().squeeze(1)
        order = torch.randperm(len(fired), generator=torch.Generator().manual_seed(0)).to(fired.device)
        names = self.names.clone()
        names[fired] = self.names[fired[order]]
        self.counts = evidence.EvidenceCounts(names, self.tables)
        for code, text in self.head:
            self.counts.add(code, text)
        self.head = []
        return self.counts

    def supported(self, live: Tensor) -> tuple[float, float]:
        """Share of the permuted live features called supported: by feature, by firing."""
        counts = self.counts or self._permute()
        tested = live & (self.firing.firings > 0)
        found = counts.result(tested)
        return metrics.weighted_share(found.supported, tested), metrics.weighted_share(
            found.supported, found.firings * tested
        )


class _Sums:
    """Everything streamed for one candidate."""

    def __init__(self, candidate: Candidate, model: LanguageModel, families: Tensor, *, rivals: bool) -> None:
        self.candidate = candidate
        dictionary, fit, device = candidate.dictionary, candidate.fit, model.device
        nearest = nearest_tokens(dictionary.directions, fit.anchors, 1)
        self.cosines = nearest.cosines[:, 0]
        tables = evidence.NameTables(families, evidence.matched_controls(fit.counts))
        names = {"nearest": nearest.tokens[:, 0]} | (rival_names(candidate, model) if rivals else {})
        self.namings = {kind: _Naming(tokens, tables) for kind, tokens in names.items()}
        self.permuted = _Permuted(names["nearest"], tables)
        self.sample = evidence.FiringSample(dictionary.d_sae)
        self.reconstruction = metrics.ReconstructionSums(dictionary.d_out, device)
        self.firing = metrics.FiringSums(dictionary.d_sae, device)
        self.passage_delta_ce: dict[int, tuple[float, int]] = {}
        """{passage: (Σ CE(with x̂) − CE, next tokens scored)}"""
        self.ce = self.kl = self.agree = 0.0

    def add_code(self, activations: dict[Point, Tensor], text: "_Text") -> Tensor:
        """Count one batch's n positions; returns the reconstruction [n, d_out]."""
        dictionary, tokens = self.candidate.dictionary, text.tokens[text.mask]
        x, target = (activations[point][text.mask] for point in (self.candidate.reads, self.candidate.writes))
        code = dictionary.encode(x, tokens)
        output = self.reconstruction.add(target, dictionary.parts(code, x, tokens), code)
        self.firing.add(code)
        for naming in self.namings.values():
            naming.counts.add(code, text.flat)
        self.permuted.add(code, text.flat)
        fired = evidence.flat_firings([code])
        self.sample.add(fired.feature, text.half[fired.at], text.code[fired.at])
        return output

    def add_patched(
        self,
        model: LanguageModel,
        text: "_Text",
        x_hat: Tensor,
        residual: Tensor,
        default: "_Default",
        *,
        fast: bool,
    ) -> None:
        """Run the model on from x̂ and compare with what it does by default; `residual` is what x̂ replaces."""
        patched = residual.clone()
        patched[text.mask] = x_hat
        self.agree += int(
            (model.unembed_residual(x_hat).argmax(-1) == default.lens[self.candidate.writes]).sum()
        )
        logits = model.logits_from(text.tokens, self.candidate.writes, patched, fast=fast)[text.scored]
        ce = metrics.cross_entropy(logits, text.following[text.scored])
        self.ce += ce.sum(dtype=torch.float64).item()
        self.kl += metrics.kl(default.logits, logits).sum(dtype=torch.float64).item()
        row = text.scored.nonzero()[:, 0]
        difference = torch.bincount(row, (ce - default.ce).double(), len(text.tokens)).tolist()
        counts = torch.bincount(row, minlength=len(text.tokens)).tolist()
        self.passage_delta_ce |= {
            p: (d, c) for p, d, c in zip(text.passages, difference, counts, strict=True)
        }


class _Text(NamedTuple):
    """A batch on the model's device, all [batch, positions]."""

    passages: list[int]
    """index of each row's passage"""
    tokens: Tensor
    mask: Tensor
    """which positions are real and not position 0"""
    following: Tensor
    scored: Tensor
    """which of those have a next token"""
    flat: evidence.FlatText
    """the same positions, for counting name evidence"""
    halves: np.ndarray
    """[batch] the half of each passage"""
    code: np.ndarray
    """[n] of the positions, for samples of firings"""

    @property
    def half(self) -> np.ndarray:
        """[n] of the positions"""
        return self.halves[self.flat.row]


class _Default(NamedTuple):
    """What the unpatched model says of a batch."""

    logits: Tensor
    """[scored, vocab]"""
    ce: Tensor
    """[scored]"""
    lens: dict[Point, Tensor]
    """{layer: [masked] the token each residual reads out as}"""


class _Baseline:
    """Cross-entropy of the model itself, and with what each layer's dictionaries replace ablated to zero or
    to its mean.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.n = 0
        self.ce = 0.0
        self.fast = not any(candidate.transcoder for candidate in candidates)
        """one precision holds for all that is compared; an MLP is patched in the model's own"""
        self.fills: list[tuple[Point, Tensor]] = []
        """(layer, [d_out] what every position is replaced by), each once"""
        self.ablated: list[float] = []
        for candidate in candidates:
            for fill in (torch.zeros_like(candidate.fit.mean), candidate.fit.mean):
                if self._find(candidate.writes, fill) is None:
                    self.fills.append((candidate.writes, fill))
                    self.ablated.append(0.0)

    def _find(self, layer: Point, fill: Tensor) -> int | None:
        return next(
            (i for i, (at, known) in enumerate(self.fills) if at == layer and torch.equal(known, fill)), None
        )

    def ablated_to(self, layer: Point, fill: Tensor) -> float:
        """Cross-entropy in nats a token with the activations at `layer` replaced by `fill`."""
        found = self._find(layer, fill)
        assert found is not None
        return self.ablated[found] / self.n

    def add(
        self, model: LanguageModel, text: _Text, residuals: dict[Point, Tensor], logits: Tensor
    ) -> _Default:
        following = text.following[text.scored]
        default = logits[text.scored]
        ce = metrics.cross_entropy(default, following)
        self.n += len(ce)
        self.ce += ce.sum(dtype=torch.float64).item()
        for index, (layer, fill) in enumerate(self.fills):
            patched = torch.where(text.mask[..., None], fill, residuals[layer])
            ablated = model.logits_from(text.tokens, layer, patched, fast=self.fast)[text.scored]
            self.ablated[index] += metrics.cross_entropy(ablated, following).sum(dtype=torch.float64).item()
        lens = {
            layer: model.unembed_residual(residuals[layer][text.mask]).argmax(-1)
            for layer in {layer for layer, _ in self.fills}
        }
        return _Default(default, ce, lens)


def rival_names(candidate: Candidate, model: LanguageModel) -> dict[str, Tensor]:
    """Other ways to name the same features, {kind: [d_sae] token ids, −1 for none}: `assigned` where rows
    were held near a token, `lift` where the fit has the tokens of highest lift on the training text, `lens`
    (the top logit-lens token).
    """
    fit, directions = candidate.fit, candidate.dictionary.directions
    found = {"assigned": fit.assigned} if (fit.assigned >= 0).any() else {}
    if fit.lift is not None:
        found["lift"] = fit.lift
    return found | {"lens": model.logit_columns().largest(directions, 1).indices[:, 0]}


@torch.inference_mode()
def measure(
    model: LanguageModel,
    candidates: Sequence[Candidate],
    passages: Sequence[np.ndarray],
    *,
    ce_tokens: int | None = None,
    rivals: bool = True,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Measured]:
    """Evaluate each candidate on held-out passages [BOS, …], in order. Position 0 is neither encoded nor
    patched.

    The model is read once a batch for all candidates; zero and mean ablation are patched once a layer and
    mean. Whole passages are scored until `ce_tokens` tokens are (all unless given). `advance` is told of
    tokens done. Raises CheckpointError for a dictionary that does not fit the model, ModelError for a layer
    it lacks, TextError without passages, LexiscopeError for `ce_tokens` below 1.
    """
    check_candidates(model, candidates)
    if not passages:
        raise TextError("There is no held-out passage to evaluate on.")
    if ce_tokens is not None and ce_tokens < 1:
        raise LexiscopeError(f"Cross-entropy over {ce_tokens} tokens means nothing; ask for at least 1.")
    candidates = [_on_device(candidate, model.device) for candidate in candidates]
    families, words = family_table(model).to(model.device), word_table(model)
    relations = evidence.RelationCounts(model.vocab_size)
    sums = [_Sums(candidate, model, families, rivals=rivals) for candidate in candidates]
    layers = sorted({point for c in candidates for point in (c.reads, c.writes)}, key=hook_name)
    baseline = _Baseline(candidates)
    n_scored = _passages_of(passages, ce_tokens)
    size = max(256, min(2048, BATCH_LOGITS // model.vocab_size))
    for text in _texts(passages[:n_scored], size, model.device):
        relations.add(text.flat, text.halves, words)
        residuals, logits = model.read_with_logits(text.tokens, layers, fast=baseline.fast)
        default = baseline.add(model, text, residuals, logits)
        for s in sums:
            x_hat, replaced = s.add_code(residuals, text), residuals[s.candidate.writes]
            s.add_patched(model, text, x_hat, replaced, default, fast=baseline.fast)
        advance(int(text.mask.sum()))
    scored_tokens = sums[0].reconstruction.n
    for text in _texts(passages[n_scored:], size, model.device, first=n_scored):
        relations.add(text.flat, text.halves, words)
        residuals = model.read(text.tokens, layers, fast=baseline.fast)
        for s in sums:
            s.add_code(residuals, text)
        advance(int(text.mask.sum()))
    shared = {"ce_tokens": scored_tokens, "passages": passages_fingerprint(passages[:n_scored])}
    read = evidence.SampledText(evidence.PassageWords(dict(enumerate(passages)), words), relations)
    return [_measured(s, model, baseline, read, shared) for s in sums]


def check_candidates(model: LanguageModel, candidates: Sequence[Candidate]) -> None:
    """Raises before any time is spent: CheckpointError for another model's dictionary, ModelError for a layer
    the model lacks.
    """
    model.check_layers([candidate.layer for candidate in candidates])
    model.check_mlps([candidate.layer for candidate in candidates if candidate.transcoder])
    for _, dictionary, fit, *_ in candidates:
        for width in (dictionary.d_in, dictionary.d_out):
            if width != model.d_model:
                raise CheckpointError(
                    f"A dictionary of width {width} does not fit {model.id}, whose width is {model.d_model}."
                )
        if len(fit.anchors) != model.vocab_size:
            raise CheckpointError(
                f"Anchors for {len(fit.anchors):,} tokens do not fit {model.id}, which has "
                f"{model.vocab_size:,}."
            )
        dictionary.check_vocabulary(model.vocab_size, what="A dictionary")


def passages_fingerprint(passages: Sequence[np.ndarray]) -> str:
    """A short id of token ids: only runs scored on the same passages can be paired."""
    digest = sha256()
    for passage in passages:
        digest.update(np.asarray(passage, dtype=np.int32).tobytes() + b"|")
    return digest.hexdigest()[:12]


def _passages_of(passages: Sequence[np.ndarray], tokens: int | None) -> int:
    """How many of the first passages hold `tokens` tokens, position 0 not counted."""
    if tokens is None:
        return len(passages)
    ends = np.cumsum([len(passage) - 1 for passage in passages])
    return min(int(np.searchsorted(ends, tokens)) + 1, len(passages))


def _texts(
    passages: Sequence[np.ndarray], size: int, device: torch.device, *, first: int = 0
) -> Iterator[_Text]:
    """`first`: number of the first passage."""
    for batch in batches(passages, tokens=size):
        mask, following = batch.mask, batch.next_tokens
        tokens, scored = batch.tokens.to(device), mask & (following >= 0)
        flat = evidence.FlatText(batch.rows)
        code = evidence.place_codes(first + np.array(batch.passages)[flat.row], flat.position)
        on_device = (tokens, mask.to(device), following.to(device), scored.to(device))
        yield _Text(batch.passages, *on_device, flat, evidence.halves_of(flat), code)


def _on_device(candidate: Candidate, device: torch.device) -> Candidate:
    moved: dict[str, Any] = {
        name: value.to(device) for name, value in candidate.fit._asdict().items() if isinstance(value, Tensor)
    }
    dictionary = candidate.dictionary.map(lambda tensor: tensor.to(device)).fast()
    return candidate._replace(dictionary=dictionary, fit=candidate.fit._replace(**moved))


def _measured(
    s: _Sums,
    model: LanguageModel,
    baseline: _Baseline,
    read: evidence.SampledText,
    shared: dict[str, Any],
) -> Measured:
    dictionary, fit = s.candidate.dictionary, s.candidate.fit
    live, firings = s.firing.live, s.firing.firings
    naming = s.namings["nearest"]
    names, found = naming.names, naming.result(live)
    energy = s.firing.squares * dictionary.W_dec.square().sum(-1)
    aligned = metrics.alignment(s.cosines, live, firings, energy)
    embedding = nearest_embedding(dictionary.directions[live], model.embedding)
    occurrences = naming.counts.occurrences.to(names.device)
    weight = firings * live
    seen = fit.counts / fit.counts.sum() >= metrics.LIVE_RATE
    own = torch.where(fit.assigned >= 0, fit.assigned, names)
    permuted_live, permuted_firing = s.permuted.supported(live)
    figures: dict[str, Any] = {
        "protocol": "held-out passages; position 0 neither encoded nor patched"
        + ("; the MLP's output is reconstructed from its input and replaced" * s.candidate.transcoder),
        "tokens": s.reconstruction.n,
        **shared,
        "seed": s.candidate.seed,
        "l0": s.reconstruction.l0,
        "fve": s.reconstruction.fve,
        "nmse": s.reconstruction.nmse,
        **_cross_entropy(s, baseline, shared["ce_tokens"]),
        "d_sae": dictionary.d_sae,
        "n_live": int(live.sum()),
        "dead_share": 1 - live.double().mean().item(),
        "vocab_seen": seen.double().mean().item(),
        "dead_share_seen": metrics.weighted_share(~live, seen[own]),
        "dense_share": s.reconstruction.dense_share,
        "lookup_share": s.reconstruction.lookup_share,
        "aligned_all": aligned.all,
        "aligned_live": aligned.live,
        "aligned_firing": aligned.firing,
        "aligned_energy": aligned.energy,
        "aligned_live_embedding": (embedding >= ALIGNED).double().mean().item() if len(embedding) else 0.0,
        "coverage": metrics.coverage(names, live & (s.cosines >= ALIGNED), occurrences),
        "name_is_assigned": metrics.weighted_share(names == fit.assigned, (fit.assigned >= 0) & live),
        "reads_precision": metrics.weighted_share(found.share["reads_here"], weight),
        "reads_null": metrics.weighted_share(found.null["reads_here"], weight),
        "reads_family": metrics.weighted_share(found.share["reads_family"], weight),
        "reads_family_null": metrics.weighted_share(found.null["reads_family"], weight),
        "predicts_precision": metrics.weighted_share(found.share["predicts"], weight),
        "predicts_null": metrics.weighted_share(found.null["predicts"], weight),
        **evidence.relation_evidence(s.sample, read, live.cpu().numpy()).shares(
            live.cpu().numpy(), firings.cpu().numpy()
        ),
        "supported_live": metrics.weighted_share(found.supported, live),
        "supported_firing": metrics.weighted_share(found.supported, weight),
        "supported_permuted": permuted_live,
        "supported_permuted_firing": permuted_firing,
        **{f"named_{kind}": other.figures(live) for kind, other in s.namings.items()},
        "passage_delta_ce": [list(s.passage_delta_ce[p]) for p in sorted(s.passage_delta_ce)],
    }
    features = {
        "names": names,
        "cosines": s.cosines,
        "firings": firings,
        "live": live,
        "supported": found.supported,
        "q_reads": found.q_reads,
        "q_predicts": found.q_predicts,
    }
    return Measured(figures, features)


def _cross_entropy(s: _Sums, baseline: _Baseline, tokens: int) -> dict[str, Any]:
    """The figures that the patched model gives, in nats a next token."""
    layer, mean, n = s.candidate.writes, s.candidate.fit.mean, baseline.n
    ce, ce_sae = baseline.ce / n, s.ce / n
    differences = torch.tensor(list(s.passage_delta_ce.values()), dtype=torch.float64)
    return {
        "ce": ce,
        "ce_sae": ce_sae,
        "delta_ce": ce_sae - ce,
        "delta_ce_ci": list(metrics.bootstrap_mean(differences[:, 0], differences[:, 1])),
        "kl": s.kl / n,
        "ce_recovered_zero": metrics.ce_recovered(
            ce, ce_sae, baseline.ablated_to(layer, torch.zeros_like(mean))
        ),
        "ce_recovered_mean": metrics.ce_recovered(ce, ce_sae, baseline.ablated_to(layer, mean)),
        "logit_lens_agreement": s.agree / tokens,
    }
