"""What one step of a run looked like: metrics by the names that dashboards use, and a row for each trajectory.

Times are seconds. time/generate: the engine's decoding and prefilling since the last batch; time/weight_swap: the
engine's pause for new weights, with what it read again for them in time/kv_recompute; time/weight_sync: from their
arrival until they serve; time/tool: tool seconds of the batch's trajectories, summed. tool/queue_s, tool/start_s,
tool/run_s: what a call of the batch waited for a place, for its session's start and for its block, on average;
tool/queue_s_max: the longest wait of a trajectory, all its calls together. perf/engine_idle_fraction: engine without a
request; perf/learner_idle_fraction: step time that the learner waited for its batch; perf/decode_step_s and
perf/prefill_token_s: what one decoding step of all slots and one token read cost, copied ones included. Counts async/*
are groups: in_flight and queued now, the others since the run began; async/replaced are members. rollout/errors counts
groups lost to a fault of the environment since the last batch, rollout/engines_lost the actors of engines that were
lost since the run began (what they had under way is among async/replaced), rollout/malformed the batch's trajectories
that the model ended by breaking the protocol. Of several engines, seconds are added up, and rates are an engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.provenance import atomic_path
from biomni_lib.rl.scheduler import MODEL_ERRORS, Group

Rows = list[dict[str, Any]]


def trajectory_rows(groups: Sequence[Group], step: int) -> Rows:
    """One row a trained trajectory; staleness is that of its oldest token, in learner versions (one a step).

    began_s and ended_s are seconds since 1970, NaN where the group does not say; the lists have one entry a turn:
    tokens written, tokens read before them (the prompt, or the observation), and seconds of generating, of waiting for
    the sandbox, and in the tool.
    """
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
            "began_s": began_s,
            "ended_s": ended_s,
            "turn_tokens": [turn.end - turn.start for turn in t.turns],
            "turn_read": [turn.start - before for turn, before in zip(t.turns, _turn_ends(t), strict=False)],
            "turn_generate_s": [turn.generate_s for turn in t.turns],
            "turn_wait_s": [turn.queue_s + turn.start_s for turn in t.turns],
            "turn_tool_s": [turn.tool_s for turn in t.turns],
        }
        for group in groups
        for t, (began_s, ended_s) in zip(group.trajectories, group.spans or _unknown(group), strict=True)
    ]


def _turn_ends(trajectory: Trajectory) -> list[int]:
    return [0, *(turn.end for turn in trajectory.turns)]


def _unknown(group: Group) -> list[tuple[float, float]]:
    return [(float("nan"), float("nan"))] * len(group.trajectories)


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
    idle, swap = since["engine/idle_s"], since["engine/swap_s"] + since["engine/recompute_s"]
    read = since["engine/prefilled_tokens"] + since["engine/cached_tokens"]
    whole = max(busy + swap + idle, 1e-9)
    return {
        "time/step": step_s,
        "time/wait_for_batch": wait_s,
        "time/weight_sync": weight_sync_s,
        "time/generate": busy,
        "time/weight_swap": swap,
        "time/kv_recompute": since["engine/recompute_s"],
        "perf/tokens_per_s": since["engine/generated_tokens"] / whole,
        "perf/engine_idle_fraction": idle / whole,
        "perf/decode_step_s": since["engine/decode_s"] / max(since["engine/decode_steps"], 1.0),
        "perf/prefill_token_s": since["engine/prefill_s"] / max(read, 1.0),
        "perf/learner_idle_fraction": wait_s / max(step_s, 1e-9),
        "perf/event_loop_lag": report["event_loop_lag"],
        "async/in_flight": report["groups/in_flight"],
        "async/queued": report["groups/ready"],
        "async/dropped": report["groups/dropped"],
        "async/filtered": report["groups/filtered"],
        "async/failed": report["groups/failed"],
        "async/replaced": report["groups/replaced"],
        "async/admitted": report["groups/admitted"],
        "rollout/errors": since["groups/failed"],
        "rollout/engines_lost": report["engine/lost"],
    }
