"""The toy world with its engines as Ray actors, some of which are killed while they write."""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.engines.base import EngineStats
from biomni_lib.engines.ray_engine import RayEngines, start_engines
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import EngineDiedError, EngineLostError
from biomni_lib.rl.scheduler import Ticket
from biomni_lib.rl.worker import WorkerSpec, World
from tests.ray_nodes import process_of
from tests.rl_toy import PROBE, ToyRenderer, toy_engine, world_around

KILLING_GROUPS = (9, 22)
LOST = "lost.txt"
"""File beside the model: a line for each member that was lost with its engine."""


def toy_engines(spec: WorkerSpec) -> RayEngines:
    opened = functools.partial(toy_engine, spec.model_dir, spec.config.engine.slots)
    return start_engines(spec.config, opened, ToyRenderer(), heartbeat_s=0.2)


@contextlib.asynccontextmanager
async def ray_world(spec: WorkerSpec) -> AsyncIterator[World]:
    async with world_around(toy_engines(spec), spec) as world:
        yield world


@contextlib.asynccontextmanager
async def killing_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Twice, when all members of a group write, the process of their engine is killed."""
    engines = toy_engines(spec)
    armed = {group: asyncio.Event() for group in KILLING_GROUPS}
    async with world_around(engines, spec) as world:

        async def kill_engine_of(ticket: Ticket) -> None:
            processes = [await process_of(engine) for engine in engines.engines]
            armed[ticket.group].set()
            for _ in range(20):
                await asyncio.sleep(0)  # the members begin
            taken = [
                n for key, n in engines._routes._engine_of.items() if f"{key}".startswith(f"{ticket.instance.id}/")
            ]
            os.kill(processes[taken[-1]], signal.SIGKILL)

        async def run_member(ticket: Ticket) -> Trajectory:
            if ticket.group in armed and ticket.attempt == 0:
                if ticket.sample == spec.config.rl.group_size - 1:
                    await kill_engine_of(ticket)
                await armed[ticket.group].wait()
            try:
                return await world.run_member(ticket)
            except EngineLostError:
                with (spec.model_dir / LOST).open("a") as lost:
                    lost.write(f"{ticket.group} {ticket.sample} {ticket.attempt}\n")
                raise

        yield World(engines, run_member, PROBE)


@contextlib.asynccontextmanager
async def hopeless_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Engines whose processes vanish as soon as they start."""
    engines = start_engines(spec.config, vanish, ToyRenderer())
    async with world_around(engines, spec) as world:
        yield world


class EndsOnce(TransformersEngine):
    """The first one for a model folder says that its own process has ended."""

    def stats(self) -> EngineStats:
        said = Path(self.model.config._name_or_path) / "ended"
        if not said.exists():
            said.touch()
            raise EngineDiedError("the engine's process has ended")
        return super().stats()


def vanish() -> Any:
    os._exit(3)


async def until(condition: Any, timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
