"""A discrete-event model of an RL run that is driven by the real scheduler.

`GroupScheduler` decides here as it does in a run: the same class, with the same calls; engines, sandboxes and learner
are models on virtual time. So what a simulation says of admission, staleness and loss is what the code does, and only
the durations are modelled:

- Engine: decodes up to `slots` requests together; one decoding step takes step_s + slot_step_s x requests, and gives
  each of them one token; reading tokens stops decoding for token_s each. Requests beyond the slots wait in order. It
  keeps the KV cache of `kept` conversations, the longest silent giving way; a conversation that lost its own is read
  anew. A conversation stays with its engine, the less loaded of two drawn ones (Mitzenmacher 2001).
- Sandbox: `servers` tools run at once, the others wait in order.
- Learner: step_s + token_s x tokens / count a step; weights arrive sync_s later at all engines, which pause for swap_s.

Not modelled: network, tokenisation, the event loop's own time, deadlines of turn and trajectory, failures of machines.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import ConfigError
from biomni_lib.rl.scheduler import Group, GroupScheduler, Ticket
from biomni_lib.rl.staleness import StalenessBudget
from biomni_lib.rl.workload import Plan, Workload

ROUNDING = 1e-9  # tokens: what adding up decoding steps may leave
INSTANCES = range(10_000)


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


@dataclass(frozen=True)
class LearnerModel:
    """Learners that share each batch."""

    count: int = 1
    step_s: float = 0.0
    token_s: float = 1e-4
    sync_s: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What a simulation runs: the run's own settings, and the machines."""

    groups_per_step: int = 16
    group_size: int = 8
    max_staleness: int = 1
    agents: int = 64
    refill_max: int = 0
    replace_max: int = 1
    servers: int | None = None
    engine: EngineModel = EngineModel()
    learner: LearnerModel = LearnerModel()


@dataclass(slots=True, eq=False)
class SimulatedTrajectory:
    """What the scheduler reads of a trajectory, and what is drawn of it."""

    sample: int
    tokens: int
    oldest_version: int
    total: float
    ending: str
    turn_generate_s: list[float]
    turn_tool_s: list[float]


@dataclass(frozen=True)
class SimulatedStep:
    """One learner step: when the batch was there, how long it was waited for, when it was learned; engines till then.

    `written` tokens and `busy_s` (time with a request, summed over the engines) count from the start; `staleness` and
    `tokens` are those of each trajectory; `groups` is empty where the simulation keeps none.
    """

    step: int
    waited_s: float
    began_s: float
    ended_s: float
    written: float
    busy_s: float
    staleness: list[int]
    tokens: int
    groups: list[Group]


@dataclass(eq=False, slots=True)
class _Agent:
    ticket: Ticket
    plan: Plan
    engine: _Engine
    began_s: float
    turn: int = 0
    context: int = 0
    oldest: int = -1
    read_at: int = -1
    asked_s: float = 0.0
    place: Literal["queue", "slot", "written", "tool", "tool queue", "gone"] = "queue"
    generate_s: list[float] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Engine:
    """`clock` counts the decoding steps so far: a request ends when it has seen as many as it writes tokens."""

    number: int
    load: int = 0
    active: int = 0
    clock: float = 0.0
    stall_s: float = 0.0
    at_s: float = 0.0
    busy_s: float = 0.0
    written: float = 0.0
    version: int = 0
    event: int = 0
    requests: list[tuple[float, int, _Agent]] = field(default_factory=list)
    queue: deque[_Agent] = field(default_factory=deque)
    silent: dict[_Agent, None] = field(default_factory=dict)


