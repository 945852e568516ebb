"""What one step of a run looked like: metrics by the names that dashboards use, and a row for each trajectory.

Times are seconds. time/generate: the engine's decoding and prefilling since the last batch; time/tool: tool seconds of
the batch's trajectories, summed. tool/queue_s, tool/start_s, tool/run_s: what a call of the batch waited for a place,
for its session's start and for its block, on average; tool/queue_s_max: the longest wait of a trajectory, all its calls
together. perf/engine_idle_fraction: engine without a request; perf/learner_idle_fraction: step
time that the learner waited for its batch. Counts async/* are groups: in_flight and queued now, the others since the
run began. rollout/errors counts groups lost to a fault of the environment since the last batch, rollout/malformed the
batch's trajectories that the model ended by breaking the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.provenance import atomic_path
from biomni_lib.rl.scheduler import MODEL_ERRORS, Group

Rows = list[dict[str, Any]]


def trajectory_rows(groups: Sequence[Group], step: int) -> Rows:
    """One row a trained trajectory; staleness is that of its oldest token, in learner versions (one a step)."""
    return [
        {
            "step": step,
            "group": group.index,
            "sample": t.sample,
            "task": t.task,
            "instance_id": t.instance_id,
            "correctness": t.correctness,
            "format": t.format,
            "total": t.total,
            "tokens": t.response_tokens,
            "turns": len(t.turns),
            "tool_calls": t.tool_calls,
            "staleness": step - t.oldest_version if t.oldest_version >= 0 else 0,
            "ending": t.ending,
            "generate_s": sum(turn.generate_s for turn in t.turns),
            "tool_s": sum(turn.tool_s for turn in t.turns),
            "queue_s": sum(turn.queue_s for turn in t.turns),
            "start_s": sum(turn.start_s for turn in t.turns),
        }
        for group in groups
        for t in group.trajectories
    ]


def write_rows(path: Path, rows: Rows) -> None:
    """Rows as a Parquet file, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")


def rollout_metrics(rows: Rows) -> dict[str, float]:
    """reward/*, response/*, async/staleness_*, pass_at_k and rollout/* of one batch."""

    def column(name: str, of: Rows = rows) -> np.ndarray[Any, Any]:
        return np.array([row[name] for row in of])

    metrics = {f"reward/{name}": float(column(name).mean()) for name in ("correctness", "format", "total")}
    for task in sorted({row["task"] for row in rows}):
        metrics[f"reward/by_task/{task}"] = float(column("correctness", [r for r in rows if r["task"] == task]).mean())
    endings = [row["ending"] for row in rows]
    right = column("correctness") >= 1
    metrics |= {
        "response/tokens": float(column("tokens").mean()),
        "response/turns": float(column("turns").mean()),
        "response/truncated": float(np.mean([e in ("token_limit", "turn_limit") for e in endings])),
        "async/staleness_mean": float(column("staleness").mean()),
        "async/staleness_max": float(column("staleness").max()),
        "rollout/malformed": float(sum(e in MODEL_ERRORS for e in endings)),
        "rollout/timeouts": float(sum(e == "timeout" for e in endings)),
        "time/tool": float(column("tool_s").sum()),
        "tool/queue_s_max": float(column("queue_s").max()),
    }
    calls = max(1, int(column("tool_calls").sum()))
    for name, seconds in (("queue_s", "queue_s"), ("start_s", "start_s"), ("run_s", "tool_s")):
        metrics[f"tool/{name}"] = float(column(seconds).sum()) / calls
    for name, chosen in (("right", right), ("wrong", ~right)):
        if chosen.any():
            metrics[f"response/tokens_{name}"] = float(column("tokens")[chosen].mean())
    return metrics | _group_metrics(rows)


def _group_metrics(rows: Rows) -> dict[str, float]:
    by_group: dict[int, list[bool]] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row["correctness"] >= 1)
    groups = list(by_group.values())
    return {
        "pass_at_k": float(np.mean([any(g) for g in groups])),
        "all_succeeded": float(np.mean([all(g) for g in groups])),
        "all_failed": float(np.mean([not any(g) for g in groups])),
    }


def system_metrics(
    report: dict[str, float], before: dict[str, float] | None, *, step_s: float, wait_s: float, weight_sync_s: float
) -> dict[str, float]:
    """time/*, perf/* and async/* counts from the worker's counters at this batch and at the one before."""
    since = {name: value - (before or {}).get(name, 0.0) for name, value in report.items()}
    busy = since["engine/decode_s"] + since["engine/prefill_s"]
    idle = since["engine/idle_s"]
    return {
        "time/step": step_s,
        "time/wait_for_batch": wait_s,
        "time/weight_sync": weight_sync_s,
        "time/generate": busy,
        "perf/tokens_per_s": since["engine/generated_tokens"] / max(busy + idle, 1e-9),
        "perf/engine_idle_fraction": idle / max(busy + idle, 1e-9),
        "perf/learner_idle_fraction": wait_s / max(step_s, 1e-9),
        "perf/event_loop_lag": report["event_loop_lag"],
        "async/in_flight": report["groups/in_flight"],
        "async/queued": report["groups/ready"],
        "async/dropped": report["groups/dropped"],
        "async/filtered": report["groups/filtered"],
        "async/failed": report["groups/failed"],
        "rollout/errors": since["groups/failed"],
    }
