"""The agent's world with the environment coupled to inference, for comparison: tools and replies take turns.

As in loops that generate for a whole batch, run all of its tools, and generate again: no tool starts before every reply
under way is written, and no reply before every tool that waited is done. Everything else is `agent_world`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from biomni_lib.agent.rollout import ToolEnvironment, ToolResult, ToolSession
from biomni_lib.engines.base import Completion, Engine, EngineStats, Sampling
from biomni_lib.rl.agent_world import MemberRunner, engine_and_sandbox
from biomni_lib.rl.worker import WorkerSpec, World

Phase = Literal["reply", "tool"]


class Phases:
    """Lets replies or tools go on, never both; whoever waits goes before newcomers of the other phase."""

    def __init__(self) -> None:
        self._running: Counter[Phase] = Counter()
        self._waiting: Counter[Phase] = Counter()
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def take_part(self, phase: Phase) -> AsyncIterator[None]:
        """Wait until the other phase is over, and hold it off while the block runs."""
        other: Phase = "tool" if phase == "reply" else "reply"
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting[other])
            self._waiting[phase] += 1
            try:
                await self._changed.wait_for(lambda: not self._running[other])
                self._running[phase] += 1
            finally:
                self._waiting[phase] -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._running[phase] -= 1
                self._changed.notify_all()


@contextlib.asynccontextmanager
async def coupled_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Engine and sandbox of a run, of which one waits while the other works."""
    phases = Phases()
    async with engine_and_sandbox(spec) as (engine, sandbox):
        coupled = _Engine(engine, phases), _Sandbox(sandbox, phases)
        runner = MemberRunner(spec, *coupled, engine.renderer)
        yield World(engine, runner, runner.probe())


class _Engine(Engine):
    def __init__(self, engine: Engine, phases: Phases) -> None:
        self._engine, self._phases = engine, phases

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        async with self._phases.take_part("reply"):
            return await self._engine.generate(prompt_ids, sampling, session=session)

    async def release(self, session: str) -> None:
        await self._engine.release(session)

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        await self._engine.load_weights(version, source)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    async def close(self) -> None:
        await self._engine.close()


class _Sandbox(ToolEnvironment):
    def __init__(self, sandbox: ToolEnvironment, phases: Phases) -> None:
        self._sandbox, self._phases = sandbox, phases

    async def open(self, seed: int) -> ToolSession:
        return _Session(await self._sandbox.open(seed), self._phases)


class _Session(ToolSession):
    def __init__(self, session: ToolSession, phases: Phases) -> None:
        self._session, self._phases = session, phases

    async def execute(self, code: str, timeout_s: float) -> ToolResult:
        async with self._phases.take_part("tool"):
            return await self._session.execute(code, timeout_s)

    async def close(self) -> None:
        await self._session.close()