class Simulation:
    """One run on virtual time.

    Args:
        setting: sizes and machines. workload: what agents do. seed: of the order and of the work.
        keep: whether the steps keep their groups, for timelines; large runs need the memory.
    Raises: ConfigError for a setting with which no batch can ever be complete.
    """

    def __init__(self, setting: Setting, workload: Workload, *, seed: int = 0, keep: bool = True) -> None:
        if min(setting.agents, setting.engine.count, setting.engine.slots, setting.learner.count) < 1:
            raise ConfigError("agents, engines, slots and learners must be at least 1 in a simulation")
        if workload.flat >= 1 and setting.refill_max or workload.failing >= 1:
            raise ConfigError("a workload in which every group is flat or fails gives no batch")
        self.setting, self.workload, self.seed, self.keep = setting, workload, seed, keep
        self.scheduler = GroupScheduler(
            INSTANCES,
            StalenessBudget(setting.groups_per_step, setting.max_staleness),
            seed=seed,
            group_size=setting.group_size,
            places=setting.agents,
            refill_max=setting.refill_max,
            replace_max=setting.replace_max,
        )
        self.now_s = 0.0
        self.steps: list[SimulatedStep] = []
        self.engines = [_Engine(number) for number in range(setting.engine.count)]
        self.kept = setting.engine.kept or setting.engine.slots
        self.agents: dict[Ticket, _Agent] = {}
        self.tools_running = 0
        self.tool_queue: deque[_Agent] = deque()
        self.learner_version, self.learning, self.asked_s = 0, False, 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._routed = 0

    def run(self, steps: int) -> list[SimulatedStep]:
        """Simulate until the learner has done `steps` steps. Returns: all of them."""
        self._ask()
        while len(self.steps) < steps:
            self.now_s, _, handle, arguments = heapq.heappop(self._events)
            handle(*arguments)
        return self.steps

    def _after(self, seconds: float, handle: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), handle, arguments))

    # Agents

    def _start(self) -> None:
        for lost in self.scheduler.lost():
            self._give_up(self.agents.pop(lost))
            self.scheduler.release(lost)
        while (ticket := self.scheduler.next_ticket()) is not None:
            plan = self.workload.plan(self.seed, ticket.group, ticket.sample, ticket.attempt)
            agent = _Agent(ticket, plan, self._route(), self.now_s)
            agent.engine.load += 1
            self.agents[ticket] = agent
            self._request(agent)

    def _route(self) -> _Engine:
        count, self._routed = len(self.engines), self._routed + 1
        first = self.engines[self._routed % count]
        second = self.engines[self._routed * 7919 % count]
        return first if first.load <= second.load else second

    def _give_up(self, agent: _Agent) -> None:
        """An agent whose group was lost stops where it is."""
        engine, place, agent.place = agent.engine, agent.place, "gone"
        engine.load -= 1
        engine.silent.pop(agent, None)
        if place == "slot":
            self._advance(engine)
            engine.requests = [entry for entry in engine.requests if entry[2] is not agent]
            heapq.heapify(engine.requests)
            engine.active -= 1
            self._fill(engine)
        elif place == "queue":
            engine.queue.remove(agent)
        elif place == "tool":
            self._end_tool()
        elif place == "tool queue":
            self.tool_queue.remove(agent)

    def _end_turn(self, agent: _Agent) -> None:
        turn, plan = agent.turn, agent.plan
        agent.generate_s.append(self.now_s - agent.asked_s)
        agent.turn += 1
        if agent.turn < len(plan.write):
            agent.engine.silent[agent] = None
            self._forget(agent.engine)
            self._tool(agent, plan.tool_s[turn])
        else:
            self._end(agent)

    def _end(self, agent: _Agent) -> None:
        ticket, plan, seed = agent.ticket, agent.plan, self.seed
        del self.agents[ticket]
        agent.place = "gone"
        agent.engine.load -= 1
        failed = self.workload.fails(seed, ticket.group, ticket.sample, ticket.attempt)
        trajectory = SimulatedTrajectory(
            ticket.sample,
            sum(plan.write),
            agent.oldest,
            0.0 if self.workload.is_flat(seed, ticket.group) else float(ticket.sample),
            "error:simulated" if failed else "solved",
            agent.generate_s,
            list(plan.tool_s),
        )
        self.scheduler.finish(ticket, cast(Trajectory, trajectory), (agent.began_s, self.now_s))
        self._ask()

    # Sandbox

    def _tool(self, agent: _Agent, seconds: float) -> None:
        if self.setting.servers is not None and self.tools_running >= self.setting.servers:
            agent.place = "tool queue"
            self.tool_queue.append(agent)
            return
        agent.place = "tool"
        self.tools_running += 1
        self._after(seconds, self._observe, agent)

    def _observe(self, agent: _Agent) -> None:
        if agent.place == "tool":
            self._end_tool()
            self._request(agent)

    def _end_tool(self) -> None:
        self.tools_running -= 1
        if self.tool_queue:
            waiting = self.tool_queue.popleft()
            self._tool(waiting, waiting.plan.tool_s[waiting.turn - 1])

    # Engines

    def _request(self, agent: _Agent) -> None:
        agent.asked_s, agent.place = self.now_s, "queue"
        agent.engine.queue.append(agent)
        if agent.engine.active < self.setting.engine.slots:
            self._advance(agent.engine)
            self._fill(agent.engine)

    def _advance(self, engine: _Engine) -> None:
        """Bring an engine's clock to now."""
        model, passed = self.setting.engine, self.now_s - engine.at_s
        engine.at_s = self.now_s
        stalled = min(passed, engine.stall_s)
        engine.stall_s -= stalled
        if engine.active:
            steps = (passed - stalled) / (model.step_s + model.slot_step_s * engine.active)
            engine.clock += steps
            engine.written += steps * engine.active
            engine.busy_s += passed

    def _fill(self, engine: _Engine) -> None:
        """Take waiting requests into free slots, and foresee the next end."""
        while engine.queue and engine.active < self.setting.engine.slots:
            self._admit(engine, engine.queue.popleft())
        engine.event += 1
        if engine.requests:
            model, ahead = self.setting.engine, max(0.0, engine.requests[0][0] - engine.clock)
            seconds = engine.stall_s + ahead * (model.step_s + model.slot_step_s * engine.active)
            self._after(seconds, self._decoded, engine, engine.event)

    def _admit(self, engine: _Engine, agent: _Agent) -> None:
        model, turn = self.setting.engine, agent.turn
        outdated = model.kv_on_update == "recompute" and agent.read_at < engine.version
        again = 0 if agent in engine.silent and not outdated else agent.context
        engine.silent.pop(agent, None)
        engine.active += 1
        self._forget(engine)
        engine.stall_s += model.token_s * (again + agent.plan.read[turn])
        agent.oldest = engine.version if agent.oldest < 0 else agent.oldest
        agent.place, agent.read_at = "slot", engine.version
        agent.context += agent.plan.read[turn] + agent.plan.write[turn]
        heapq.heappush(engine.requests, (engine.clock + agent.plan.write[turn], next(self._order), agent))

    def _forget(self, engine: _Engine) -> None:
        """The longest silent conversations give way."""
        while engine.silent and engine.active + len(engine.silent) > self.kept:
            del engine.silent[next(iter(engine.silent))]

    def _decoded(self, engine: _Engine, event: int) -> None:
        if event != engine.event:
            return  # foreseen before another request came or went
        self._advance(engine)
        ended = []
        while engine.requests and engine.requests[0][0] <= engine.clock + ROUNDING:
            ended.append(heapq.heappop(engine.requests)[2])
            ended[-1].place = "written"
        engine.active -= len(ended)
        self._fill(engine)
        for agent in ended:
            if agent.place == "written":
                self._end_turn(agent)

    # Learner

    def _ask(self) -> None:
        """Take a batch when the learner is idle and one is complete."""
        batch = None if self.learning else self.scheduler.take_batch(self.learner_version)
        self._start()
        if batch is None:
            return
        self.learning = True
        model, tokens = self.setting.learner, sum(t.tokens for g in batch for t in members(g))
        self._after(model.step_s + model.token_s * tokens / model.count, self._learned, batch, tokens, self.now_s)

    def _learned(self, batch: list[Group], tokens: int, began_s: float) -> None:
        for engine in self.engines:
            self._advance(engine)
        written, busy_s = sum(e.written for e in self.engines), sum(e.busy_s for e in self.engines)
        waited_s, groups = began_s - self.asked_s, batch if self.keep else []
        staleness = [self.learner_version - t.oldest_version for g in batch for t in members(g)]
        step = (self.learner_version, waited_s, began_s, self.now_s, written, busy_s, staleness, tokens, groups)
        self.steps.append(SimulatedStep(*step))
        self.learner_version, self.learning, self.asked_s = self.learner_version + 1, False, self.now_s
        self._after(self.setting.learner.sync_s, self._swap, self.learner_version)
        self._ask()

    def _swap(self, version: int) -> None:
        for engine in self.engines:
            self._advance(engine)
            engine.version = version
            engine.stall_s += self.setting.engine.swap_s
            if self.setting.engine.kv_on_update == "recompute":
                engine.stall_s += self.setting.engine.token_s * sum(a.context for _, _, a in engine.requests)
                for _, _, agent in engine.requests:
                    agent.read_at = version
            self._fill(engine)
        self.scheduler.set_version(version)
        self._start()


def members(group: Group) -> list[SimulatedTrajectory]:
    """The trajectories of a simulated group, as what they are."""
    return cast(list[SimulatedTrajectory], group.trajectories)
