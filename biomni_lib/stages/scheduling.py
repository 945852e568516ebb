"""Stage 6: who works when. The recorded RL run on a timeline, the same run simulated, and what simulations say of runs
that nobody has the machines for.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from biomni_lib import figures
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.provenance import Manifest, atomic_write
from biomni_lib.rl.capacity import changed, engines_for, enough, extrapolate, measure, scaling, sweep
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.simulated_engine import EngineModel
from biomni_lib.rl.simulator import LearnerModel, Setting, SimulatedStep, Simulation
from biomni_lib.rl.timeline import learner_steps, simulated_rows, simulated_steps, spans
from biomni_lib.rl.workload import Workload, heavy_tailed, recorded_plans
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun

STAGE = "scheduling"
MODES = {"Synchronous": 0, "One step off": 1, "Fully asynchronous": 4}
"""The modes that are shown, as what they are: values of max_staleness."""
TABLES = ("timeline", "modes", "staleness", "recorded", "throughput", "engines", "scaling", "weights")
"""The stage's tables."""
SHOWN_STEPS = 4
"""Learner steps on a timeline: the second to the fifth, when the pipeline is filled, with the rollouts before them."""
LEARNERS = (1, 2, 4, 8)
BEYOND = (2, 10)
"""Sizes that are extrapolated to, in units of the largest simulated one."""


def recorded_setting(config: RunConfig, metrics: pd.DataFrame, rows: pd.DataFrame) -> Setting:
    """The run's own settings, and machines as fast as its metrics say on average.

    Args:
        metrics: a row a step. rows: a row a trajectory that was trained on.
    Raises: DataError when the run was recorded without the engine's times.
    """
    needed = ["perf/decode_step_s", "perf/prefill_token_s", "time/weight_swap", "time/weight_sync", "time/learn"]
    if missing := [name for name in needed if name not in metrics]:
        raise DataError(f"the RL run's metrics lack {', '.join(missing)}; run notebook 03_async_rl again")
    decode_s, read_s, swap_s, sync_s = (float(metrics[name].mean()) for name in needed[:4])
    recipe = load_recipe(config.rl.recipe)
    refill_max = round((recipe.refill_cap or 0.0) * config.rl.groups_per_step)
    kept = config.engine.slots + config.engine.parked
    engine = EngineModel(1, config.engine.slots, kept, decode_s, 0.0, read_s, swap_s, config.rl.kv_on_update)
    return Setting(
        groups_per_step=config.rl.groups_per_step,
        group_size=config.rl.group_size,
        max_staleness=config.rl.max_staleness,
        agents=config.agents,
        refill_max=refill_max,
        replace_max=config.rl.replace_members,
        engine=engine,
        learner=LearnerModel(1, 0.0, float(metrics["time/learn"].sum() / rows["tokens"].sum()), sync_s),
    )


def recorded_workload(metrics: pd.DataFrame, rows: pd.DataFrame) -> Workload:
    """What the run's agents did, turn by turn, and the share of its groups whose rewards were all equal."""
    settled = len(rows.groupby(["step", "group"])) + metrics["async/filtered"].iloc[-1]
    return Workload(recorded_plans(rows), flat=float(metrics["async/filtered"].iloc[-1] / settled))


def slow_tools(config: RunConfig, workload: Workload, setting: Setting) -> Workload:
    """The same work with heavy-tailed tools: their median is `tool_ratio` turns of undisturbed writing."""
    written = pd.Series([tokens for plan in workload.plans for tokens in plan.write]).mean()
    median_s = config.scheduling.tool_ratio * float(written) * setting.engine.step_s
    plans = heavy_tailed(workload.plans, median_s=median_s, limit_s=config.agent.trajectory_timeout_s, seed=config.seed)
    return dataclasses.replace(workload, plans=plans)


def as_mode(setting: Setting, max_staleness: int) -> Setting:
    """The setting with another bound and as many agents as the bound lets be under way."""
    agents = (max_staleness + 1) * setting.groups_per_step * setting.group_size
    return changed(setting, max_staleness=max_staleness, agents=agents)


def simulate_modes(setting: Setting, workload: Workload, *, steps: int) -> dict[str, list[SimulatedStep]]:
    """Each mode of `MODES` on the same machines and the same work."""
    return {name: Simulation(as_mode(setting, bound), workload).run(steps) for name, bound in MODES.items()}


