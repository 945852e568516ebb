"""The agent's world for RL rollouts: the engine, the sandbox over the lake, and the rewards."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.prompt import system_prompt
from biomni_lib.agent.rollout import RolloutSettings, rollout, rollout_seed
from biomni_lib.config import RunConfig
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.rewards import score
from biomni_lib.rl.worker import WorkerSpec, World
from biomni_lib.sandbox import Environment, start_environment
from biomni_lib.tasks import Instance

SEED_DOMAIN = zlib.crc32(b"rl.rollout")


@contextlib.asynccontextmanager
async def agent_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Open engine and sandbox for a run, and close them after it.

    At most `engine.slots` trajectories run at once, so that an open conversation never loses its slot: a reply's bits
    then do not depend on what else is running.
    """
    config = spec.config
    engine = TransformersEngine.load(
        spec.model_dir,
        slots=config.engine.slots,
        context=config.model.context,
        prefill_chunk=config.engine.prefill_chunk,
    )
    try:
        sandbox = await start_environment(config, config.lake_dir)
        try:
            yield World(engine, _GroupRunner(config, engine, sandbox))
        finally:
            await sandbox.close()
    finally:
        await engine.close()


class _GroupRunner:
    def __init__(self, config: RunConfig, engine: TransformersEngine, sandbox: Environment) -> None:
        self.config, self.engine, self.sandbox = config, engine, sandbox
        self.renderer: ChatRenderer = engine.renderer
        self.places = asyncio.Semaphore(min(config.engine.slots, config.sandbox.sessions_max))
        self.settings = RolloutSettings(
            agent=config.agent,
            system_prompt=system_prompt(config.prompt.tools),
            execute_timeout_s=config.sandbox.execute_timeout_s,
            temperature=config.rl.temperature,
            deadlines=config.rl.max_staleness > 0,
        )

    async def __call__(self, group_index: int, instance: Instance) -> list[Trajectory]:
        """Roll one group out; the first error of a member is raised when all members have ended."""
        members = (self._member(group_index, instance, sample) for sample in range(self.config.rl.group_size))
        results = await asyncio.gather(*members, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Trajectory)]

    async def _member(self, group_index: int, instance: Instance, sample: int) -> Trajectory:
        async with self.places:
            trajectory = await rollout(
                instance,
                self.engine,
                self.sandbox,
                self.renderer,
                self.settings,
                seed=rollout_seed(self.config.seed, SEED_DOMAIN, group_index, sample),
                sample=sample,
                model="rl",
            )
        return score(trajectory, instance)
