"""Recipes: what one RL run optimises, as data.

A recipe is a small TOML file that puts an objective together: loss, correction, aggregation, advantage, filters, each
with its constants; the run's settings (`config.rl`) give sizes, schedule and learning rate. Every key is read by the
learner; a constant is stated exactly where its choice is taken; an unknown key is refused. `default` is ours,
`as-intended` and `as-executed` are the original's words and the original's deeds, the others are their papers'.
`rl.recipe` names one of them, or the path of a TOML file of your own.
"""

from __future__ import annotations

import tomllib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biomni_lib.config import UNCORRECTED, recipe_file
from biomni_lib.errors import ConfigError

Aggregation = Literal["token_mean", "sequence_mean", "constant_length", "token_mean_micro_batch"]
Range = tuple[float, float]

BELONGS = (
    ("loss_micro_batch", "aggregation", "token_mean_micro_batch"),
    ("tis_cap", "correction", "tis"),
    ("icepop_range", "correction", "icepop"),
    ("geometric_range", "correction", "geometric_mask"),
    ("refill_cap", "no_variance", "refill"),
)
"""A constant, and the choice that it belongs to: stated with it, and only with it."""
RANGES = ("reward_range", "icepop_range", "geometric_range")


class Recipe(BaseModel):
    """The objective of an RL run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the recipe's name, written into checkpoints")
    loss: Literal["clip", "gspo"] = Field("clip", description="clip: the ratio of each token; gspo: of the sequence")
    clip_low: float = Field(ge=0, lt=1, description="how far below 1 the ratio counts")
    clip_high: float = Field(ge=0, description="how far above 1 the ratio counts")
    dual_clip: float | None = Field(None, gt=1, description="bound of the loss for A < 0, in units of |A|; none: off")
    correction: Literal["none", "ignored", "tis", "icepop", "geometric_mask", "decoupled", "rollout_anchored"] = Field(
        description="what corrects samples of an older policy; none: synchronous only; ignored: stale samples are "
        "knowingly taken for fresh ones, to measure what a correction buys"
    )
    tis_cap: float | None = Field(None, ge=1, description="largest importance weight of a token")
    icepop_range: Range | None = Field(None, description="importance weights that count; a token outside has no loss")
    geometric_range: Range | None = Field(None, description="mean ratios of a sequence that count")
    aggregation: Aggregation = Field(description="how token losses become one number")
    loss_micro_batch: int | None = Field(None, ge=1, description="trajectories that share one token mean")
    divide_by_std: bool = Field(description="True: GRPO advantages; False: Dr.GRPO")
    kl_coefficient: float = Field(0.0, ge=0, description="weight of the k3 KL to the starting policy")
    entropy_coefficient: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    optimizer_steps: int = Field(1, ge=1, description="updates made from one batch")
    no_variance: Literal["keep", "refill"] = Field(description="groups whose rewards are all equal")
    refill_cap: float | None = Field(None, ge=0, description="refills a step at most, as a multiple of groups_per_step")
    overlong_filter: bool = Field(False, description="no loss on trajectories that a token limit cut off")
    overlong_malformed_fraction: float | None = Field(
        None, gt=0, description="no loss on malformed trajectories longer than this part of agent.max_tokens"
    )
    overlong_penalty_fraction: float | None = Field(
        None, gt=0, le=1, description="last part of agent.max_tokens over which the reward falls by up to 1"
    )
    format_weight: float = Field(1.0, ge=0, description="weight of format beside correctness in the reward")
    reward_range: Range = Field(description="a reward outside it stops the run")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for constant, choice, value in BELONGS:
            if (getattr(self, choice) == value) != (getattr(self, constant) is not None):
                raise ValueError(f"{constant} belongs to {choice} = {value!r}, and only to it")
        for name in RANGES:
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name} must be [low, high] with low < high, not {list(bounds)}")
        return self

    @property
    def regularised(self) -> bool:
        """Whether a trajectory without advantage has a loss all the same."""
        return self.kl_coefficient > 0 or self.entropy_coefficient > 0


def load_recipe(name: str) -> Recipe:
    """Read and check a shipped recipe, or a TOML file.

    Args:
        name: one of `config.recipe_names()`, or a path that ends in .toml.
    Raises: ConfigError, one line, for an unknown name or an invalid file.
    """
    path = recipe_file(name)
    try:
        return Recipe(**tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name!r} is not TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"recipe {name!r}: {_one_line(error)}") from None


def check_recipe(recipe: Recipe, max_staleness: int) -> None:
    """Refuse to train on stale samples with a loss that takes them for fresh ones.

    Raises: ConfigError.
    """
    if max_staleness >= 1 and recipe.correction == UNCORRECTED:
        raise ConfigError(
            f"recipe {recipe.name!r} has no off-policy correction but rl.max_staleness={max_staleness}; "
            "set rl.max_staleness=0, or take a recipe with correction (rl.recipe='default')"
        )


def _one_line(error: ValidationError) -> str:
    first, *rest = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        said = f"unknown key {key}; allowed: {', '.join(Recipe.model_fields)}"
    elif first["type"] == "missing":
        said = f"{key} is missing"
    else:
        said = f"{key} = {first['input']!r}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")
    return said + (f" (and {len(rest)} more)" if rest else "")
