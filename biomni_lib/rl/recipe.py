"""Recipes: what one RL run optimises, as data.

A recipe fixes the shape of the objective (aggregation, normalisation, correction, updates a batch, filters); the run's
settings (`config.rl`) give its numbers (clip bounds, importance cap, learning rate, sizes). Three are shipped:
`default` (ours), `as-intended` and `as-executed` (the original's words and the original's deeds).
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biomni_lib.errors import ConfigError

Aggregation = Literal["token_mean", "sequence_mean", "constant_length", "token_mean_micro_batch"]


class Recipe(BaseModel):
    """The objective of an RL run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the recipe's name, written into checkpoints")
    aggregation: Aggregation = Field(description="how token losses become one number")
    loss_micro_batch: int | None = Field(None, ge=1, description="trajectories that share one token mean")
    divide_by_std: bool = Field(description="True: GRPO advantages; False: Dr.GRPO")
    clip: Literal["token", "dual"] = Field("token", description="dual also bounds the loss for negative advantages")
    dual_clip: float = Field(3.0, gt=1, description="the bound of the dual clip, in units of |A|")
    correction: Literal["none", "tis"] = Field(description="what corrects samples of an older policy")
    kl_coefficient: float = Field(0.0, ge=0, description="weight of the k3 KL to the starting policy")
    optimizer_steps: int = Field(1, ge=1, description="updates made from one batch")
    no_variance: Literal["keep", "refill"] = Field(description="groups whose rewards are all equal")
    refill_cap: float = Field(1.0, ge=0, description="refills a step at most, as a multiple of groups_per_step")
    overlong_malformed_fraction: float | None = Field(
        None, gt=0, description="no loss on malformed trajectories longer than this part of agent.max_tokens"
    )
    reward_range: tuple[float, float] = Field(description="a reward outside it stops the run")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.aggregation == "token_mean_micro_batch") != (self.loss_micro_batch is not None):
            raise ValueError("loss_micro_batch belongs to token_mean_micro_batch, and only to it")
        if self.reward_range[0] >= self.reward_range[1]:
            raise ValueError("reward_range must be (low, high) with low < high")
        return self


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    folder = resources.files(__package__) / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """Read and check a shipped recipe.

    Raises: ConfigError for an unknown name or an invalid file.
    """
    if name not in recipe_names():
        raise ConfigError(f"rl.recipe={name!r} is unknown; choose one of {', '.join(recipe_names())}")
    text = (resources.files(__package__) / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Recipe(**tomllib.loads(text))
    except ValidationError as error:
        raise ConfigError(f"recipe {name!r} is invalid: {error}") from error


def check_recipe(recipe: Recipe, max_staleness: int) -> None:
    """Refuse to train on stale samples with a loss that takes them for fresh ones.

    Raises: ConfigError.
    """
    if max_staleness >= 1 and recipe.correction == "none":
        raise ConfigError(
            f"recipe {recipe.name!r} has no off-policy correction but rl.max_staleness={max_staleness}; "
            "set rl.max_staleness=0, or take a recipe with correction (rl.recipe='default')"
        )
