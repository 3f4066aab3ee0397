"""The architectures that can be trained: one file each, behind the interface in `base`."""

from trainer.architectures.abstopk import AbsTopK
from trainer.architectures.aen import AEN
from trainer.architectures.base import BAKE_OFF, RESIDUAL_ANCHORS, Architecture, Config, Step
from trainer.architectures.batchtopk import BatchTopK
from trainer.architectures.cone import Cone
from trainer.architectures.endtoend import EndToEnd
from trainer.architectures.ensemble import Bagging, Boosting
from trainer.architectures.featurechoice import FeatureChoice
from trainer.architectures.gated import Gated
from trainer.architectures.gba import GBA
from trainer.architectures.gsae import GradientTopK
from trainer.architectures.hierarchical import Hierarchical
from trainer.architectures.itda import ITDA
from trainer.architectures.jumprelu import JumpReLU
from trainer.architectures.matryoshka import Matryoshka
from trainer.architectures.metasae import MetaSAE
from trainer.architectures.mfr import MFR
from trainer.architectures.mutualchoice import MutualChoice
from trainer.architectures.ortsae import OrtSAE
from trainer.architectures.paper import Paper
from trainer.architectures.sagsae import SignedGated
from trainer.architectures.sasa import SASA
from trainer.architectures.sparsemax import SparsemaxAttention
from trainer.architectures.standard import Standard
from trainer.architectures.topafa import TopAFA
from trainer.architectures.topk import TopKArchitecture
from trainer.architectures.vsae import VSAE
from trainer.errors import RecipeError
from trainer.initialise import Start

ARCHITECTURES: list[type[Architecture]] = [
    TopKArchitecture,
    Cone,
    AbsTopK,
    Hierarchical,
    EndToEnd,
    GradientTopK,
    TopAFA,
    VSAE,
    SASA,
    MFR,
    OrtSAE,
    Bagging,
    Boosting,
    ITDA,
    MetaSAE,
    Standard,
    AEN,
    FeatureChoice,
    BatchTopK,
    MutualChoice,
    Matryoshka,
    JumpReLU,
    Gated,
    SignedGated,
    GBA,
    SparsemaxAttention,
    Paper,
]

__all__ = [
    "ARCHITECTURES",
    "BAKE_OFF",
    "RESIDUAL_ANCHORS",
    "Architecture",
    "Config",
    "Start",
    "Step",
    "architecture_of",
    "build",
    "check_restarts",
]


def architecture_of(config: Config) -> type[Architecture]:
    return next(each for each in ARCHITECTURES if each.config_type is type(config))


def check_restarts(config: Config) -> None:
    """Raise RecipeError where the config has restarts and its architecture knows none."""
    if config.restarts and architecture_of(config).restart is Architecture.restart:
        raise RecipeError(f"{config.name} cannot restart features: restarts must be 0.")


def build(config: Config, start: Start) -> Architecture:
    """The config's architecture, ready to train. Raises RecipeError where it does not fit the sample."""
    return architecture_of(config)(config, start)
