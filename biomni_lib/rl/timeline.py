"""When everything happened, as spans of time: of a real run and of a simulated one in the same table.

A trajectory takes a lane from its beginning to its end, the lowest that is free; within, generating and tools follow
each other as its turns say. Only trajectories that were trained on are known; what was dropped or filtered leaves gaps.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import pandas as pd

from biomni_lib.errors import DataError
from biomni_lib.rl.simulator import SimulatedStep, members

LEARNER = -1
"""The learner's lane."""
COLUMNS = ["lane", "kind", "step", "began_s", "ended_s"]


def spans(rows: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Spans of a run, in seconds since its first.

    Args:
        rows: a row a trajectory: step, began_s, ended_s, turn_generate_s, turn_wait_s, turn_tool_s.
        steps: a row a learner step: step, began_s, ended_s.
    Returns: lane (`LEARNER` for the learner's), kind (generate, wait, tool, other, learn), step, began_s, ended_s.
    Raises: DataError when no trajectory says when it began.
    """
    known = rows.dropna(subset=["began_s", "ended_s"]).sort_values("began_s", kind="stable")
    if known.empty:
        raise DataError("the timeline needs trajectories that say when they began; run notebook 03_async_rl")
    found: list[tuple[Any, ...]] = []
    for lane, row in zip(_lanes(known), known.itertuples(), strict=True):
        found += _trajectory_spans(lane, row)
    found += [(LEARNER, "learn", row.step, row.began_s, row.ended_s) for row in steps.itertuples()]
    table = pd.DataFrame(found, columns=COLUMNS)
    first = table["began_s"].min()
    return table.assign(began_s=table["began_s"] - first, ended_s=table["ended_s"] - first)


def learner_steps(metrics: pd.DataFrame) -> pd.DataFrame:
    """When a real run's learner worked: step, began_s, ended_s, from the metrics of its steps."""
    began = metrics["time"] - metrics["time/step"] + metrics["time/wait_for_batch"]
    return pd.DataFrame({"step": metrics["step"], "began_s": began, "ended_s": began + metrics["time/learn"]})


def simulated_steps(steps: Sequence[SimulatedStep]) -> pd.DataFrame:
    """The same of a simulated run."""
    return pd.DataFrame({"step": s.step, "began_s": s.began_s, "ended_s": s.ended_s} for s in steps)


def simulated_rows(steps: Sequence[SimulatedStep]) -> pd.DataFrame:
    """What `report.trajectory_rows` says of a real run, as far as a simulation knows it."""
    return pd.DataFrame(
        {
            "step": step.step,
            "group": group.index,
            "sample": t.sample,
            "tokens": t.tokens,
            "staleness": step.step - t.oldest_version,
            "began_s": began_s,
            "ended_s": ended_s,
            "turn_generate_s": t.turn_generate_s,
            "turn_wait_s": t.turn_wait_s,
            "turn_tool_s": t.turn_tool_s,
        }
        for step in steps
        for group in step.groups
        for t, (began_s, ended_s) in zip(members(group), group.spans, strict=True)
    )


def _lanes(rows: pd.DataFrame) -> list[int]:
    """The lowest free lane of each row, in their order, which is that of their beginnings."""
    free: list[int] = []
    taken: list[tuple[float, int]] = []
    lanes = []
    for row in rows.itertuples():
        while taken and taken[0][0] <= row.began_s:
            heapq.heappush(free, heapq.heappop(taken)[1])
        lane = heapq.heappop(free) if free else len(taken)
        heapq.heappush(taken, (row.ended_s, lane))
        lanes.append(lane)
    return lanes


def _trajectory_spans(lane: int, row: Any) -> list[tuple[Any, ...]]:
    """Turn after turn; what is left at the end (closing the session, waiting for the event loop) is other."""
    found, at = [], row.began_s
    for times in zip(row.turn_generate_s, row.turn_wait_s, row.turn_tool_s, strict=True):
        for kind, seconds in zip(("generate", "wait", "tool"), times, strict=True):
            if seconds > 0:
                found.append((lane, kind, row.step, at, min(at + seconds, row.ended_s)))
            at = min(at + seconds, row.ended_s)
    if row.ended_s > at:
        found.append((lane, "other", row.step, at, row.ended_s))
    return found
