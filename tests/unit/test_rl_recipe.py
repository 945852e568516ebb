import pytest
from pydantic import ValidationError

from biomni_lib.config import RECIPES_WITH_CORRECTION
from biomni_lib.errors import ConfigError
from biomni_lib.rl.recipe import Recipe, check_recipe, load_recipe, recipe_names


def test_the_shipped_recipes_load_and_name_themselves() -> None:
    assert recipe_names() == ["as-executed", "as-intended", "default"]
    assert all(load_recipe(name).name == name for name in recipe_names())


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="as-executed, as-intended, default"):
        load_recipe("grpo")


@pytest.mark.parametrize("name", ["as-executed", "as-intended", "default"])
def test_only_a_correction_allows_stale_samples(name: str) -> None:
    recipe = load_recipe(name)
    check_recipe(recipe, 0)
    assert (recipe.correction != "none") == (name in RECIPES_WITH_CORRECTION)
    if recipe.correction == "none":
        with pytest.raises(ConfigError, match="max_staleness=1"):
            check_recipe(recipe, 1)
    else:
        check_recipe(recipe, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"loss_micro_batch": 2},
        {"aggregation": "token_mean_micro_batch"},
        {"reward_range": (1.0, 1.0)},
        {"unknown": 1},
        {"optimizer_steps": 0},
    ],
)
def test_contradictions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe(**{**load_recipe("default").model_dump(), **change})
