"""The agent's world for RL rollouts: the engine, the sandbox over the lake, and the rewards."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout, rollout_seed
from biomni_lib.engines.base import Engine
from biomni_lib.engines.local import load_engine, takes_adapters
from biomni_lib.rewards import score
from biomni_lib.rl.scheduler import Ticket
from biomni_lib.rl.worker import WorkerSpec, World
from biomni_lib.sandbox import Environment, start_environment

if TYPE_CHECKING:
    from biomni_lib.engines.local import LocalEngine
    from biomni_lib.engines.ray_engine import RayEngines

SEED_DOMAIN = zlib.crc32(b"rl.rollout")


@contextlib.asynccontextmanager
async def agent_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Engine and sandbox of a run, each going on by itself."""
    async with engine_and_sandbox(spec) as (engine, sandbox):
        runner = MemberRunner(spec, engine, sandbox, engine.renderer)
        yield World(engine, runner, runner.probe())


@contextlib.asynccontextmanager
async def engine_and_sandbox(spec: WorkerSpec) -> AsyncIterator[tuple[LocalEngine | RayEngines, Environment]]:
    """Open both for a run, and close them after it."""
    config = spec.config
    engine = load_engine(
        config,
        spec.model_dir,
        parked=config.engine.parked,
        kv_on_update=config.rl.kv_on_update,
        adapter_rank=config.rl.lora_rank if takes_adapters(config) else None,
    )
    try:
        sandbox = await start_environment(config, config.lake_dir)
        try:
            yield engine, sandbox
        finally:
            await sandbox.close()
    finally:
        await engine.close()


class MemberRunner:
    """Rolls out and scores members of groups.

    Args:
        spec: of the run. engine, sandbox: what its rollouts use. renderer: of the engine's tokenizer.
    """

    def __init__(self, spec: WorkerSpec, engine: Engine, sandbox: ToolEnvironment, renderer: ChatRenderer) -> None:
        config = spec.config
        self.config, self.engine, self.sandbox, self.renderer = config, engine, sandbox, renderer
        self.format_weight, self.first = spec.format_weight, spec.instances[:1]
        self.settings = RolloutSettings(
            agent=config.agent,
            system_prompt=system_prompts(config.prompt.tools, config.prompt.biomni_tools),
            execute_timeout_s=config.sandbox.execute_timeout_s,
            temperature=config.rl.temperature,
            deadlines=config.rl.max_staleness > 0,
        )

    def probe(self) -> list[int]:
        """The prompt on which engine and learner are compared: that of the run's first instance."""
        system = self.settings.system_prompt
        return [token for one in self.first for token in self.renderer.prompt(system(one.task), one.prompt)]

    async def __call__(self, ticket: Ticket) -> Trajectory:
        """Roll one member of a group out and score it; each attempt draws anew."""
        attempt = (ticket.attempt,) if ticket.attempt else ()
        trajectory = await rollout(
            ticket.instance,
            self.engine,
            self.sandbox,
            self.renderer,
            self.settings,
            seed=rollout_seed(self.config.seed, SEED_DOMAIN, ticket.group, ticket.sample, *attempt),
            sample=ticket.sample,
            model="rl",
        )
        return score(trajectory, ticket.instance, format_weight=self.format_weight)
