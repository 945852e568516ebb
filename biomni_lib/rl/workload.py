"""What simulated agents do: how much each turn reads and writes, and how long its tool takes.

Plans come from trajectories that were recorded, or from recorded ones whose tool latencies are replaced by heavy-tailed
ones. Which plan a ticket gets is a function of the seed and the ticket alone, so two simulations of different settings
face the same work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from biomni_lib.errors import DataError

POOL = 1 << 15
"""Plans drawn for a heavy-tailed workload."""
P99_NORMAL = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""
MASK = (1 << 64) - 1


class Plan(NamedTuple):
    """A trajectory, turn by turn: tokens read before it (prompt or observation), tokens written, seconds of the tool.

    The last turn calls no tool; its seconds are 0.
    """

    read: tuple[int, ...]
    write: tuple[int, ...]
    tool_s: tuple[float, ...]


@dataclass(frozen=True)
class Workload:
    """Plans to draw from, and how often groups come to nothing.

    `flat` is the share of groups whose rewards are all equal, `failing` the share of trajectories that end in a fault.
    """

    plans: Sequence[Plan]
    flat: float = 0.0
    failing: float = 0.0

    def plan(self, seed: int, *path: int) -> Plan:
        """The plan at a place: group, sample, attempt."""
        return self.plans[_mixed(seed, *path) % len(self.plans)]

    def is_flat(self, seed: int, group: int) -> bool:
        """Whether a group's rewards are all equal."""
        return self.flat > 0 and _mixed(seed, group, 1 << 40) / MASK < self.flat

    def fails(self, seed: int, *path: int) -> bool:
        """Whether a trajectory ends in a fault."""
        return self.failing > 0 and _mixed(seed, *path, 1 << 41) / MASK < self.failing


def recorded_plans(rows: pd.DataFrame) -> list[Plan]:
    """The plans of trajectories that were trained on.

    Args:
        rows: of `report.trajectory_rows`: turn_read, turn_tokens, turn_tool_s, one list a trajectory.
    Raises: DataError when there are none.
    """
    columns = ["turn_read", "turn_tokens", "turn_tool_s"]
    if rows.empty or not set(columns) <= set(rows):
        raise DataError(f"a workload needs trajectories with {', '.join(columns)}; run notebook 03_async_rl")
    return [
        Plan(tuple(map(int, read)), tuple(map(int, write)), (*map(float, tool[:-1]), 0.0))
        for read, write, tool in zip(*(rows[column] for column in columns), strict=True)
        if len(write)
    ]


def heavy_tailed(
    plans: Sequence[Plan],
    *,
    median_s: float,
    p99_over_median: float = 30.0,
    limit_s: float = math.inf,
    seed: int = 0,
    size: int = POOL,
) -> list[Plan]:
    """The same reading and writing with lognormal tool latencies.

    Args:
        median_s: of the latencies. p99_over_median: 30 is what production tools show; 1 makes all equal.
        limit_s: the tool's deadline, which cuts the tail.
        size: plans drawn.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, POOL]))
    sigma = math.log(p99_over_median) / P99_NORMAL
    chosen = [plans[i] for i in rng.integers(len(plans), size=size)]
    latencies = median_s * np.exp(sigma * rng.standard_normal(sum(len(plan.tool_s) for plan in chosen)))
    drawn = iter(np.minimum(latencies, limit_s).tolist())
    made = []
    for plan in chosen:
        seconds = [next(drawn) for _ in plan.tool_s]
        made.append(plan._replace(tool_s=(*seconds[:-1], 0.0)))
    return made


def typical_plans(*, turns: int, read: int, write: int, tool_s: float) -> list[Plan]:
    """One plan of equal turns, for examples and tests."""
    return [Plan((read,) * turns, (write,) * turns, (*[tool_s] * (turns - 1), 0.0))]


def _mixed(seed: int, *path: int) -> int:
    """A 64-bit hash of a seed and a place (splitmix64; Steele et al. 2014)."""
    state = seed
    for value in path:
        state = (state * 0x9E3779B97F4A7C15 + value + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state
