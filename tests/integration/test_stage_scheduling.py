"""What stage 6 makes of a recorded run; the recording is made up, the simulations are the real ones."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.rl.timeline import LEARNER
from biomni_lib.stages import scheduling
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun

STEPS, GROUPS, MEMBERS = 4, 2, 4
STEP_S, LEARN_S = 10.0, 2.0


@pytest.fixture
def config(make_config: Callable[..., RunConfig]) -> RunConfig:
    rl = {"groups_per_step": GROUPS, "group_size": MEMBERS, "max_staleness": 1}
    return make_config(rl=rl, engine={"slots": 8}, scheduling={"steps": 8, "engines_max": 8, "agents_per_engine": 8})


@pytest.fixture
def rows() -> pd.DataFrame:
    """Every trajectory writes for 3 s, waits for 0.25 s, is in a tool for 2 s and writes for 4 s."""
    return pd.DataFrame(
        {
            "step": step,
            "group": step * GROUPS + group,
            "sample": sample,
            "tokens": 70,
            "staleness": min(step, 1),
            "began_s": 100 + STEP_S * step + sample / 8,
            "ended_s": 100 + STEP_S * step + sample / 8 + 9.5,
            "turn_read": [100, 20],
            "turn_tokens": [30, 40],
            "turn_generate_s": [3.0, 4.0],
            "turn_wait_s": [0.25, 0.0],
            "turn_tool_s": [2.0, 0.0],
        }
        for step in range(STEPS)
        for group in range(GROUPS)
        for sample in range(MEMBERS)
    )


@pytest.fixture
def metrics() -> pd.DataFrame:
    """The batch of a step is complete when its last trajectory has ended."""
    return pd.DataFrame(
        {
            "step": step,
            "time": 100 + STEP_S * step + 9.875 + LEARN_S + 0.5,
            "time/step": STEP_S,
            "time/wait_for_batch": STEP_S - LEARN_S - 0.5,
            "time/learn": LEARN_S,
            "time/weight_swap": 0.01,
            "time/weight_sync": 0.02,
            "perf/decode_step_s": 0.1,
            "perf/prefill_token_s": 0.001,
            "perf/engine_idle_fraction": 0.2,
            "async/staleness_mean": float(min(step, 1)),
            "async/filtered": 2.0 * step,
        }
        for step in range(STEPS)
    )


def test_machines_are_as_fast_as_recorded(config: RunConfig, metrics: pd.DataFrame, rows: pd.DataFrame) -> None:
    setting = scheduling.recorded_setting(config, metrics, rows)
    assert (setting.engine.step_s, setting.engine.token_s, setting.engine.swap_s) == (0.1, 0.001, 0.01)
    assert setting.learner.token_s == pytest.approx(LEARN_S / (GROUPS * MEMBERS * 70))
    assert (setting.agents, setting.engine.slots, setting.groups_per_step) == (8, 8, GROUPS)
    workload = scheduling.recorded_workload(metrics, rows)
    assert workload.flat == pytest.approx(6 / (STEPS * GROUPS + 6))
    assert len(workload.plans) == len(rows) and set(workload.plans) == {((100, 20), (30, 40), (2.0, 0.0))}
    with pytest.raises(DataError, match="perf/decode_step_s; run notebook 03"):
        scheduling.recorded_setting(config, metrics.drop(columns="perf/decode_step_s"), rows)


def test_the_recorded_timeline(metrics: pd.DataFrame, rows: pd.DataFrame) -> None:
    table = scheduling.recorded_timeline(metrics, rows)
    learned = table[table["lane"] == LEARNER]
    assert learned["began_s"].tolist() == pytest.approx([9.875 + STEP_S * step for step in range(STEPS)])
    assert (learned["ended_s"] - learned["began_s"]).tolist() == pytest.approx([LEARN_S] * STEPS)
    assert set(table["lane"]) == {LEARNER, *range(GROUPS * MEMBERS)}
    first = table[(table["lane"] == 0) & (table["step"] == 0)]
    assert first["kind"].tolist() == ["generate", "wait", "tool", "generate", "other"]
    with pytest.raises(DataError, match="say when they began"):
        scheduling.recorded_timeline(metrics, rows.assign(began_s=np.nan))


def test_slow_tools_take_as_long_as_a_turn(config: RunConfig, metrics: pd.DataFrame, rows: pd.DataFrame) -> None:
    setting, workload = (
        scheduling.recorded_setting(config, metrics, rows),
        scheduling.recorded_workload(metrics, rows),
    )
    slow = scheduling.slow_tools(config, workload, setting)
    assert np.median([plan.tool_s[0] for plan in slow.plans]) == pytest.approx(3.5, rel=0.05)
    assert slow.flat == workload.flat and slow.plans[0].write == (30, 40)


def test_the_whole_stage(config: RunConfig, metrics: pd.DataFrame, rows: pd.DataFrame) -> None:
    setting = scheduling.recorded_setting(config, metrics, rows)
    workload = scheduling.recorded_workload(metrics, rows)
    slow = scheduling.slow_tools(config, workload, setting)
    runs = scheduling.simulate_modes(setting, slow, steps=8)
    timelines = [scheduling.recorded_timeline(metrics, rows), scheduling.simulated_timeline(runs)]
    tables = {
        "timeline": pd.concat(timelines, ignore_index=True),
        "modes": scheduling.modes_table(setting, slow, steps=8),
        "staleness": scheduling.staleness_table(runs, rows),
        "recorded": scheduling.recorded_table(metrics, setting, workload),
        "throughput": scheduling.throughput_table(setting, slow, steps=8),
        "engines": scheduling.engines_table(setting, slow, steps=4, engines_max=4),
        "scaling": scheduling.scaling_table(config, setting, slow),
        "weights": pd.DataFrame({"kv_on_update": ["keep"]}),
    }
    modes = tables["modes"].set_index("mode")
    assert modes["speed_up"].iloc[0] == 1 < modes["speed_up"].iloc[2]
    assert modes["staleness_max"].tolist() <= list(scheduling.MODES.values())
    staleness = tables["staleness"].groupby("mode")["trajectories"].sum()
    assert staleness["Recorded"] == len(rows) and staleness["Synchronous"] == 8 * GROUPS * MEMBERS
    assert tables["recorded"]["run"].tolist() == ["recorded", "simulated"]
    assert tables["scaling"]["engines"].tolist() == [1, 2, 4, 8, 16, 80]
    with pytest.raises(DataError, match="no table engines"):
        scheduling.finish(StageRun(config, "scheduling"), {n: t for n, t in tables.items() if n != "engines"})
    here = paths(config)
    for folder in (here.sft_model, here.rl_model, here.rl / "trajectories"):
        folder.mkdir(parents=True)
    here.rl_metrics.parent.mkdir(parents=True)
    here.rl_metrics.write_text("{}\n")
    manifest = scheduling.finish(StageRun(config, "scheduling"), tables)
    assert manifest.results["largest simulated engines"] == 8
    assert len(list(here.figures.glob("scheduling-*.pdf"))) == 5


def test_without_a_run_the_notebook_is_named(config: RunConfig) -> None:
    with pytest.raises(DataError, match="run notebook 06_async_scheduling"):
        scheduling.draw(config)
