"""One rollout: the engine writes, the sandbox answers, the ledger records, until an ending.

A failure of a rollout is data (a typed ending); a programming error propagates.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.agent.protocol import STOPS, parse_turn
from biomni_lib.config import AgentConfig
from biomni_lib.engines.base import Completion, Engine, Sampling
from biomni_lib.tasks import Instance


class ToolResult(Protocol):
    """What a session answers."""

    @property
    def text(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def start_s(self) -> float: ...


class ToolSession(Protocol):
    """A persistent namespace that runs the agent's code."""

    async def execute(self, code: str, timeout_s: float) -> ToolResult: ...
    async def close(self) -> None: ...


class ToolEnvironment(Protocol):
    """Opens sessions."""

    async def open(self, seed: int) -> ToolSession: ...


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much an agent may write until it has to answer; None leaves a measure free.

    Used up without an answer, one observation says so (`ANSWER_NOW`) and exactly one more turn is taken. A block of
    code that was complete by then is run, and its output stands below the notice; a turn in which the tokens ran out
    is cut there. The last turn has the agent's own limits and no code of it is run.
    """

    turns: int | None = None
    tokens: int | None = None


ANSWER_NOW = "The budget is used up. Answer now in <solution></solution>."
"""The notice. It comes before any output, so that what the agent copies stands where it always does."""


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """What a rollout needs beside its engine and its sandbox."""

    agent: AgentConfig
    system_prompt: Callable[[str], str]
    """From a task's name to what the agent is told before it."""
    execute_timeout_s: float
    temperature: float = 1.0
    top_p: float = 1.0
    deadlines: bool = True
    """False in synchronous runs, where no clock may decide an outcome: no timeout of a turn or a trajectory.

    The limit of a block of code stays, since an endless loop has to end: a block that comes near it may differ.
    """
    budget: Budget | None = None
    """For experiments on length; an agent without one is told nothing."""


