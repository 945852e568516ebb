"""What the report says of a batch: the latency of its tool calls, part by part."""

import pytest

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.rl.report import rollout_metrics, trajectory_rows
from biomni_lib.rl.scheduler import Group


def trajectory(*times: tuple[float, float, float]) -> Trajectory:
    """One whose calls waited, started and ran so many seconds, and whose last turn answers."""
    made = Trajectory("t", "i", ending="solved", correctness=1.0, format=1.0, total=1.0)
    for queue_s, start_s, tool_s in times:
        made.turns.append(Turn(0, 0, "execute", "", tool_s=tool_s, queue_s=queue_s, start_s=start_s))
    made.turns.append(Turn(0, 0, "solution", ""))
    return made


def test_the_parts_of_tool_latency_are_means_over_calls() -> None:
    rows = trajectory_rows([Group(0, [trajectory((1.0, 2.0, 3.0), (2.0, 0.0, 1.0)), trajectory((0.0, 4.0, 8.0))])], 0)
    metrics = rollout_metrics(rows)
    parts = {name: metrics[f"tool/{name}"] for name in ("queue_s", "start_s", "run_s", "queue_s_max")}
    assert parts == pytest.approx({"queue_s": 1.0, "start_s": 2.0, "run_s": 4.0, "queue_s_max": 3.0})
    assert metrics["time/tool"] == 12.0


def test_a_batch_without_calls_has_no_latency() -> None:
    metrics = rollout_metrics(trajectory_rows([Group(0, [trajectory()])], 0))
    assert (metrics["tool/queue_s"], metrics["tool/start_s"], metrics["tool/run_s"]) == (0.0, 0.0, 0.0)
