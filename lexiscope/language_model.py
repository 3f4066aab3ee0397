"""The language model: load, tokenise, read and patch a hook point, read a direction out, generate.

The only user of transformer-lens. Token ids go in and tensors come out; text is met only in `tokenise` and
`text`. The hook point of layer L is `blocks.L.hook_resid_post`, the residual stream after block L.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lexiscope.errors import ModelError

Patch = Callable[[Tensor], Tensor]
"""Takes the residual stream [batch, positions, d_model] of a hook point and returns what goes on from there.
"""

RESERVED = frozenset({"search", "tokens", "read", "steer", "compare", "about", "api", "static", "docs"})


def hook_name(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


def model_slug(name: str) -> str:
    """A model's id from a folder, a GGUF file or a hub's `owner/name`: lower-case letters, digits, '-', '_'
    and '.'.
    """
    stem = Path(name).name.removesuffix(".gguf") or Path(name).resolve().name
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.")
    if not slug or slug in RESERVED:
        raise ModelError(
            f"'{slug or name}' cannot be a model id (reserved or empty); give one with --model-id."
        )
    return slug


class Reading(NamedTuple):
    """One unpatched pass."""

    residuals: dict[int, Tensor]
    """{layer: [batch, positions, d_model]}"""
    logits: Tensor
    """[batch, positions, vocab]"""


class Step(NamedTuple):
    """One generated token a row."""

    tokens: Tensor
    """[batch] token ids drawn."""
    logits: Tensor
    """[batch, vocab] they were drawn from, before temperature."""


class Advanced(NamedTuple):
    """One pass that goes on from the key-value cache of the passes before."""

    logits: Tensor
    """[batch, positions, vocab]"""
    cache: Any
    """transformers' cache, this pass included"""


