"""Rejection sampling from a model that is paid for: every finished trajectory is written at once.

The scripted teacher is sampled by `rejection.sample_teacher`, in chunks that can be made again for nothing. Here an
interrupted sampling goes on with what is missing: finished trajectories are read from their files, and of an unfinished
one the engine's journal gives the turns that were paid for, as far as the sandbox answers them as before.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout, rollout_seed
from biomni_lib.engines.base import Engine
from biomni_lib.rewards import score
from biomni_lib.sft.rejection import Progress
from biomni_lib.tasks import Instance, refuse_evaluation_only

SEED_DOMAIN = zlib.crc32(b"sft.model_teacher")


async def sample_model(
    instances: Sequence[Instance],
    engine: Engine,
    sandbox: ToolEnvironment,
    renderer: ChatRenderer,
    settings: RolloutSettings,
    folder: Path,
    *,
    model: str,
    samples: int,
    seed: int,
    concurrency: int,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """Roll a model out on every instance, and grade.

    Args:
        folder: holds one file a finished trajectory; those that are there are not sampled again.
        model: its name, the trajectories' strategy. samples: trajectories an instance.
        concurrency: rollouts at once. progress: told after each.
    Returns: graded trajectories in the order of instances and samples.
    Raises: DataError for an instance of a benchmark; the first error of a rollout, such as SpendingCapError, when all
        have been stopped.
    """
    refuse_evaluation_only((instance.id for instance in instances), "sample_model")
    places, done = asyncio.Semaphore(concurrency), 0
    total = len(instances) * samples

    async def one(number: int, instance: Instance, sample: int) -> Trajectory:
        nonlocal done
        file = folder / f"{number:06d}-{sample:03d}.parquet"
        async with places:
            if not file.is_file():
                own_seed = rollout_seed(seed, SEED_DOMAIN, number, sample)
                made = await rollout(
                    instance, engine, sandbox, renderer, settings, seed=own_seed, sample=sample, model="teacher"
                )
                made.strategy = model
                save_trajectories(file, [score(made, instance)])
        done += 1
        if progress is not None:
            progress(done, total)
        return load_trajectories(file)[0]

    jobs = [one(i, instance, sample) for i, instance in enumerate(instances) for sample in range(samples)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
