"""The VASAE paper's own algorithm (docs/method.md#the-vasae-paper), so that its tables can be run again.

Whole rows of text at raw scale, every position, no unit norm and no treatment of dead features; the loss is
the mean squared error minus λ times the mean anchor score over all features; early stopping on validation
rows.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lexiscope.dictionary import Dictionary
from lexiscope.rounded import Scratch
from lexiscope.selection import TopK
from trainer import kernels, objectives, sparse
from trainer.activations.harvest import Positions
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Architecture, Config, Pass, Step
from trainer.architectures.topk import ENCODED
from trainer.errors import RecipeError
from trainer.initialise import Start
from trainer.objectives import AnchorMode


@dataclass(frozen=True, kw_only=True)
class PaperConfig(Config):
    name: str = "paper"
    anchors: str = "embedding"
    anchor_weight: float = 0.0
    """λ; 0 leaves the anchor term out."""
    anchor_mode: AnchorMode = "nearest"
    """A feature's anchor score: its largest cosine to an anchor, or logsumexp or the softmax-weighted mean of
    its ten largest.
    """
    anchor_every: int = 1
    """Steps between anchor terms; λ is not rescaled for the steps between."""
    frozen: bool = False
    """The decoder is W_E itself, never moves and has no bias (the variant `hard`)."""
    k: int = 32
    """Active features a token: ReLU, then TopK."""
    batch: int = 32
    batch_of: Literal["tokens", "passages"] = "passages"
    learning_rate: float = 1e-3
    schedule: Literal["warmup-decay", "constant"] = "constant"
    centre: bool = False
    positions: Positions = "all"
    length: int = 128
    epochs: int = 20
    patience: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("k", "anchor_every")
        self._not_negative("anchor_weight")
        if self.frozen and self.anchor_weight:
            raise RecipeError(
                f"{self.name} freezes the decoder, so that anchor_weight {self.anchor_weight} would have no "
                "effect; leave it out."
            )
        if self.frozen and "orthogonality" in objectives.term_weights(self.terms):
            raise RecipeError(f"{self.name} freezes the decoder, which terms={self.terms} are to move.")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        vocab, d_embedding = embedding
        if self.k > d_sae:
            raise RecipeError(f"k is {self.k}: it must be between 1 and the dictionary's width, {d_sae}.")
        if self.frozen and d_sae != vocab:
            raise RecipeError(
                f"{self.name} has one feature a token: its width is the vocabulary's, {vocab}, not {d_sae}."
            )
        if d_embedding != d_in:
            raise RecipeError(
                f"The paper's anchors are the token embedding itself: its width, {d_embedding}, must be that "
                f"of the residual stream, {d_in}."
            )

    def check_transcoder(self) -> None:
        raise RecipeError(
            f"{self.name} is the paper's method, which reconstructs what it reads: no transcoder."
        )


class Paper(Architecture):
    name = "paper"
    summary = "the VASAE paper to the letter"
    config_type = PaperConfig
    config: PaperConfig
    feature_parameters = ("encoder", "b_enc", "decoder")
    precise = True

    def initialise(self, start: Start) -> None:
        """`nn.Linear`'s own initialisation."""
        with torch.random.fork_rng():
            torch.manual_seed(start.seed)
            encoder, decoder = nn.Linear(start.d_in, self.d_sae), nn.Linear(self.d_sae, start.d_in)
        tensors = {"encoder": encoder.weight, "b_enc": encoder.bias}
        if self.config.frozen:
            self._frozen = start.embedding.float().to(self.device)
        else:
            tensors |= {"decoder": decoder.weight.T, "b_dec": decoder.bias}
        self.parameters = {name: t.detach().contiguous().to(self.device) for name, t in tensors.items()}
        self._anchors = self.anchors.to(self.device)
        self._scratch = Scratch(ENCODED)

    @property
    def decoder(self) -> Tensor:
        """[d_sae, d]"""
        return self._frozen if self.config.frozen else self.parameters["decoder"]

    @property
    def assigned(self) -> Tensor:
        return torch.arange(self.d_sae, device=self.device) if self.config.frozen else super().assigned

    def forward(self, x: Tensor) -> Pass:
        p = self.parameters
        with torch.no_grad():
            selected = kernels.encode_top_k(x, p["encoder"], p["b_enc"], self.config.k, scratch=self._scratch)
        code = sparse.encode(x, p["encoder"], p["b_enc"], selected)
        output = sparse.decode(code, self.decoder)
        return Pass(code, output if self.config.frozen else output + p["b_dec"])

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        c = self.config
        losses = {"mse": objectives.mse(made.output, batch.target)}
        if c.anchor_weight and step.number % c.anchor_every == 0:
            score = objectives.anchor_pull(self.decoder, self._anchors, c.anchor_mode).mean()
            losses["anchor_pull"] = -c.anchor_weight * score
        return losses

    def dictionary(self) -> Dictionary:
        p = {name: t.detach().cpu() for name, t in self.parameters.items()}
        decoder = self.decoder.detach().cpu()
        b_dec = p.get("b_dec", torch.zeros(decoder.shape[1]))
        return Dictionary(p["encoder"].T.contiguous(), p["b_enc"], decoder, b_dec, TopK(self.config.k))