def rollout_seed(seed: int, *path: int) -> int:
    """A seed for one rollout from the run's seed and its place, e.g. (step, instance, sample)."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> 1)


async def rollout(
    instance: Instance,
    engine: Engine,
    sandbox: ToolEnvironment,
    renderer: ChatRenderer,
    settings: RolloutSettings,
    *,
    seed: int,
    sample: int = 0,
    model: str = "",
) -> Trajectory:
    """Let the agent work on one instance.

    Args:
        seed: makes the engine's draws and the session's random state repeatable.
        sample, model: recorded in the trajectory.
    Returns: an ungraded trajectory with its ending set; whatever was written before a failure is kept, except a turn
        that a timeout cut short.
    Raises: SandboxError when the machine gives no session, EngineError when the engine fails: faults that no ending
        of the agent stands for.
    """
    trajectory = Trajectory(instance.task, instance.id, sample, model)
    trajectory.append(renderer.prompt(settings.system_prompt(instance.task), instance.prompt), sampled=False)
    run = _Rollout(trajectory, engine, sandbox, renderer, settings, seed)
    limit = settings.agent.trajectory_timeout_s if settings.deadlines else None
    try:
        async with asyncio.timeout(limit):
            await run.converse()
    except TimeoutError:
        trajectory.ending = "timeout"
    finally:
        await run.close()
    return trajectory


class _Rollout:
    def __init__(
        self,
        trajectory: Trajectory,
        engine: Engine,
        sandbox: ToolEnvironment,
        renderer: ChatRenderer,
        settings: RolloutSettings,
        seed: int,
    ) -> None:
        self.trajectory, self.engine, self.sandbox = trajectory, engine, sandbox
        self.renderer, self.settings, self.seed = renderer, settings, seed
        self.key = f"{trajectory.task}/{trajectory.instance_id}/{trajectory.sample}/{seed}"
        self.session: ToolSession | None = None
        self.told = False

    async def converse(self) -> None:
        """Take turns until one of them sets the ending."""
        limit = self.settings.agent.turn_timeout_s if self.settings.deadlines else None
        for number in range(self.settings.agent.max_turns):
            async with asyncio.timeout(limit):
                await self._take_turn(number)
            if self.trajectory.ending:
                return

    async def _take_turn(self, number: int) -> None:
        turn, reason = await self._assistant_turn(number)
        last = self.told or number + 1 == self.settings.agent.max_turns
        if turn is None:
            self.trajectory.ending = "token_limit"
        elif turn.kind == "solution":
            self.trajectory.answer = parse_turn(turn.text).content
            self.trajectory.ending = "solved"
        elif not last and self._budget_used_up(turn, reason):
            self.told = True
            await self._observe(turn, ANSWER_NOW)
        elif turn.kind == "none":
            self.trajectory.ending = _ending_without_block(turn.text, reason)
        elif last:
            self.trajectory.ending = "turn_limit"
        else:
            await self._observe(turn)

    def _budget_used_up(self, turn: Turn, reason: str) -> bool:
        """Whether the budget ends here; a turn that ended by itself without a block ends the rollout instead."""
        budget, written = self.settings.budget or Budget(), self.trajectory.response_tokens
        out_of_tokens = budget.tokens is not None and written >= budget.tokens
        if turn.kind == "none":
            return out_of_tokens and reason == "length"
        return out_of_tokens or (budget.turns is not None and len(self.trajectory.turns) >= budget.turns)

    async def _assistant_turn(self, number: int) -> tuple[Turn | None, str]:
        """Sample one turn into the ledger; None when the context has no room for a token."""
        agent, start = self.settings.agent, len(self.trajectory.token_ids)
        room = agent.max_tokens - start
        if room <= 0:
            return None, "length"
        room = min(room, self._tokens_left())
        most = min(agent.max_turn_tokens, room)
        sampling = Sampling(
            self.settings.temperature, self.settings.top_p, most, STOPS, rollout_seed(self.seed, number)
        )
        began = time.monotonic()
        prompt = self.trajectory.token_ids.tolist()
        completion = await self.engine.generate(prompt, sampling, session=self.key)
        self.trajectory.usd += completion.usd
        ids, text, reason = self._encode(completion, room)
        self.trajectory.append(
            ids, sampled=True, logprobs=completion.logprobs, policy_versions=completion.policy_versions
        )
        parsed = parse_turn(text)
        turn = Turn(start, start + len(ids), parsed.kind, text, generate_s=time.monotonic() - began)
        turn.code = parsed.content if parsed.kind == "execute" else ""
        self.trajectory.turns.append(turn)
        return turn, reason

    def _tokens_left(self) -> int:
        """Tokens until the budget is used up; those of an agent without one, or in its last turn, are not counted."""
        budget = self.settings.budget
        if budget is None or budget.tokens is None or self.told:
            return sys.maxsize
        return budget.tokens - self.trajectory.response_tokens

    def _encode(self, completion: Completion, room: int) -> tuple[list[int], str, str]:
        """Ids, text and finish reason; what an engine without token ids wrote is cut where the trajectory is full."""
        if completion.text is None:
            ids = list(completion.ids)
            return ids, self.renderer.decode(ids), completion.finish_reason
        ids = self.renderer.assistant(completion.text)
        if len(ids) <= room:
            return ids, completion.text, completion.finish_reason
        return ids[:room], self.renderer.decode(ids[:room]), "length"

    async def _observe(self, turn: Turn, notice: str = "") -> None:
        """Run the turn's code, if it has any, and let the agent read its output below the notice."""
        output = await self._run_code(turn) if turn.kind == "execute" else ""
        turn.observation = "\n".join(part for part in (notice, output) if part)
        self.trajectory.append(self.renderer.observation(turn.observation), sampled=False)

    async def _run_code(self, turn: Turn) -> str:
        if self.session is None:
            self.session = await self.sandbox.open(self.seed)
        result = await self.session.execute(turn.code, self.settings.execute_timeout_s)
        turn.tool_s, turn.queue_s, turn.start_s = result.seconds, result.queue_s, result.start_s
        return cut_observation(result.text, self.settings.agent.observation_chars)

    async def close(self) -> None:
        """Give back the session and the engine's place."""
        try:
            if self.session is not None:
                await self.session.close()
        finally:
            await self.engine.release(self.key)


def _ending_without_block(text: str, reason: str) -> str:
    if reason == "length":
        return "token_limit"
    return "error:malformed_turn" if any(stop in text for stop in STOPS) else "gave_up"


def cut_observation(text: str, limit_chars: int) -> str:
    """Keep the head and the tail of a long observation, and say how much was cut."""
    if len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters cut]\n{text[-half:]}"
