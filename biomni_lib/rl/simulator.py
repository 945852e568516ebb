"""A discrete-event model of an RL run that is driven by the real scheduler.

`GroupScheduler` decides here as it does in a run: the same class, with the same calls; engines, sandboxes and learner
are models on virtual time. So what a simulation says of admission, staleness and loss is what the code does, and only
the durations are modelled:

- Engine: see `simulated_engine`. A conversation stays with its engine, the less loaded of two (Mitzenmacher 2001).
- Sandbox: `servers` tools run at once, the others wait in order.
- Learner: step_s + token_s x tokens / count a step; weights arrive sync_s later at all engines, which pause for swap_s.

Not modelled: network, tokenisation, the event loop's own time, deadlines of turn and trajectory, failures of machines.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import ConfigError
from biomni_lib.rl.scheduler import Group, GroupScheduler, Ticket
from biomni_lib.rl.simulated_engine import Agent, EngineModel, SimulatedEngine
from biomni_lib.rl.staleness import StalenessBudget
from biomni_lib.rl.workload import Workload

INSTANCES = range(10_000)
STRIDE = 7919  # a prime: the second engine offered is not always the first one's neighbour


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
    turn_wait_s: list[float]
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
        self.engines = [SimulatedEngine(setting.engine) for _ in range(setting.engine.count)]
        self.agents: dict[Ticket, Agent] = {}
        self.tools_running = 0
        self.tool_queue: deque[Agent] = deque()
        self.learner_version, self.learning, self.asked_s = 0, False, 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._routed = 0

    def run(self, steps: int) -> list[SimulatedStep]:
        """Simulate until the learner has done `steps` steps. Returns: all of them."""
        self._ask()
        with _no_collector():
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
            agent = Agent(ticket, plan, self._route(), self.now_s)
            agent.engine.load += 1
            self.agents[ticket] = agent
            self._request(agent)

    def _route(self) -> SimulatedEngine:
        count, self._routed = len(self.engines), self._routed + 1
        first = self.engines[self._routed % count]
        second = self.engines[self._routed * STRIDE % count]
        return first if first.load <= second.load else second

    def _give_up(self, agent: Agent) -> None:
        """An agent whose group was lost stops where it is."""
        engine, place = agent.engine, agent.place
        engine.advance(self.now_s)
        engine.leave(agent)
        agent.place = "gone"
        if place == "slot":
            self._go_on(engine)
        elif place == "tool":
            self._end_tool()
        elif place == "tool queue":
            self.tool_queue.remove(agent)

    def _end_turn(self, agent: Agent) -> None:
        agent.generate_s.append(self.now_s - agent.asked_s)
        agent.asked_s = self.now_s
        if agent.turn < len(agent.plan.write):
            self._tool(agent)
        else:
            agent.wait_s.append(0.0)
            self._end(agent)

    def _end(self, agent: Agent) -> None:
        ticket, plan, seed = agent.ticket, agent.plan, self.seed
        del self.agents[ticket]
        agent.engine.leave(agent)
        agent.place = "gone"
        failed = self.workload.fails(seed, ticket.group, ticket.sample, ticket.attempt)
        trajectory = SimulatedTrajectory(
            ticket.sample,
            sum(plan.write),
            agent.oldest,
            0.0 if self.workload.is_flat(seed, ticket.group) else float(ticket.sample),
            "error:simulated" if failed else "solved",
            agent.generate_s,
            agent.wait_s,
            list(plan.tool_s),
        )
        self.scheduler.finish(ticket, cast(Trajectory, trajectory), (agent.began_s, self.now_s))
        self._ask()

    # Sandbox

    def _tool(self, agent: Agent) -> None:
        if self.setting.servers is not None and self.tools_running >= self.setting.servers:
            agent.place = "tool queue"
            self.tool_queue.append(agent)
            return
        agent.place = "tool"
        agent.wait_s.append(self.now_s - agent.asked_s)
        self.tools_running += 1
        self._after(agent.plan.tool_s[agent.turn - 1], self._observe, agent)

    def _observe(self, agent: Agent) -> None:
        if agent.place == "tool":
            self._end_tool()
            self._request(agent)

    def _end_tool(self) -> None:
        self.tools_running -= 1
        if self.tool_queue:
            self._tool(self.tool_queue.popleft())

    # Engines

    def _request(self, agent: Agent) -> None:
        engine = agent.engine
        agent.asked_s, agent.place = self.now_s, "queue"
        engine.queue.append(agent)
        if engine.active < self.setting.engine.slots:
            engine.advance(self.now_s)
            self._go_on(engine)

    def _go_on(self, engine: SimulatedEngine) -> None:
        """Take in what waits, and foresee the next end."""
        engine.fill()
        engine.event += 1
        if engine.requests:
            self._after(engine.next_end_s(), self._decoded, engine, engine.event)

    def _decoded(self, engine: SimulatedEngine, event: int) -> None:
        if event != engine.event:
            return  # foreseen before another request came or went
        engine.advance(self.now_s)
        ended = engine.take_ended()
        self._go_on(engine)
        for agent in ended:
            if agent.place == "written":  # else its group was lost with one before it
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
            engine.advance(self.now_s)
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
            engine.advance(self.now_s)
            engine.swap(version)
            self._go_on(engine)
        self.scheduler.set_version(version)
        self._start()


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Leave reference cycles alone for a while: looking through 100,000 living agents takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def members(group: Group) -> list[SimulatedTrajectory]:
    """The trajectories of a simulated group, as what they are."""
    return cast(list[SimulatedTrajectory], group.trajectories)
