"""The benchmark compares like with like: the same prompts, observations and numbers of tokens on both sides."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from biomni_lib.agent.ledger import Trajectory, Turn, save_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.sft.model import save_model
from biomni_lib.stages import bench
from biomni_lib.stages.bench import CONVERSATIONS, PROMPTS, Ratio, Side
from biomni_lib.stages.paths import paths
from tests.acting_toy import model, token_ids, tokenizer


def trajectory(seed: int, *counts: int) -> Trajectory:
    """A prompt, then turns of these lengths with three observed tokens between them."""
    made = Trajectory("t", str(seed))
    made.append(token_ids(seed, 10 + seed), sampled=False)
    for number, count in enumerate(counts):
        start = len(made.token_ids)
        made.append(token_ids(100 + number, count), sampled=True)
        made.turns.append(Turn(start, start + count, "none", ""))
        if number + 1 < len(counts):
            made.append(token_ids(200 + number, 3), sampled=False)
    return made


SOME = [trajectory(0, 5, 2), trajectory(1, 4), trajectory(2, 3, 7, 2)]


def test_a_plan_has_the_shape_of_a_trajectory_and_one_of_the_prompts() -> None:
    plans = bench.make_plans(SOME, seed=0)
    shapes = {((5, 3), (2, 0)), ((4, 0),), ((3, 3), (7, 3), (2, 0))}
    assert len(plans) == CONVERSATIONS
    assert {tuple((count, len(ids)) for count, ids in plan.turns) for plan in plans} == shapes
    assert [plan.prompt for plan in plans[:PROMPTS]] == [plan.prompt for plan in plans[PROMPTS : 2 * PROMPTS]]
    assert plans == bench.make_plans(SOME, seed=0) != bench.make_plans(SOME, seed=1)
    with pytest.raises(DataError, match="accepted trajectories"):
        bench.make_plans([], seed=0)


async def test_both_sides_write_every_planned_token(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    save_model(model(), tokenizer(), paths(config).sft_model)
    plans = bench.make_plans(SOME, seed=0)
    assert await bench.engine_seconds(config, plans) > 0  # each side asserts its own lengths
    stock = model()
    stock.generation_config.eos_token_id = None
    assert bench.generate_seconds(stock, plans) > 0


def test_the_engines_ratio_is_of_medians_and_names_both_sides(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    save_model(model(), tokenizer(), paths(config).sft_model)
    save_trajectories(paths(config).accepted, SOME)
    times = iter([9.0, 9.0, 1.0, 4.0, 2.0, 4.0, 2.0, 5.0, 2.0, 4.0, 7.0, 1.0])  # the first round warms up
    monkeypatch.setattr(bench.asyncio, "run", lambda work: (work.close(), next(times))[1])
    monkeypatch.setattr(bench, "generate_seconds", lambda *_: next(times))
    ratio = bench.engine_against_generate(config)
    tokens = ratio.conditions["tokens"]
    assert (ratio.numerator.value, ratio.denominator.value) == (tokens / 2.0, tokens / 4.0)
    assert ratio.ratio == 2.0
    assert tokens == sum(count for plan in bench.make_plans(SOME, config.seed) for count, _ in plan.turns)
    text = str(ratio)
    assert text.startswith("2.00 = ") and "TransformersEngine" in text and "generate" in text


def test_every_ratio_is_written_with_its_parts(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config()
    with pytest.raises(DataError, match="make notebooks PRESET=smoke"):
        bench.run(config, tmp_path / "bench.json")
    paths(config).sft_model.mkdir(parents=True)
    made = Ratio(Side("a", "per second", 6.0), Side("b", "per second", 4.0), {"preset": "smoke"})
    for name in ("engine_against_generate", "asynchronous_against_synchronous"):
        monkeypatch.setattr(bench, name, lambda _: made)
    bench.run(config, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert set(written) == {"engine.vs_generate", "rl.async_vs_sync"}
    assert written["rl.async_vs_sync"] == {
        "ratio": 1.5,
        "numerator": {"name": "a", "unit": "per second", "value": 6.0},
        "denominator": {"name": "b", "unit": "per second", "value": 4.0},
        "conditions": {"preset": "smoke"},
    }
