"""Rejection sampling: let a teacher try each instance several times, keep what is right and well-formed."""

from __future__ import annotations

import asyncio
import collections
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout, rollout_seed
from biomni_lib.engines.scripted import ScriptedEngine
from biomni_lib.rewards import score
from biomni_lib.sft.teacher import STRATEGIES, strategy_script
from biomni_lib.tasks import Instance, refuse_evaluation_only

SEED_DOMAIN = zlib.crc32(b"sft.teacher")
Progress = Callable[[int, int], None]
"""(trajectories done, trajectories in all)."""


async def sample_teacher(
    instances: Sequence[Instance],
    sandbox: ToolEnvironment,
    renderer: ChatRenderer,
    settings: RolloutSettings,
    *,
    samples: int,
    seed: int,
    concurrency: int,
    mix: Mapping[str, float] = STRATEGIES,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """Roll the scripted teacher out on every instance, and grade.

    Args:
        samples: trajectories an instance. mix: how often each strategy is followed.
        concurrency: rollouts at once. progress: told after each.
    Returns: graded trajectories in the order of instances and samples, with their strategy.
    Raises: DataError for an instance of a benchmark; the first error of a rollout, when all have been stopped.
    """
    refuse_evaluation_only((instance.id for instance in instances), "sample_teacher")
    engines = {name: ScriptedEngine(strategy_script(name), renderer) for name in mix}
    places, done = asyncio.Semaphore(concurrency), 0
    total = len(instances) * samples

    async def one(number: int, instance: Instance, sample: int) -> Trajectory:
        nonlocal done
        own_seed = rollout_seed(seed, SEED_DOMAIN, number, sample)
        strategy = draw_strategy(mix, np.random.default_rng(own_seed))
        async with places:
            trajectory = await rollout(
                instance, engines[strategy], sandbox, renderer, settings, seed=own_seed, sample=sample, model="teacher"
            )
        trajectory.strategy = strategy
        done += 1
        if progress is not None:
            progress(done, total)
        return score(trajectory, instance)

    jobs = [one(i, instance, sample) for i, instance in enumerate(instances) for sample in range(samples)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def draw_strategy(mix: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the mix's strategies, by weight."""
    weights = np.array(list(mix.values()))
    return str(rng.choice(list(mix), p=weights / weights.sum()))


def accept(trajectories: Sequence[Trajectory], *, cap: int) -> list[Trajectory]:
    """The trajectories to learn from: correct, well-formed, no two alike, at most `cap` an instance, in order."""
    kept: list[Trajectory] = []
    per_instance: collections.Counter[tuple[str, str]] = collections.Counter()
    seen: set[tuple[str, str, bytes]] = set()
    for trajectory in trajectories:
        instance = (trajectory.task, trajectory.instance_id)
        key = (*instance, trajectory.token_ids.tobytes())
        good = trajectory.correctness == 1 and trajectory.format == 1
        if good and key not in seen and per_instance[instance] < cap:
            seen.add(key)
            per_instance[instance] += 1
            kept.append(trajectory)
    return kept


def acceptance_table(trajectories: Sequence[Trajectory], kept: Sequence[Trajectory]) -> pd.DataFrame:
    """What became of the samples, by task and strategy.

    Returns: columns task, strategy, sampled, correct, well_formed, accepted (both), kept (after deduplication and the
        cap), tokens (mean response tokens), turns (mean).
    """
    rows = pd.DataFrame(
        {
            "task": t.task,
            "strategy": t.strategy,
            "correct": t.correctness,
            "well_formed": t.format,
            "accepted": float(t.correctness == 1 and t.format == 1),
            "tokens": t.response_tokens,
            "turns": len(t.turns),
        }
        for t in trajectories
    )
    groups = rows.groupby(["task", "strategy"], sort=True)
    table = groups[["correct", "well_formed", "accepted", "tokens", "turns"]].mean()
    table.insert(0, "sampled", groups.size())
    counts = collections.Counter((t.task, t.strategy) for t in kept)
    table["kept"] = [counts[key] for key in table.index]
    return table.reset_index()
