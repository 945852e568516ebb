"""The benchmark compares like with like: the same prompts, observations and numbers of tokens on both sides."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from biomni_lib.agent.ledger import Trajectory, Turn, save_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.sft.model import save_model
from biomni_lib.stages import bench
from biomni_lib.stages.bench import Measure, engine
from biomni_lib.stages.bench.engine import CONVERSATIONS, PROMPTS
from biomni_lib.stages.bench.measured import Measured, Missing, Ratio, Reading, Side, take_turns
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
    plans = engine.make_plans(SOME, seed=0)
    shapes = {((5, 3), (2, 0)), ((4, 0),), ((3, 3), (7, 3), (2, 0))}
    assert len(plans) == CONVERSATIONS
    assert {tuple((count, len(ids)) for count, ids in plan.turns) for plan in plans} == shapes
    assert [plan.prompt for plan in plans[:PROMPTS]] == [plan.prompt for plan in plans[PROMPTS : 2 * PROMPTS]]
    assert plans == engine.make_plans(SOME, seed=0) != engine.make_plans(SOME, seed=1)
    with pytest.raises(DataError, match="accepted trajectories"):
        engine.make_plans([], seed=0)


async def test_both_sides_write_every_planned_token(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    save_model(model(), tokenizer(), paths(config).sft_model)
    plans = engine.make_plans(SOME, seed=0)
    assert await engine.engine_seconds(config, plans) > 0  # each side asserts its own lengths
    stock = model()
    stock.generation_config.eos_token_id = None
    assert engine.generate_seconds(stock, plans) > 0


def test_the_engines_ratio_is_of_medians_and_names_both_sides(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    save_model(model(), tokenizer(), paths(config).sft_model)
    save_trajectories(paths(config).accepted, SOME)
    times = iter([9.0, 9.0, 1.0, 4.0, 2.0, 4.0, 2.0, 5.0, 2.0, 4.0, 7.0, 1.0])  # the first round warms up
    monkeypatch.setattr(engine.asyncio, "run", lambda work: (work.close(), next(times))[1])
    monkeypatch.setattr(engine, "generate_seconds", lambda *_: next(times))
    ratio = engine.engine_against_generate(config)
    tokens = ratio.conditions["tokens"]
    assert (ratio.numerator.value, ratio.denominator.value) == (tokens / 2.0, tokens / 4.0)
    assert ratio.ratio == 2.0
    assert tokens == sum(count for plan in engine.make_plans(SOME, config.seed) for count, _ in plan.turns)
    text = str(ratio)
    assert text.startswith("2.00 = ") and "TransformersEngine" in text and "generate" in text


RATIO = Ratio(Side("a", "per second", 6.0), Side("b", "per second", 4.0), {"preset": "smoke"})
READING = Reading(Side("c", "ms", 0.125), {}, (Side("d", "ms", 2000.0), Missing("e", "is not installed")))


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Measured]:
    """Two measurements that are made already, in the registry's place."""
    made: dict[str, Measured] = {"rl.async_vs_sync": RATIO, "sandbox.call_ms": READING}
    table = {name: Measure(lambda _, name=name: made[name], "sft") for name in made}
    monkeypatch.setattr(bench, "MEASURES", table)
    return made


def test_every_result_is_written_with_its_parts(config: RunConfig, measures: dict[str, Measured]) -> None:
    target = config.run_dir / "bench.json"
    paths(config).sft_model.mkdir(parents=True)
    assert bench.run(config, target) == measures
    written = json.loads(target.read_text())
    assert written["rl.async_vs_sync"] == {
        "ratio": 1.5,
        "numerator": {"name": "a", "unit": "per second", "value": 6.0},
        "denominator": {"name": "b", "unit": "per second", "value": 4.0},
        "conditions": {"preset": "smoke"},
    }
    assert written["sandbox.call_ms"] == {
        "name": "c",
        "unit": "ms",
        "value": 0.125,
        "conditions": {},
        "beside": [{"name": "d", "unit": "ms", "value": 2000.0}, {"name": "e", "reason": "is not installed"}],
    }


