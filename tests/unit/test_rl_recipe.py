import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from biomni_lib.config import RECIPES_DIR, load_config, recipe_names
from biomni_lib.errors import ConfigError
from biomni_lib.rewards import REWARD_RANGE
from biomni_lib.rl.recipe import Recipe, check_recipe, load_recipe

THE_ORIGINALS = ("as-executed", "as-intended")


def changed(base: str = "default", /, **change: Any) -> Recipe:
    return Recipe(**{**load_recipe(base).model_dump(), **change})


@pytest.mark.parametrize("name", recipe_names())
def test_the_shipped_recipes_load_name_themselves_and_state_the_rewards_range(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.reward_range == (REWARD_RANGE[0], 1.0 + recipe.format_weight)
    assert (recipe.reward_range == REWARD_RANGE) == (name != "correctness-only")
    assert "reward_range" in tomllib.loads((RECIPES_DIR / f"{name}.toml").read_text())


def test_the_recipes_of_the_papers_and_ours_are_there() -> None:
    ours = {"default", *THE_ORIGINALS}
    papers, ablations = {"grpo", "dr-grpo", "dapo", "gspo", "icepop", "decoupled"}, {"correctness-only", "uncorrected"}
    assert set(recipe_names()) == ours | papers | ablations


def test_an_ablation_is_ours_but_for_what_it_leaves_out() -> None:
    ours = load_recipe("default").model_dump()
    for name, left_out in (
        ("correctness-only", {"name", "format_weight", "reward_range"}),
        ("uncorrected", {"name", "correction", "tis_cap"}),
    ):
        theirs = load_recipe(name).model_dump()
        assert {key for key in ours if ours[key] != theirs[key]} == left_out


@pytest.mark.parametrize("name", THE_ORIGINALS)
def test_the_originals_are_synchronous_and_share_what_its_scripts_state(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.correction == "none"
    assert (recipe.clip_low, recipe.clip_high, recipe.divide_by_std) == (0.2, 0.28, False)
    assert recipe.kl_coefficient == recipe.entropy_coefficient == 0


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="'ppo': unknown recipe; allowed: as-executed, as-intended, correctness-only, dapo"
    ):
        load_recipe("ppo")


@pytest.mark.parametrize("name", recipe_names())
def test_only_a_correction_allows_stale_samples(name: str) -> None:
    recipe = load_recipe(name)
    check_recipe(recipe, 0)
    if recipe.correction == "none":
        with pytest.raises(ConfigError, match="max_staleness=1"):
            check_recipe(recipe, 1)
    else:
        check_recipe(recipe, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_micro_batch": 2}, "loss_micro_batch belongs to aggregation = 'token_mean_micro_batch'"),
        ({"aggregation": "token_mean_micro_batch"}, "loss_micro_batch belongs"),
        ({"correction": "icepop"}, "tis_cap belongs to correction = 'tis'"),
        ({"correction": "icepop", "tis_cap": None}, "icepop_range belongs"),
        ({"correction": "decoupled", "tis_cap": None, "geometric_range": (0.9, 1.1)}, "geometric_range belongs"),
        ({"no_variance": "keep"}, "refill_cap belongs to no_variance = 'refill'"),
        ({"reward_range": (1.0, 1.0)}, r"reward_range must be \[low, high\]"),
        ({"correction": "icepop", "tis_cap": None, "icepop_range": (2.0, 1.0)}, "icepop_range must be"),
        ({"unknown": 1}, "unknown"),
        ({"optimizer_steps": 0}, "optimizer_steps"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"loss": "ppo"}, "'clip' or 'gspo'"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(**change)


def text_of(name: str = "default") -> str:
    return (RECIPES_DIR / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_of() + "kl = 0.1\n", "unknown key kl; allowed: name, loss, clip_low"),
        (text_of().replace("tis_cap = 2.0", "tis_cap = 0.5"), "tis_cap = 0.5: .*greater than or equal to 1"),
        (text_of().replace("tis_cap = 2.0\n", ""), "tis_cap belongs to correction = 'tis', and only to it"),
        (text_of().replace("reward_range = [0.0, 2.0]\n", ""), "reward_range is missing"),
        (text_of() + "name = ", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as refused:
        load_recipe(str(file))
    assert "\n" not in str(refused.value)


def test_a_file_of_ones_own_is_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text_of("as-intended").replace("as-intended", "mine"), encoding="utf-8")
    assert load_recipe(str(file)) == changed("as-intended", name="mine")
    assert load_config("smoke", **{"rl.recipe": str(file), "rl.max_staleness": 0}).rl.recipe == str(file)
    with pytest.raises(ConfigError, match=r"rl\.max_staleness = 1: .*mine\.toml.* does not correct"):
        load_config("smoke", **{"rl.recipe": str(file), "rl.max_staleness": 1})
