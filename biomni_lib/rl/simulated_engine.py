"""An engine on virtual time: batched decoding as processor sharing.

It decodes up to `slots` requests together; one decoding step takes step_s + slot_step_s x requests, and gives each of
them one token; reading tokens stops decoding for token_s each. Requests beyond the slots wait in order. It keeps the
KV cache of `kept` conversations, the longest silent giving way; a conversation that lost its own is read anew.

`clock` counts decoding steps: a request ends when it has seen as many as it writes tokens, so that a change of speed
touches no request.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from biomni_lib.rl.scheduler import Ticket
from biomni_lib.rl.workload import Plan

ROUNDING = 1e-9  # tokens: what adding up decoding steps may leave
_order = itertools.count()  # equal ends leave in the order in which they came


@dataclass(frozen=True)
class EngineModel:
    """Engines that are all alike; seconds are those of one engine."""

    count: int = 1
    slots: int = 64
    kept: int | None = None
    """Conversations whose KV cache it holds; None: as many as slots."""
    step_s: float = 0.02
    slot_step_s: float = 0.0
    token_s: float = 1e-4
    swap_s: float = 0.0
    kv_on_update: Literal["keep", "recompute"] = "keep"

    @property
    def tokens_per_s(self) -> float:
        """What all engines write when every slot is always taken and nothing is read: the limit."""
        return self.count * self.slots / (self.step_s + self.slot_step_s * self.slots)


@dataclass(eq=False, slots=True)
class Agent:
    """A trajectory under way; `oldest` is the version that sampled its first token, `read_at` that of its cache."""

    ticket: Ticket
    plan: Plan
    engine: SimulatedEngine
    began_s: float
    turn: int = 0
    context: int = 0
    oldest: int = -1
    read_at: int = -1
    asked_s: float = 0.0
    place: Literal["queue", "slot", "written", "tool", "tool queue", "gone"] = "queue"
    generate_s: list[float] = field(default_factory=list)
    wait_s: list[float] = field(default_factory=list)


class SimulatedEngine:
    """One engine; whoever uses it tells the time.

    `load` counts the agents that stay with it, `busy_s` the time with a request, `written` the tokens so far; `event`
    numbers its foreseen ends, of which only the last holds.
    """

    __slots__ = (
        "active", "at_s", "busy_s", "clock", "event", "kept", "load", "model", "queue", "requests", "silent",
        "stall_s", "version", "written",
    )  # fmt: skip

    def __init__(self, model: EngineModel) -> None:
        self.model, self.kept = model, model.kept or model.slots
        self.load = self.active = self.version = self.event = 0
        self.clock = self.stall_s = self.at_s = self.busy_s = self.written = 0.0
        self.requests: list[tuple[float, int, Agent]] = []
        self.queue: deque[Agent] = deque()
        self.silent: dict[Agent, None] = {}

    def advance(self, now_s: float) -> None:
        """Bring everything to now."""
        passed = now_s - self.at_s
        self.at_s = now_s
        stalled = self.stall_s if self.stall_s < passed else passed
        self.stall_s -= stalled
        if self.active:
            steps = (passed - stalled) / (self.model.step_s + self.model.slot_step_s * self.active)
            self.clock += steps
            self.written += steps * self.active
            self.busy_s += passed

    def fill(self) -> None:
        """Take waiting requests into free slots."""
        while self.queue and self.active < self.model.slots:
            self._admit(self.queue.popleft())

    def next_end_s(self) -> float:
        """Seconds until the next request ends if nothing else happens. There must be one."""
        ahead = self.requests[0][0] - self.clock
        return self.stall_s + max(ahead, 0.0) * (self.model.step_s + self.model.slot_step_s * self.active)

    def take_ended(self) -> list[Agent]:
        """The agents whose turn is written; those that go on keep their cache while there is room."""
        ended = []
        while self.requests and self.requests[0][0] <= self.clock + ROUNDING:
            agent = heapq.heappop(self.requests)[2]
            agent.place = "written"
            agent.turn += 1
            if agent.turn < len(agent.plan.write):
                self.silent[agent] = None
            ended.append(agent)
        self.active -= len(ended)
        self._forget()
        return ended

    def leave(self, agent: Agent) -> None:
        """An agent goes, wherever it is; its engine has been brought to now."""
        self.load -= 1
        self.silent.pop(agent, None)
        if agent.place == "slot":
            self.requests = [entry for entry in self.requests if entry[2] is not agent]
            heapq.heapify(self.requests)
            self.active -= 1
        elif agent.place == "queue":
            self.queue.remove(agent)

    def swap(self, version: int) -> None:
        """New weights between two decoding steps: a pause, and with `recompute` what is under way is read again."""
        self.version = version
        self.stall_s += self.model.swap_s
        if self.model.kv_on_update == "recompute":
            self.stall_s += self.model.token_s * sum(agent.context for _, _, agent in self.requests)
            for _, _, agent in self.requests:
                agent.read_at = version

    def _admit(self, agent: Agent) -> None:
        read, write = agent.plan.read[agent.turn], agent.plan.write[agent.turn]
        outdated = self.model.kv_on_update == "recompute" and agent.read_at < self.version
        again = 0 if agent in self.silent and not outdated else agent.context
        self.silent.pop(agent, None)
        self.active += 1
        self._forget()
        self.stall_s += self.model.token_s * (again + read)
        if agent.oldest < 0:
            agent.oldest = self.version
        agent.place, agent.read_at = "slot", self.version
        agent.context += read + write
        heapq.heappush(self.requests, (self.clock + write, next(_order), agent))

    def _forget(self) -> None:
        while self.silent and self.active + len(self.silent) > self.kept:
            del self.silent[next(iter(self.silent))]