def test_an_interruption_leaves_what_was_measured(
    config: RunConfig, measures: dict[str, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: RunConfig) -> Measured:
        raise KeyboardInterrupt

    monkeypatch.setitem(bench.MEASURES, "sandbox.call_ms", Measure(interrupted, "sft"))
    paths(config).sft_model.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        bench.run(config, config.run_dir / "bench.json")
    assert set(json.loads((config.run_dir / "bench.json").read_text())) == {"rl.async_vs_sync"}


def test_what_is_printed_names_both_sides_and_the_peers() -> None:
    assert str(RATIO) == "1.50 = 6.0 per second (a) / 4.0 per second (b)"
    assert str(READING) == "0.12 ms (c); beside: 2,000.0 ms (d), not available (e: is not installed)"


def test_one_measurement_is_chosen_by_name_or_family_and_the_others_are_kept(
    config: RunConfig, measures: dict[str, Measured]
) -> None:
    target = config.run_dir / "bench.json"
    paths(config).sft_model.mkdir(parents=True)
    bench.run(config, target, only=["sandbox"])
    assert set(json.loads(target.read_text())) == {"sandbox.call_ms"}
    bench.run(config, target, only=["rl.async_vs_sync"])
    assert set(json.loads(target.read_text())) == set(measures)
    with pytest.raises(ConfigError, match="--only sand: unknown; allowed: rl.async_vs_sync, sandbox.call_ms"):
        bench.run(config, target, only=["rl", "sand"])


@pytest.mark.parametrize(
    ("present", "needed", "last"),
    [
        ([], {"build_data"}, "build_data"),
        ([], {"build_data", "sft"}, "sft"),
        (["lake"], {"build_data", "sft"}, "sft"),
        (["lake"], {"build_data"}, None),
        (["lake", "sft"], {"build_data", "sft"}, None),
    ],
)
def test_what_is_missing_is_made_first_and_said(
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    present: list[str],
    needed: set[str],
    last: str | None,
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(bench, "run_notebooks", lambda _, last: ran.append(last))
    for name in present:
        {"lake": config.lake_dir, "sft": paths(config).sft_model}[name].mkdir(parents=True)
    bench.prepare(config, needed)
    assert ran == ([last] if last else [])
    assert ("first the notebooks up to" in capsys.readouterr().out) == bool(last)


def test_every_key_names_its_family() -> None:
    assert {"engine.vs_generate", "rl.async_vs_sync"} <= set(bench.MEASURES)
    assert all(key.count(".") == 1 for key in bench.MEASURES)


def test_sides_take_turns_and_medians_are_kept() -> None:
    order: list[str] = []
    values = {"a": iter([100.0, 1.0, 9.0, 2.0]), "b": iter([100.0, 5.0, 5.0, 6.0])}

    def measure(name: str) -> float:
        order.append(name)
        return next(values[name])

    assert take_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3) == {"a": 2.0, "b": 5.0}
    assert "".join(order) == "abababab"


def test_the_page_has_a_row_and_the_conditions_of_every_measurement(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = {"preset": "smoke", "processor": "Some CPU", "cores": 2, "steps": 3}
    curve = [{"tool_ratio": 0.5, "engine_busy": 0.98765}, {"tool_ratio": 2.0, "engine_busy": 0.5}]
    found = {
        "a.ratio": Ratio(Side("fast", "x", 8.0), Side("slow", "x", 4.0), told | {"curve": curve}),
        "b.alone": Reading(Side("memory", "GB", 2.5), told, (Missing("peer", "is not there"), Side("more", "GB", 3.0))),
    }
    monkeypatch.setattr(bench, "results_dir", lambda: tmp_path)
    with pytest.raises(DataError, match="first make bench"):
        bench.publish(config, tmp_path / "bench.json")
    (tmp_path / "bench.json").write_text(json.dumps({key: one.record() for key, one in found.items()}))
    text = bench.publish(config, tmp_path / "bench.json").read_text()
    assert "Some CPU, 2 cores" in text and "preset smoke" in text
    assert "| `a.ratio` | **2.00** | 8.0 x (fast) | 4.0 x (slow) |  |" in text
    assert "| `b.alone` | **2.5 GB** | memory | | not available (peer: is not there); 3.0 GB (more) |" in text
    assert text.count("steps 3") == 2
    assert "| 0.5 | 0.988 |\n| 2 | 0.5 |" in text
