"""Questions to the simulator: how many agents, which staleness, how many engines for N learners, and at what size.

Throughput is the tokens that were trained on a second: what is dropped or filtered does not count. All numbers are
means between the end of a first part of the steps, in which the pipeline fills, and the end of the last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomni_lib.errors import ConfigError, DataError
from biomni_lib.rl.simulator import Setting, Simulation
from biomni_lib.rl.workload import Workload

ENOUGH = 0.95
"""Share of the best throughput that counts as enough."""


def measure(setting: Setting, workload: Workload, *, steps: int, seed: int = 0) -> dict[str, float]:
    """Simulate and summarise.

    Args:
        steps: of the learner; the first quarter, and the steps that the staleness bound fills, are left out.
    Returns: tokens_per_s; engine_busy, the share of time in which an engine had a request; engine_of_limit, tokens
        written over those of engines whose slots are always taken; learner_idle; staleness_mean, staleness_max;
        dropped, the share of settled groups that were too old; steps_per_hour.
    Raises: ConfigError when no step is left.
    """
    first = max(steps // 4, min(setting.max_staleness, steps // 2))
    if steps < 3:
        raise ConfigError(f"steps = {steps}: a simulation needs at least 3")
    simulation = Simulation(setting, workload, seed=seed, keep=False)
    done = simulation.run(steps)
    start, kept = done[first], done[first + 1 :]
    seconds, counts = kept[-1].ended_s - start.ended_s, simulation.scheduler.budget.counts
    staleness = np.concatenate([step.staleness for step in kept])
    settled = counts.trained + counts.dropped + counts.filtered + counts.failed
    written, busy_s = kept[-1].written - start.written, kept[-1].busy_s - start.busy_s
    return {
        "tokens_per_s": sum(step.tokens for step in kept) / seconds,
        "engine_busy": busy_s / seconds / setting.engine.count,
        "engine_of_limit": written / seconds / setting.engine.tokens_per_s,
        "learner_idle": sum(step.waited_s for step in kept) / seconds,
        "staleness_mean": float(staleness.mean()),
        "staleness_max": float(staleness.max()),
        "dropped": counts.dropped / settled,
        "steps_per_hour": 3600 * len(kept) / seconds,
    }


def sweep(
    setting: Setting, workload: Workload, name: str, values: Sequence[Any], *, steps: int, seed: int = 0
) -> pd.DataFrame:
    """`measure` for several values of one setting, the work being the same; a row a value.

    Args:
        name: of the setting: agents, max_staleness, engine.count, learner.count, …
    """
    return pd.DataFrame(
        {name: value, **measure(changed(setting, **{name: value}), workload, steps=steps, seed=seed)}
        for value in values
    )


def changed(setting: Setting, **values: Any) -> Setting:
    """A setting with other values; names of parts are dotted. Raises: ConfigError for a name that it has not."""
    for name, value in values.items():
        part, _, inner = name.rpartition(".")
        try:
            if part:
                value = dataclasses.replace(getattr(setting, part), **{inner: value})
            setting = dataclasses.replace(setting, **{part or inner: value})
        except (AttributeError, TypeError):
            raise ConfigError(f"{name} is no setting of a simulation") from None
    return setting


def enough(table: pd.DataFrame, name: str) -> Any:
    """The smallest value of a sweep that reaches `ENOUGH` of its best throughput."""
    good = table[table["tokens_per_s"] >= ENOUGH * table["tokens_per_s"].max()]
    return good[name].min()


def engines_for(
    setting: Setting, workload: Workload, learners: Sequence[int], *, engines_max: int, steps: int, seed: int = 0
) -> pd.DataFrame:
    """The fewest engines that give N learners `ENOUGH` of what `engines_max` would give them.

    The batch grows with the learners, the agents with the engines. A learner that still waits then waits for tools: the
    staleness bound lets no more agents be under way, and more engines would not help.

    Args:
        setting: for one learner and one engine.
    Returns: learners, engines, and `measure` with as many; a row a number of learners.
    """
    rows = []
    for count in learners:
        sizes: dict[str, Any] = {"learner.count": count, "groups_per_step": setting.groups_per_step * count}
        batch = changed(setting, **sizes)
        low, high, best = 0, engines_max, _with_engines(batch, setting.agents, engines_max, workload, steps, seed)
        aim = ENOUGH * best["tokens_per_s"]
        while high - low > 1:
            middle = (low + high) // 2
            tried = _with_engines(batch, setting.agents, middle, workload, steps, seed)
            if tried["tokens_per_s"] >= aim:
                high, best = middle, tried
            else:
                low = middle
        rows.append({"learners": count, "engines": high, **best})
    return pd.DataFrame(rows)


def _with_engines(
    setting: Setting, agents: int, engines: int, workload: Workload, steps: int, seed: int
) -> dict[str, float]:
    wanted = changed(setting, **{"engine.count": engines}, agents=agents * engines)
    return measure(wanted, workload, steps=steps, seed=seed)


def scaling(
    setting: Setting, workload: Workload, sizes: Sequence[int], *, steps: int, seeds: Sequence[int] = (0,)
) -> pd.DataFrame:
    """`measure` at several sizes, everything growing with the engines: agents, batch and learners.

    Args:
        setting: for one engine; `learner.count` is raised to one a size, the learner's time a token being the same.
    Returns: engines, agents, seed, then `measure`; a row a size and seed.
    """
    return pd.DataFrame(
        {
            "engines": size,
            "agents": setting.agents * size,
            "seed": seed,
            **measure(_grown(setting, size), workload, steps=steps, seed=seed),
        }
        for size in sizes
        for seed in seeds
    )


def _grown(setting: Setting, size: int) -> Setting:
    learners = setting.learner.count * size
    groups = setting.groups_per_step * size
    sizes: dict[str, Any] = {"engine.count": size, "learner.count": learners, "refill_max": setting.refill_max * size}
    return changed(setting, **sizes, groups_per_step=groups, agents=setting.agents * size)


def extrapolate(table: pd.DataFrame, sizes: Sequence[int]) -> pd.DataFrame:
    """Throughput at sizes that were not simulated, with the error of saying so.

    A power law is fitted to all simulated runs. Its error is the wider of two: the 95% prediction interval of the fit,
    and what the same method errs by when it predicts the largest simulated size from the smaller ones, once for every
    step of that ratio (a wrong exponent errs in proportion to the logarithm of the size).

    Args:
        table: of `scaling`, with at least four sizes.
    Returns: engines, tokens_per_s, low, high, error (relative, of the wider side), held_out (relative error on the
        largest simulated size), exponent; a row a size.
    Raises: DataError with fewer than four sizes.
    """
    simulated = np.unique(table["engines"])
    if len(simulated) < 4:
        raise DataError(f"an extrapolation needs at least 4 simulated sizes, not {len(simulated)}")
    size, rate = np.log(table["engines"].to_numpy(float)), np.log(table["tokens_per_s"].to_numpy(float))
    wanted = np.log(np.asarray(sizes, float))
    predicted, half, exponent = _power_law(size, rate, wanted)
    largest, before = math.log(simulated[-1]), math.log(simulated[-2])
    held = size < largest
    told = float(_power_law(size[held], rate[held], np.array([largest]))[0][0])
    held_out = abs(told - float(rate[~held].mean()))
    half = np.maximum(half, held_out * np.maximum(1.0, (wanted - largest) / (largest - before)))
    return pd.DataFrame(
        {
            "engines": list(sizes),
            "tokens_per_s": np.exp(predicted),
            "low": np.exp(predicted - half),
            "high": np.exp(predicted + half),
            "error": np.expm1(half),
            "held_out": math.expm1(held_out),
            "exponent": exponent,
        }
    )


def _power_law(
    size: NDArray[np.float64], rate: NDArray[np.float64], wanted: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """A line through logarithms. Returns: predictions, half-widths of their 95% prediction intervals, the slope."""
    from scipy.stats import t

    slope, offset = np.polyfit(size, rate, 1)
    free, spread = len(size) - 2, size - size.mean()
    noise = math.sqrt(float(((rate - slope * size - offset) ** 2).sum()) / free)
    widening = np.sqrt(1 + 1 / len(size) + (wanted - size.mean()) ** 2 / float((spread**2).sum()))
    return slope * wanted + offset, float(t.ppf(0.975, free)) * noise * widening, float(slope)
