"""A loaded language model: token ids in, residual streams and logits out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from hashlib import sha256
from typing import Any, Generic, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.errors import ModelError
from lexiscope.language_model.jacobian import fit_jacobians, pulled_back
from lexiscope.language_model.patching import (
    MlpPoint,
    P,
    Patch,
    Point,
    block_of,
    captured,
    hook_name,
    patched,
    unembed_from,
)
from lexiscope.language_model.readout import measure_readout
from lexiscope.language_model.resume import ReadPassages, ResumedPasses
from lexiscope.language_model.tokenizer import ModelTokenizer
from lexiscope.largest import Columns, Largest
from lexiscope.precision import fast_dtype
from lexiscope.tokens import Vocabulary

__all__ = [
    "GeneratedTokens",
    "LanguageModel",
    "LogitsAndCache",
    "ReadPassages",
    "StreamsAndLogits",
    "hook_name",
]


LARGEST = 16
"""Changes of logits of one position that are computed exactly, where the others are not."""


class StreamsAndLogits(NamedTuple, Generic[P]):
    """What one unpatched forward pass computed."""

    residuals: dict[P, Tensor]
    """{layer: [batch, positions, d_model]}"""
    logits: Tensor
    """[batch, positions, vocab]"""


class GeneratedTokens(NamedTuple):
    """One generated token a row."""

    tokens: Tensor
    """[batch] token ids drawn"""
    logits: Tensor
    """[batch, vocab] they were drawn from, before temperature"""


class LogitsAndCache(NamedTuple):
    """What one forward pass on a key-value cache computed."""

    logits: Tensor
    """[batch, positions, vocab]"""
    cache: Any
    """transformers' cache, with this pass's positions"""


class LanguageModel:
    """A decoder-only transformer with its tokenizer.

    `embedding` is raw W_E [vocab, d_model]. `bos` opens every passage and stands at position 0, which is
    never encoded. The residual stream of layer L is the one after block L. `identity` is of the weights and
    the vocabulary (`lexiscope.language_model.identity`).
    """

    def __init__(self, bridge: Any, tokenizer: Any, path: str, model_id: str, identity: str) -> None:
        self._bridge = bridge
        self.path = path
        self.id = model_id
        self.identity = identity
        config = bridge.cfg
        self.n_layers: int = config.n_layers
        self.d_model: int = config.d_model
        self.context_length: int = config.n_ctx
        self.embedding: Tensor = bridge.W_E.detach().float()
        self.vocab_size: int = self.embedding.shape[0]
        self._text = ModelTokenizer(tokenizer, self.vocab_size, path)
        self.tokenizer = tokenizer
        self.bos = self._text.bos
        self.end_tokens = _end_tokens(bridge, tokenizer)
        self.kept: dict[str, Any] = {}
        """what other modules keep as long as the model is loaded"""
        try:
            self._readout = measure_readout(bridge, self.bos)
        except ModelError as error:
            raise ModelError(
                f"{path} is not supported: the effect of its residual stream on the logits cannot be"
                f" determined, because {error}."
            ) from error
        self._resumed = ResumedPasses(bridge, bos=self.bos, device=self.device, vocab_size=self.vocab_size)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def n_bytes(self) -> int:
        """Memory that the weights take."""
        return sum(weights.nbytes for weights in self._bridge.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """A short id of the weights: the sums of their bits, exact on any device."""
        digest = sha256()
        for name, weights in self._bridge.named_parameters():
            total = weights.view(torch.int32).sum(dtype=torch.int64).item()
            digest.update(f"{name} {tuple(weights.shape)} {total}".encode())
        return digest.hexdigest()[:12]

    # --- tokens ---

    def tokenise(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS. Special tokens spelled out in the text are read as characters."""
        return self._text.encode(text)

    def tokenise_chat(self, conversation: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, without BOS: [{role, content}, …] or, as a string, the user's message,
        by the model's chat template; a string that spells out special tokens is read as those tokens.

        Unless the last message is the assistant's, up to where its reply begins. Raises ModelError: the model
        has no template, or the template refuses the messages.
        """
        return self._text.encode_chat(conversation)

    def special_tokens_in(self, text: str) -> list[str]:
        """The special tokens that are spelled out in a text, each once."""
        return self._text.special_tokens_in(text)

    def count_unknown(self, tokens: Sequence[int]) -> int:
        """How many of the tokens of a text stand for what the tokenizer does not know."""
        return tokens.count(self._text.unknown)

    def text(self, tokens: Sequence[int]) -> str:
        """The text that `tokens` decode to."""
        return self._text.decode(tokens)

    @property
    def vocabulary(self) -> Vocabulary:
        """Bytes and shown form of each token."""
        return self._text.vocabulary

    # --- reading and patching ---

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raises ModelError for a layer that the model does not have."""
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong:
            raise ModelError(f"{self.id} has layers 0 to {self.n_layers - 1}; there is no layer {wrong[0]}.")

    @torch.inference_mode()
    def check_mlps(self, layers: Sequence[int]) -> None:
        """Raises ModelError for a layer whose MLP's input and output cannot be read, or whose output cannot
        be replaced.
        """
        self.check_layers(layers)
        tokens = torch.arange(4, device=self.device)[None]
        for layer in layers:
            points = [MlpPoint(layer, "in"), MlpPoint(layer, "out")]
            try:
                found, before = self.read_with_logits(tokens, points)
                after = self.logits(tokens, {points[1]: torch.zeros_like})
                shapes = {tuple(found[point].shape) for point in points}
            except (KeyError, ValueError, AttributeError):  # no such hook, or it holds no tensor
                shapes = set()
            if shapes != {(1, 4, self.d_model)} or torch.equal(before, after):
                raise ModelError(
                    f"{self.id} has no MLP at layer {layer} whose input and output transformer-lens can read:"
                    " no transcoder can be trained there."
                )

    @torch.inference_mode()
    def read(self, tokens: Tensor, layers: Sequence[P], *, fast: bool = False) -> dict[P, Tensor]:
        """{layer: residual stream [batch, positions, d_model]}, in one pass that stops at the last layer; or
        the same of other points.

        `fast` multiplies in bf16 where that is faster (`lexiscope.precision`): 1.8 times with AVX-512 BF16 on
        AMD, with activations at a mean cosine of 0.9999 to those in float32.
        """
        self.check_layers([block_of(point) for point in layers])
        with captured(self._bridge, layers) as streams, self._precision(fast):
            self._bridge(tokens, return_type=None, stop_at_layer=max(map(block_of, layers)) + 1)
        return streams

    def _rounds(self, fast: bool) -> bool:
        return fast and fast_dtype(self.device) is torch.bfloat16

    def _precision(self, fast: bool) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._rounds(fast))

    @torch.inference_mode()
    def read_with_logits(
        self, tokens: Tensor, layers: Sequence[P], *, fast: bool = False
    ) -> StreamsAndLogits[P]:
        """As `read`, in a pass that goes on to the logits. Only the blocks are `fast`: eight bits are too few
        for logits.
        """
        self.check_layers([block_of(point) for point in layers])
        if self._rounds(fast):
            last: Any = self.n_layers - 1
            residuals = self.read(tokens, list(dict.fromkeys([*layers, last])), fast=True)
            logits = self.unembed_residual(residuals[last].float())
            return StreamsAndLogits({layer: residuals[layer] for layer in layers}, logits)
        with captured(self._bridge, layers) as streams:
            logits = self._bridge(tokens, return_type="logits")
        return StreamsAndLogits(streams, logits)

    @torch.inference_mode()
    def logits(self, tokens: Tensor, patches: Mapping[P, Patch] | None = None, *, first: int = 0) -> Tensor:
        """Logits [batch, positions, vocab] of the positions from `first` on, with the residual stream patched
        at the layers of `patches`, or other points.
        """
        with patched(self._bridge, patches or {}), unembed_from(self._bridge, first):
            return self._bridge(tokens, return_type="logits")

    def differentiable_logits(self, tokens: Tensor, patches: Mapping[P, Patch]) -> Tensor:
        """As `logits`, as part of an autograd graph: gradients flow into what the patches return; the weights
        are constants.
        """
        with torch.enable_grad(), patched(self._bridge, patches):
            logits: Tensor = self._bridge(tokens, return_type="logits")
        return logits

    @torch.inference_mode()
    def advance(
        self,
        tokens: Tensor,
        *,
        cache: Any = None,
        mask: Tensor | None = None,
        patches: Mapping[int, Patch] | None = None,
    ) -> LogitsAndCache:
        """Logits of `tokens` [batch, positions] that follow the positions in `cache`.

        `mask` [batch, cached + positions] is 0 on the padding to the left of a row; such a row counts its
        positions from its own first token. Without a mask there is no padding.
        """
        options: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        if mask is not None:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
            options |= {"attention_mask": mask, "position_ids": positions}
        with patched(self._bridge, patches or {}):
            return LogitsAndCache(*self._bridge(tokens, return_type="logits_and_cache", **options))

    @torch.inference_mode()
    def logits_from(self, tokens: Tensor, layer: Point, residual: Tensor, *, fast: bool = False) -> Tensor:
        """Logits [batch, positions, vocab] with the residual stream after block `layer`, or another point,
        replaced by `residual` [batch, positions, d_model]: what a patch gives, without the blocks up to
        `layer` where the architecture allows it. `fast` as in `read_with_logits`.
        """
        if isinstance(layer, MlpPoint):
            return self.logits(tokens, {layer: lambda _: residual})
        if not self._rounds(fast):
            return self._resumed.logits(tokens, layer, residual)
        if layer == self.n_layers - 1:
            return self.unembed_residual(residual.float())
        with self._precision(fast):
            last = self._resumed.last_residual(tokens, layer, residual)
        return self.unembed_residual(last.float())

    @torch.inference_mode()
    def read_passages(self, tokens: Tensor, layers: Sequence[int], *, fast: bool = False) -> ReadPassages:
        """One pass over passages, tokens [batch, n], that `changed` goes on from: it keeps the streams of
        `layers`, keys and values. `fast` as in `read`.
        """
        self.check_layers(layers)
        with self._precision(fast):
            return self._resumed.read(tokens, layers)

    @torch.inference_mode()
    def changed(
        self, read: ReadPassages, layer: int, positions: Tensor, residuals: Tensor, *, fast: bool = False
    ) -> Tensor:
        """[batch, m, d_model] the residual stream after the last block at each of `positions` [batch, m],
        when the one after block `layer` is residuals [batch, m, d_model] at that position alone. A thousand
        positions a call are best. `fast` as in `read`.
        """
        with self._precision(fast):
            return self._resumed.changed(read, layer, positions, residuals)

    # --- directions ---

    @torch.inference_mode()
    def embedding_directions(self, tokens: Tensor) -> Tensor:
        """[n, d_e] of norm 1: raw token embeddings of tokens [n], less the mean of the whole vocabulary's."""
        return F.normalize(self.embedding[tokens.to(self.device)] - self._mean_embedding, dim=-1)

    @cached_property
    def _mean_embedding(self) -> Tensor:
        return self.embedding.mean(0)

    @torch.inference_mode()
    def unembed_residual(self, residual: Tensor) -> Tensor:
        """Logits [..., vocab] of a residual stream [..., d_model] as if it came out of the last block (the
        logit lens).
        """
        return self._readout.logits(residual)

    @torch.inference_mode()
    def logit_changes(
        self, before: Tensor, after: Tensor, *, fast: bool = False, exact: Tensor | None = None
    ) -> Tensor:
        """[n, vocab] in float32: how much greater the logits of streams `after` [n, d_model] are than those
        of `before` [n or 1, d_model], both after the last block.

        `fast` multiplies their difference in bf16 where that is faster, which leaves each change eight binary
        digits and many tokens the same one. Those of tokens `exact` [n, q], and the LARGEST of a row, are
        then computed again in float32.
        """
        if not (fast and fast_dtype(self.device) is torch.bfloat16):
            return self._readout.changes(before, after)
        changes = self._readout.changes(before, after, self._unembedding_in_bf16)
        if exact is not None:
            again = torch.cat([exact, changes.topk(min(LARGEST, changes.shape[1]), dim=1).indices], 1)
            exactly = self._readout.logits_of(after, again) - self._readout.logits_of(before, again)
            changes.scatter_(1, again, exactly)
        return changes

    @cached_property
    def _unembedding_in_bf16(self) -> Tensor:
        return self._readout.unembed.W_U.to(torch.bfloat16)

    @torch.inference_mode()
    def read_out(self, directions: Tensor) -> Tensor:
        """Logit effect [n, vocab] of unit directions [n, d_model] where the final norm divides by 1; centred
        over the vocabulary (a shift changes no probability).
        """
        effect = self._readout.effect(directions.float())
        return effect - effect.mean(-1, keepdim=True)

    def jacobians(
        self,
        prompts: Sequence[Tensor],
        layers: Sequence[int],
        *,
        fast: bool = False,
        advance: Callable[[int], None] = lambda n: None,
    ) -> dict[int, Tensor]:
        """The Jacobian lens of some layers (`lexiscope.language_model.jacobian`): what directions write is
        `written(directions @ J.T, k)`. `fast` as in `read`. Raises ModelError for a layer the model lacks,
        TextError for prompts that are all too short.
        """
        self.check_layers(layers)
        with self._precision(fast):
            return fit_jacobians(self._bridge, prompts, layers, advance=advance)

    def pulled_back(self, prompts: Sequence[Tensor], layer: int, directions: Tensor) -> Tensor:
        """[n, d_model] directions [n, d_model] read at a layer, as directions of the token embeddings
        (`lexiscope.language_model.jacobian`). Raises as `jacobians`.
        """
        self.check_layers([layer])
        return pulled_back(self._bridge, prompts, layer, directions)

    @torch.inference_mode()
    def unembedding(self) -> Tensor:
        """Rows [vocab, d_model] whose product with a direction is its logit effect, not centred."""
        return self._readout.rows()

    @torch.inference_mode()
    def logit_columns(self) -> Columns:
        """Their products with directions [n, d_model] are the logit effects (`read_out`) of these, where only
        the largest are wanted.
        """
        rows = self._readout.rows()
        return Columns(rows - rows.mean(0))

    @torch.inference_mode()
    def written(self, carried: Tensor, k: int) -> Largest:
        """The k tokens whose logits are highest where a direction, carried [n, d_model] to the last layer,
        is all of the stream: through the final norm as it is, with its bias. Their logits are centred over
        the vocabulary, and scaled to a direction of norm 1 (after the norm's own centring).
        """
        rows, norm = self._readout.rows(), self._readout.norm
        columns, offset = rows - rows.mean(0), torch.zeros(self.vocab_size, device=self.device)
        if norm is not None:
            offset = self._readout.offset() / self.d_model**0.5
            carried = carried - carried.mean(-1, keepdim=True) if norm.centres else carried
        columns = torch.cat([columns, (offset - offset.mean())[:, None]], 1)
        unit = torch.nn.functional.normalize(carried.to(self.device).float(), dim=-1)
        return Columns(columns).largest(torch.cat([unit, torch.ones_like(unit[:, :1])], 1), k)

    def unigram_states(self, layer: int, *, batch: int = 2048) -> Tensor:
        """[vocab, d_model] the residual stream on each token alone after BOS."""
        tokens = torch.arange(self.vocab_size, device=self.device)
        rows = torch.stack([torch.full_like(tokens, self.bos), tokens], 1)
        return torch.cat([self.read(part, [layer])[layer][:, 1] for part in rows.split(batch)]).clone()

    # --- generation ---

    @torch.inference_mode()
    def stream(
        self,
        prompt: Tensor,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        patches: Mapping[int, Patch] | None = None,
        shared_noise: bool = True,
    ) -> Iterator[GeneratedTokens]:
        """Draw tokens after `prompt` [batch, positions], one a step and row, by Gumbel noise.

        Rows share the noise of each step, so that rows with equal logits stay equal; with
        `shared_noise=False` each row has its own. `patches` are given the positions of one forward pass: the
        whole prompt first, then one new position a step. Temperature 0 is greedy. No row stops by itself.
        Raises ModelError where the result would overrun the context.
        """
        if prompt.shape[1] + max_tokens > self.context_length:
            raise ModelError(
                f"The prompt is {prompt.shape[1]:,} tokens; with {max_tokens} new ones it passes {self.id}'s"
                f" context of {self.context_length:,}. Shorten the prompt or ask for fewer tokens."
            )
        generator = torch.Generator().manual_seed(seed)
        new, cache = prompt, None
        for _ in range(max_tokens):
            logits, cache = self.advance(new, cache=cache, patches=patches)
            last = logits[:, -1].float()
            noisy = last
            if temperature > 0:
                shape = last.shape[-1:] if shared_noise else last.shape
                uniform = torch.rand(shape, generator=generator).clamp_min(1e-20)
                noisy = last / temperature - (-uniform.log()).log().to(last.device)
            tokens = noisy.argmax(-1)
            yield GeneratedTokens(tokens, last)
            new = tokens[:, None]


def _end_tokens(bridge: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text or a turn: the tokenizer's EOS and those of the generation settings."""
    settings = getattr(bridge.original_model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (tokenizer.eos_token_id, *ends) if token is not None)