def modes_table(setting: Setting, workload: Workload, *, steps: int) -> pd.DataFrame:
    """What each mode makes of the machines.

    Returns: mode, agents, then `capacity.measure`, engine_idle, and speed_up over the first mode.
    """
    settings = {name: as_mode(setting, bound) for name, bound in MODES.items()}
    table = pd.DataFrame(
        {"mode": name, "agents": made.agents, **measure(made, workload, steps=steps)} for name, made in settings.items()
    )
    first = table["tokens_per_s"].iloc[0]
    return table.assign(engine_idle=1 - table["engine_busy"], speed_up=table["tokens_per_s"] / first)


def recorded_table(metrics: pd.DataFrame, setting: Setting, workload: Workload) -> pd.DataFrame:
    """The recorded run beside its simulation: seconds a step, shares of idle time, staleness. Returns: a row each."""
    steps = len(metrics)
    told = measure(setting, workload, steps=max(steps, 8))
    kept = metrics.iloc[min(len(metrics) // 4, len(metrics) - 1) :]
    idle_s = (kept["time/wait_for_batch"]).sum() / kept["time/step"].sum()
    real = {
        "run": "recorded",
        "step_s": float(kept["time/step"].mean()),
        "engine_idle": float(kept["perf/engine_idle_fraction"].mean()),
        "learner_idle": float(idle_s),
        "staleness_mean": float(kept["async/staleness_mean"].mean()),
    }
    simulated = {
        "run": "simulated",
        "step_s": 3600 / told["steps_per_hour"],
        "engine_idle": 1 - told["engine_busy"],
        "learner_idle": told["learner_idle"],
        "staleness_mean": told["staleness_mean"],
    }
    return pd.DataFrame([real, simulated])


def recorded_timeline(metrics: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Spans of some steps of the recorded run."""
    return _window(spans(rows, learner_steps(metrics))).assign(panel="Recorded")


def simulated_timeline(runs: Mapping[str, list[SimulatedStep]]) -> pd.DataFrame:
    """Spans of some steps of each simulated run, a panel a mode."""
    parts = [
        _window(spans(simulated_rows(steps), simulated_steps(steps))).assign(panel=mode) for mode, steps in runs.items()
    ]
    return pd.concat(parts, ignore_index=True)


def staleness_table(runs: Mapping[str, list[SimulatedStep]], rows: pd.DataFrame) -> pd.DataFrame:
    """Trajectories by staleness: the recorded run, then each mode. Returns: mode, staleness, trajectories."""
    drawn = {"Recorded": rows["staleness"]}
    drawn |= {mode: pd.Series([s for step in steps for s in step.staleness]) for mode, steps in runs.items()}
    parts = [
        counts.value_counts().sort_index().rename_axis("staleness").reset_index(name="trajectories").assign(mode=mode)
        for mode, counts in drawn.items()
    ]
    return pd.concat(parts, ignore_index=True)[["mode", "staleness", "trajectories"]]


def throughput_table(setting: Setting, workload: Workload, *, steps: int) -> pd.DataFrame:
    """How many agents, and which staleness. Returns: setting, value, then `capacity.measure`."""
    free = as_mode(setting, max(MODES.values()))
    batch = setting.groups_per_step * setting.group_size
    agents = sweep(free, workload, "agents", [batch * n // 4 for n in (1, 2, 4, 8, 16)], steps=steps)
    bounds = pd.DataFrame(
        {"value": bound, **measure(as_mode(setting, bound), workload, steps=steps)} for bound in (0, 1, 2, 4, 8)
    )
    parts = [agents.rename(columns={"agents": "value"}).assign(setting="Agents"), bounds.assign(setting="Staleness")]
    table = pd.concat(parts, ignore_index=True)
    return table[["setting", "value", *[name for name in table if name not in ("setting", "value")]]]


def smallest_enough(table: pd.DataFrame, setting: str) -> int:
    """The smallest value in `throughput_table` that reaches 95% of the best throughput."""
    return int(enough(table[table["setting"] == setting], "value"))


def engines_table(setting: Setting, workload: Workload, *, steps: int, engines_max: int = 64) -> pd.DataFrame:
    """How many engines N learners need. Returns: `capacity.engines_for`."""
    free = as_mode(setting, max(MODES.values()))
    one = changed(free, agents=2 * setting.engine.slots)
    return engines_for(one, workload, LEARNERS, engines_max=engines_max, steps=steps)


def scaling_table(config: RunConfig, setting: Setting, workload: Workload) -> pd.DataFrame:
    """Sizes up to `engines_max` simulated, and larger ones extrapolated.

    Returns: engines, agents, tokens_per_s, kind (simulated, extrapolated), low, high, error, held_out; then `measure`.
    """
    most, per_engine = config.scheduling.engines_max, config.scheduling.agents_per_engine
    groups = max(1, per_engine // setting.group_size)
    one = changed(setting, max_staleness=1, agents=per_engine, groups_per_step=groups, **{"engine.count": 1})
    sizes = [most // n for n in (8, 4, 2, 1)]
    simulated = scaling(one, workload, sizes, steps=config.scheduling.scale_steps, seeds=[config.seed])
    ends = simulated["tokens_per_s"]
    simulated = simulated.assign(kind="simulated", low=ends, high=ends)
    beyond = extrapolate(simulated, [most * n for n in BEYOND])
    beyond = beyond.assign(kind="extrapolated", agents=beyond["engines"] * per_engine)
    return pd.concat([simulated, beyond], ignore_index=True)


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """The stage's figures. Raises: DataError when a table is missing."""
    made = {
        "scheduling-timeline": (
            figures.timeline,
            "timeline",
            "What agents and learner did, of trajectories trained on",
        ),
        "scheduling-idle": (figures.idle_by_mode, "modes", "Idle time of simulated engines and learners"),
        "scheduling-staleness": (figures.staleness_by_mode, "staleness", "Staleness of trajectories trained on"),
        "scheduling-throughput": (figures.throughput, "throughput", "Simulated throughput by agents and staleness"),
        "scheduling-size": (
            figures.scaling,
            "scaling",
            "Throughput by number of engines, with the extrapolation's error",
        ),
    }
    return [Drawing.make(name, draw, tables[table], title) for name, (draw, table, title) in made.items()]


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Draw the stage's figures again from its tables; by name. Raises: DataError when the stage has not been run."""
    return save_drawings(drawings({name: _read(config, name) for name in TABLES}), paths(config).figures)


def finish(run: StageRun, tables: Mapping[str, pd.DataFrame]) -> Manifest:
    """Save the tables and the figures and record the stage.

    Args:
        tables: one for each of `TABLES`.
    Raises: DataError when one is missing.
    """
    if missing := set(TABLES) - set(tables):
        raise DataError(f"scheduling: no table {', '.join(sorted(missing))}; make it before finishing")
    p = run.paths
    for name in TABLES:
        atomic_write(_file(run.config, name), tables[name].to_csv(index=False, float_format="%.6g"))
    draw(run.config)
    modes, far = tables["modes"].set_index("mode"), tables["scaling"]
    results = {
        "simulated speed-up": {mode: round(float(value), 3) for mode, value in modes["speed_up"].items()},
        "agents enough": smallest_enough(tables["throughput"], "Agents"),
        "staleness enough": smallest_enough(tables["throughput"], "Staleness"),
        "largest simulated engines": int(far.loc[far["kind"] == "simulated", "engines"].max()),
        "extrapolation error": round(float(far["error"].max()), 4),
    }
    read = [p.sft_model, p.rl_model, p.rl_metrics, p.rl / "trajectories"]
    return run.finish(inputs=read, outputs=[p.scheduling], results=results)


def _window(table: pd.DataFrame) -> pd.DataFrame:
    """The spans in the time of a few learner steps, cut at its ends, in seconds since it began; a short run whole."""
    learned = table[table["kind"] == "learn"].sort_values("step")
    low, high = 0.0, float(learned["ended_s"].max())
    if len(learned) > SHOWN_STEPS:
        low, high = float(learned["began_s"].iloc[0]), float(learned["ended_s"].iloc[SHOWN_STEPS])
    inside = table[(table["ended_s"] > low) & (table["began_s"] < high)]
    began, ended = (inside[name].clip(low, high) - low for name in ("began_s", "ended_s"))
    return inside.assign(began_s=began, ended_s=ended)


def _file(config: RunConfig, name: str) -> Path:
    return paths(config).scheduling / f"{name}.csv"


def _read(config: RunConfig, name: str) -> pd.DataFrame:
    try:
        return pd.read_csv(_file(config, name))
    except FileNotFoundError:
        raise DataError(f"{_file(config, name)} is missing; run notebook 06_async_scheduling") from None
