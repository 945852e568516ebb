"""What a trajectory is worth: correctness (0 to 1) plus format (0 or 1), range 0 to 2.

Source: the reward of the Biomni-R0 recipe. Correctness is the task's strict grade: an answer that names more
candidates than the gold has earns nothing, so that listing every candidate gene does not pay. An acceptable second
choice, such as another delivery method that would work, earns half; the benchmark's score knows no halves.
"""

from __future__ import annotations

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.protocol import turn_is_well_formed
from biomni_lib.tasks import Instance, grade

REWARD_RANGE = (0.0, 2.0)
HALF_CREDIT = 0.5
"""What an answer is worth that the instance's `meta["acceptable"]` lists."""


def format_score(assistant_turns: list[str]) -> int:
    """1 when every assistant turn is well-formed, else 0.

    Well-formed: one think block, then one execute or one solution block, nothing nested or interleaved, the solution in
    the last turn and only there. Text outside the blocks is allowed; no turn at all is not well-formed.
    """
    last = len(assistant_turns) - 1
    return int(last >= 0 and all(turn_is_well_formed(t, last=i == last) for i, t in enumerate(assistant_turns)))


def correctness(answer: str | None, instance: Instance) -> float:
    """What an answer is worth in training: 1.0, 0.5 for an acceptable second choice, or 0.0.

    Raises: ConfigError for an instance of an unknown task; nothing for any answer.
    """
    if grade(instance.task, answer, instance.gold, strict=True):
        return 1.0
    seconds = instance.meta.get("acceptable", ())
    return HALF_CREDIT * any(grade(instance.task, answer, second, strict=True) for second in seconds)


def score(trajectory: Trajectory, instance: Instance, *, format_weight: float = 1.0) -> Trajectory:
    """Set the trajectory's correctness, format and total in place, and return it; `format_weight` is of the total."""
    trajectory.correctness = correctness(trajectory.answer, instance)
    trajectory.format = float(format_score(trajectory.assistant_turns))
    trajectory.total = trajectory.correctness + format_weight * trajectory.format
    return trajectory
