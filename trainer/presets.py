"""Recipes: the named configs of `--recipe NAME`, and the settings of `--set FIELD=VALUE`."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from trainer.architectures import ARCHITECTURES, Config
from trainer.architectures.cone import ConeConfig
from trainer.architectures.endtoend import EndToEndConfig
from trainer.architectures.hierarchical import HierarchicalConfig
from trainer.architectures.paper import PaperConfig
from trainer.architectures.standard import StandardConfig
from trainer.architectures.topk import TopKConfig
from trainer.errors import RecipeError


class Recipe(NamedTuple):
    """A recipe as `lexiscope methods` lists it."""

    config: Config
    summary: str
    """what sets it apart, in a line"""
    own_fields: list[str]
    """the settings that not every architecture has, and those of the others in which it differs from `Config`
    """


SUMMARIES = {
    "vasae": "TopK beside a token look-up and a dense path: the default",
    "plain": "TopK, nothing added",
    "matched": "TopK with the dense path of vasae, no look-up",
    "paper-plain": "the VASAE paper's baseline, without anchors",
    "paper-soft": "the VASAE paper's method: rows pulled to their nearest anchors",
    "msae": "TopK whose prefixes of 1, 2, 4, … features reconstruct, the short ones with more weight",
    "p-annealing": "standard with the penalty's norm annealed from ℓ1 towards ℓ0",
    "e2e-downstream": "e2e with the later layers' residual streams in the loss",
    "layer-group": "one TopK dictionary that the layers given share",
    "crosscoder": "TopK that reads the first of the layers given and reconstructs them all",
    "paper-hard": "the VASAE paper's control: decoder rows frozen to the embedding",
}
PRESETS: tuple[Config, ...] = (
    TopKConfig(name="vasae", dense_rank=16, lookup="fixed"),
    ConeConfig(),
    TopKConfig(name="plain"),
    TopKConfig(name="matched", dense_rank=16),
    TopKConfig(name="layer-group", layers="shared"),
    TopKConfig(name="crosscoder", layers="written"),
    PaperConfig(name="paper-plain"),
    PaperConfig(name="paper-soft", anchor_weight=1e-4),
    PaperConfig(name="paper-hard", frozen=True),
    HierarchicalConfig(),
    HierarchicalConfig(name="msae", budgets="doubling", weights="reverse"),
    EndToEndConfig(),
    EndToEndConfig(name="e2e-downstream", downstream=1.0),
    StandardConfig(),
    StandardConfig(name="p-annealing", last_norm=0.2),
)


def recipes() -> dict[str, Config]:
    """{name: config}; an architecture without a preset is a recipe under its own name."""
    preset = {type(config) for config in PRESETS}
    others = [each.config_type(name=each.name) for each in ARCHITECTURES if each.config_type not in preset]
    return {config.name: config for config in (*PRESETS, *others)}


def described() -> list[Recipe]:
    """Every recipe, the presets first."""
    summaries = {each.config_type: each.summary for each in ARCHITECTURES}
    usual = Config(name="")
    common = {field: getattr(usual, field) for field in _settings(usual)}
    return [
        Recipe(
            config,
            SUMMARIES.get(name, summaries[type(config)]),
            [
                field
                for field in _settings(config)
                if field not in common or getattr(config, field) != common[field]
            ],
        )
        for name, config in recipes().items()
    ]


def recipe(name: str) -> Config:
    """Raises RecipeError for a name that is none."""
    known = recipes()
    if name not in known:
        raise RecipeError(f"There is no recipe '{name}'; there are {', '.join(known)}.")
    return known[name]


def configured(names: Sequence[str], settings: Sequence[str]) -> list[Config]:
    """The named recipes with each setting, `FIELD=VALUE` or `RECIPE.FIELD=VALUE`, in those that have the
    field.

    Raises RecipeError for a setting that no recipe has, or a value of another type.
    """
    configs = {name: recipe(name) for name in names}
    changes: dict[str, dict[str, Any]] = {name: {} for name in configs}
    for setting in settings:
        target, _, value = setting.partition("=")
        only, dot, field = target.strip().rpartition(".")
        chosen = [name for name in configs if name == only] if dot else list(configs)
        having = [name for name in chosen if field in _settings(configs[name])]
        if "=" not in setting or not having:
            known = "; ".join(f"{name}: {', '.join(_settings(configs[name]))}" for name in chosen or configs)
            raise RecipeError(f"'{setting}' sets nothing; write FIELD=VALUE with a field of {known}.")
        for name in having:
            changes[name][field] = _parsed(configs[name], field, value.strip())
    return [replace(config, **changes[name]) for name, config in configs.items()]


def _settings(config: Config) -> list[str]:
    return [field.name for field in fields(config) if field.name != "name"]


def _parsed(config: Config, field: str, text: str) -> Any:
    """The value of the field's type that `text` spells."""
    kind = get_type_hints(type(config))[field]
    options = get_args(kind)
    try:
        if get_origin(kind) is Literal:
            if text not in options:
                raise ValueError
            return text
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        wanted = (
            ", ".join(map(str, options))
            if options
            else {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        )
        raise RecipeError(f"{field} is '{text}' in {config.name}; it takes {wanted}.") from None