class LanguageModel:
    """A decoder-only transformer with its tokenizer.

    `embedding` is raw W_E [vocab, d_model]; `bos` opens every passage and stands at position 0, which is
    never encoded.
    """

    def __init__(self, bridge: Any, path: str, model_id: str) -> None:
        self._bridge = bridge
        self.path = path
        self.id = model_id
        config = bridge.cfg
        self.n_layers: int = config.n_layers
        self.d_model: int = config.d_model
        self.context_length: int = config.n_ctx
        self.tokenizer = bridge.tokenizer
        self.embedding: Tensor = bridge.W_E.detach().float()
        self.vocab_size: int = self.embedding.shape[0]
        bos = self.tokenizer.bos_token_id
        self.bos: int = bos if bos is not None else self.tokenizer.eos_token_id
        self._appends: dict[tuple[int, int], bool] = {}
        if self.bos is None:
            raise ModelError(
                f"The tokenizer of {path} has neither a BOS nor an EOS token to open a passage with."
            )

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
            digest.update(
                f"{name} {tuple(weights.shape)} {weights.view(torch.int32).sum(dtype=torch.int64).item()}".encode()
            )
        return digest.hexdigest()[:12]

    # --- tokens ---

    def tokenise(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS; special tokens spelled out in the text stay plain text."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    # --- reading and patching ---

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raises ModelError for a layer that the model does not have."""
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong:
            raise ModelError(f"{self.id} has layers 0 to {self.n_layers - 1}; there is no layer {wrong[0]}.")

    @torch.inference_mode()
    def read(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Residual stream after each asked block: {layer: [batch, positions, d_model]}, in one pass that
        stops at the last.
        """
        with self._kept(layers) as got:
            self._bridge(tokens, return_type=None, stop_at_layer=max(layers) + 1)
        return got

    @torch.inference_mode()
    def read_on(self, tokens: Tensor, layers: Sequence[int]) -> Reading:
        """As `read`, but the pass goes on to the logits."""
        with self._kept(layers) as got:
            logits = self._bridge(tokens, return_type="logits")
        return Reading(got, logits)

    @contextmanager
    def _kept(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        self.check_layers(layers)
        got: dict[int, Tensor] = {}

        def keep(layer: int) -> Patch:
            def patch(residual: Tensor) -> Tensor:
                got[layer] = residual
                return residual

            return patch

        with self._patched({layer: keep(layer) for layer in layers}):
            yield got

    @torch.inference_mode()
    def logits(self, tokens: Tensor, patches: Mapping[int, Patch] | None = None, *, first: int = 0) -> Tensor:
        """[batch, positions, vocab], with the residual stream patched at the layers of `patches`; of the
        positions from `first` on.
        """
        with self._patched(patches or {}), self._unembedding_from(first):
            return self._bridge(tokens, return_type="logits")

    @torch.inference_mode()
    def advance(
        self,
        tokens: Tensor,
        *,
        cache: Any = None,
        mask: Tensor | None = None,
        patches: Mapping[int, Patch] | None = None,
    ) -> Advanced:
        """Logits of `tokens` [batch, positions] that follow what `cache` holds.

        `mask` [batch, cached + positions] is 0 on the padding to the left of a row, which then counts its
        positions from its own first token; without a mask there is no padding.
        """
        given: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        if mask is not None:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
            given |= {"attention_mask": mask, "position_ids": positions}
        with self._patched(patches or {}):
            return Advanced(*self._bridge(tokens, return_type="logits_and_cache", **given))

    @torch.inference_mode()
    def logits_from(self, tokens: Tensor, layer: int, residual: Tensor) -> Tensor:
        """[batch, positions, vocab] with the whole residual stream after block `layer` replaced by [batch,
        positions, d_model].

        The same logits as a patch gives; the blocks up to `layer` are not run where the architecture can do
        without them.
        """
        if not self._can_leave_blocks_out:
            return self.logits(tokens, {layer: lambda _: residual})
        return self._resume(tokens, layer, residual)

    def _resume(self, tokens: Tensor, layer: int, residual: Tensor, **given: Tensor) -> Tensor:
        """transformer-lens's own `start_at_layer` still computes the blocks before; here each returns
        `residual` at once.
        """
        left_out = list(self._bridge.blocks)[: layer + 1]
        try:
            for block in left_out:
                vars(block)["forward"] = lambda *args, **kwargs: residual
            return self._bridge(tokens, return_type="logits", **given)
        finally:
            for block in left_out:
                vars(block).pop("forward", None)

    @cached_property
    def _can_leave_blocks_out(self) -> bool:
        """Tried once on a short passage: some architectures' blocks return more than a tensor, or share state
        with later ones.
        """
        tokens = torch.full((2, 3), self.bos, device=self.device)
        layer = self.n_layers // 2
        residual = torch.randn(2, 3, self.d_model, generator=torch.Generator().manual_seed(0)).to(self.device)
        expected = self.logits(tokens, {layer: lambda _: residual})
        try:
            return torch.allclose(self._resume(tokens, layer, residual), expected, rtol=1e-4, atol=1e-4)
        except (
            Exception
        ):  # whatever the architecture's own code raises when it is handed a tensor it did not expect
            return False

    @torch.inference_mode()
    def logits_at(
        self, tokens: Tensor, layer: int, stream: Tensor, positions: Tensor, residuals: Tensor
    ) -> Tensor:
        """[m, vocab] the next-token logits at each of `positions` [m] of one passage, tokens [1, n], were the
        residual stream after block `layer` at that position alone residuals [m, d_model]; `stream` [1, n,
        d_model] is what it is there (`read`).

        The changed positions are appended to the passage, each seeing what stands before its own position and
        itself, so that one costs about one token's way through the remaining blocks; where an architecture
        does not allow that, one costs the passage up to it. A few hundred positions a call are best.
        """
        if layer == self.n_layers - 1:
            return self.unembed_residual(residuals)
        if self._can_append(tokens.shape[1], len(positions), layer):
            return self._appended(tokens, layer, stream, positions, residuals)
        return self._one_by_one(tokens, layer, stream, positions, residuals)

    def _appended(
        self, tokens: Tensor, layer: int, stream: Tensor, positions: Tensor, residuals: Tensor
    ) -> Tensor:
        n, m, device = tokens.shape[1], len(positions), tokens.device
        at = torch.arange(n + m, device=device)
        place = torch.cat([at[:n], positions.to(device)])
        sees = (at[None, :n] < place[:, None]) & (at[None, :n] < n)
        sees = torch.cat([sees, torch.zeros(n + m, m, dtype=torch.bool, device=device)], 1)
        sees.fill_diagonal_(True)
        mask = torch.zeros(sees.shape, device=device).masked_fill_(~sees, torch.finfo(torch.float32).min)
        whole = torch.cat([tokens, tokens.new_full((1, m), self.bos)], 1)
        given = {"attention_mask": mask[None, None], "position_ids": place[None]}
        with self._unembedding_from(n):
            logits: Tensor = self._resume(whole, layer, torch.cat([stream, residuals[None]], 1), **given)
        return logits[0]

    def _one_by_one(
        self, tokens: Tensor, layer: int, stream: Tensor, positions: Tensor, residuals: Tensor
    ) -> Tensor:
        logits = residuals.new_empty(len(positions), self.vocab_size)
        for place in positions.unique().tolist():
            rows = (positions == place).nonzero().squeeze(1)
            for part in rows.split(max(1, 4096 // (place + 1))):
                changed = stream[:, : place + 1].repeat(len(part), 1, 1)
                changed[:, place] = residuals[part]
                prefix = tokens[:, : place + 1].repeat(len(part), 1)
                with self._unembedding_from(place):
                    logits[part] = self.logits_from(prefix, layer, changed)[:, 0]
        return logits

    def _unembedding_from(self, position: int) -> Any:
        """While it lasts, logits are of the positions from `position` on alone."""
        return self._bridge.hooks(fwd_hooks=[("unembed.hook_in", lambda normed, hook: normed[:, position:])])

    def _can_append(self, n: int, m: int, layer: int) -> bool:
        """Tried once for each order of length of a passage and of what is appended to it: an architecture may
        look back only so far.
        """
        n, m = (
            min(1 << (n - 1).bit_length(), self.context_length),
            64 if m <= 64 else 1 << (m - 1).bit_length(),
        )
        if (n, m) not in self._appends:
            self._appends[n, m] = self._can_leave_blocks_out and self._append_agrees(n, m)
        return self._appends[n, m]

    def _append_agrees(self, n: int, m: int) -> bool:
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocab_size, (1, n), generator=draw).to(self.device)
        layer = self.n_layers // 2 - 1
        stream = self.read(tokens, [layer])[layer]
        positions = torch.tensor([n // 3, n // 2, n - 1], device=self.device)
        residuals = stream[0, positions] * 0.5
        expected = self._one_by_one(tokens, layer, stream, positions, residuals)
        turn = torch.arange(max(m, 3), device=self.device) % 3
        try:
            found = self._appended(tokens, layer, stream, positions[turn], residuals[turn])
        except Exception:  # as in `_can_leave_blocks_out`
            return False
        return torch.allclose(found, expected[turn], rtol=1e-4, atol=1e-4)

    @contextmanager
    def _patched(self, patches: Mapping[int, Patch]) -> Iterator[None]:
        """Hooks in, hooks out, also after an error: nothing outlives the request that set it."""
        hooks = [
            (hook_name(layer), lambda residual, hook, patch=patch: patch(residual))
            for layer, patch in patches.items()
        ]
        with self._bridge.hooks(fwd_hooks=hooks):
            yield

    # --- directions ---

    @torch.inference_mode()
    def unembed_residual(self, residual: Tensor) -> Tensor:
        """Logits [..., vocab] of a residual stream [..., d_model] read through the final norm (the logit
        lens).
        """
        return self._bridge.unembed(self._bridge.ln_final(residual))

    @torch.inference_mode()
    def read_out(self, directions: Tensor) -> Tensor:
        """Logit effect [n, vocab] of unit directions [n, d_model] at unit norm scale.

        The final norm's gain is folded into the unembedding; a LayerNorm also removes the direction's mean;
        logits are centred over the vocabulary (a shift changes no probability).
        """
        gain = self._bridge.ln_final.weight.float()
        if (
            getattr(self._bridge.ln_final, "bias", None) is not None
        ):  # LayerNorm; RMSNorm has no bias and no centring
            directions = directions - directions.mean(-1, keepdim=True)
        effect = (directions * gain) @ self._bridge.W_U.float()
        return effect - effect.mean(-1, keepdim=True)

    @torch.inference_mode()
    def unembedding(self) -> Tensor:
        """[vocab, d_model] rows that read each token's logit out of a normalised residual stream, the final
        norm's gain folded in.
        """
        return (self._bridge.W_U.float() * self._bridge.ln_final.weight.float()[:, None]).T.contiguous()

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
    ) -> Iterator[Step]:
        """Draw up to `max_tokens` tokens a row from `prompt` [batch, positions], which includes BOS.

        Every row uses the same random numbers (one Gumbel draw a position, shared over rows), so rows with
        equal logits stay equal; with `shared_noise=False` each row has its own. `patches` see only the
        positions of the current forward pass: the whole prompt first, then one new position at a time.
        Temperature 0 is greedy. Rows do not stop: the caller does. Raises ModelError where the result would
        overrun the context.
        """
        if prompt.shape[1] + max_tokens > self.context_length:
            raise ModelError(
                f"The prompt is {prompt.shape[1]:,} tokens; with {max_tokens} new ones it passes {self.id}'s context of "
                f"{self.context_length:,}. Shorten the prompt or ask for fewer tokens."
            )
        generator = torch.Generator().manual_seed(seed)
        new, cache = prompt, None
        for _ in range(max_tokens):
            logits, cache = self.advance(new, cache=cache, patches=patches)
            last = logits[:, -1].float()
            drawn = last
            if temperature > 0:
                uniform = torch.rand(
                    last.shape[-1:] if shared_noise else last.shape, generator=generator
                ).clamp_min(1e-20)
                drawn = last / temperature - (-uniform.log()).log().to(last.device)
            tokens = drawn.argmax(-1)
            yield Step(tokens, last)
            new = tokens[:, None]


def load_language_model(
    name: str, *, model_id: str | None = None, device: str | None = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a Hugging Face folder, a `.gguf` file, or a hub's name (fetched by transformers), with weights in
    `dtype`.

    Raises ModelError: a folder without configuration, tokenizer or weights, an unreadable file, an unknown
    architecture.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    slug = model_slug(model_id or name)
    path = Path(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    looks_local = path.exists() or name.startswith((".", "/", "~")) or path.suffix == ".gguf"
    if looks_local and not path.exists():
        raise ModelError(f"There is no model at {name}.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{name} is no Hugging Face model folder: it has no config.json.")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise ModelError(f"{name} has no weights: no *.safetensors file lies beside its config.json.")
    try:
        if path.suffix == ".gguf":
            where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        else:
            where = {"pretrained_model_name_or_path": name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        weights = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, use_safetensors=True)
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=weights, tokenizer=tokenizer, device=device, dtype=dtype
        )
    except Exception as error:  # transformers and transformer-lens raise anything from OSError to KeyError
        raise ModelError(f"{name} cannot be loaded as a language model: {_first_line(error)}") from error
    bridge.eval().requires_grad_(False)
    return LanguageModel(bridge, str(path.resolve()) if path.exists() else name, slug)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
