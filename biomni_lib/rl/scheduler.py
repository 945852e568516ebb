"""Which trajectory starts when, and which groups are trained: decisions only, no clock, no tasks, no I/O.

Groups are admitted in a seeded order whenever the staleness budget has a place, their members start whenever one of
the `places` is free, and complete groups wait in a buffer until the learner takes a batch. Stragglers block nobody.
There are no modes: synchronous, one step off and fully asynchronous are values of max_staleness. Two shells drive this
one class: `dispatcher.Dispatcher` with real rollouts, `simulator` on virtual time.

Rules, each counted by group:
- A failed member (an ending error:* that is not the model's own, or a BiomniError of its rollout) is rolled out anew,
  at most `replace_max` times a group; after that the group is lost as failed. One whose engine was lost is rolled out
  anew and takes none of these times: an engine takes many members with it, and one that is lost again and again stops
  the run by itself (a RunError).
- A group whose rewards are all equal is filtered and refilled, at most `refill_max` times a batch; beyond, it is kept.
- A group that is too old for the learner is dropped, complete or not: what is in flight is given up when its first
  token is too old, so that it holds no place. This falls on long trajectories more than on short ones.

With max_staleness = 0 the batches do not depend on the order in which groups complete, and no group is ever too old.
"""

from __future__ import annotations

import functools
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import BiomniError, EngineLostError, RunError, TrainingError
from biomni_lib.rl.staleness import StalenessBudget

ORDER_DOMAIN = zlib.crc32(b"rl.order")  # keeps this stream apart from others of the same seed
MODEL_ERRORS = frozenset({"error:malformed_turn"})
NEVER_OLD = 2**31 - 1  # a group in which no engine sampled a token
NO_LEARNER = -1  # no batch was asked for yet


def instance_at(group_index: int, instances: int, seed: int) -> int:
    """Which of `instances` a group rolls out: each once an epoch, every epoch in a new seeded order."""
    epoch, position = divmod(group_index, instances)
    return int(_epoch_order(epoch, instances, seed)[position])


@functools.lru_cache(maxsize=4)
def _epoch_order(epoch: int, instances: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(np.random.SeedSequence([seed, ORDER_DOMAIN, epoch])).permutation(instances)


@dataclass(frozen=True, eq=False, slots=True)
class Ticket:
    """Leave to roll out one member of a group: the `sample`-th, for the `attempt`-th time (from 0)."""

    group: int
    sample: int
    attempt: int
    instance: Any


@dataclass(frozen=True)
class Group:
    """The trajectories of one instance, complete; `spans` are when each began and ended, in seconds of one clock."""

    index: int
    trajectories: list[Trajectory]
    spans: Sequence[tuple[float, float]] = ()

    @property
    def oldest_version(self) -> int:
        """Policy version of the oldest sampled token of all members."""
        return min((v for t in self.trajectories if (v := t.oldest_version) >= 0), default=NEVER_OLD)

    @property
    def flat(self) -> bool:
        """Whether all rewards are equal, so that no advantage differs from 0."""
        return len({float(t.total) for t in self.trajectories}) == 1


@dataclass(eq=False, slots=True)
class _Flight:
    """A group under way: when its oldest token may have been sampled, who has ended, who is running."""

    index: int
    version: int
    replaced: int = 0
    ended: dict[int, tuple[Trajectory, tuple[float, float]]] = field(default_factory=dict)
    running: dict[Ticket, None] = field(default_factory=dict)

    def group(self) -> Group:
        members = [self.ended[sample] for sample in sorted(self.ended)]
        return Group(self.index, [trajectory for trajectory, _ in members], [span for _, span in members])


@dataclass
class _Buffer:
    """Complete groups: `ready` may be trained, `spare` are flat ones that were filtered since the last batch."""

    ready: list[Group] = field(default_factory=list)
    spare: list[Group] = field(default_factory=list)


class GroupScheduler:
    """Hands out tickets, takes their outcomes, and hands out batches of `budget.groups_per_step`.

    Args:
        instances: what to train on.
        budget: the staleness arithmetic; this object is its only writer.
        seed: root of the order of instances.
        group_size: trajectories a group.
        places: trajectories under way at most; with the budget it bounds memory and every queue behind.
        refill_max: flat groups refilled a batch; 0 keeps them all.
        replace_max: failed members rolled out anew in a group; 0 loses the group with the first.
        failures_max: failed groups in a row that stop the run.
    Raises: TrainingError without instances.
    """

    def __init__(
        self,
        instances: Sequence[Any],
        budget: StalenessBudget,
        *,
        seed: int,
        group_size: int,
        places: int,
        refill_max: int,
        replace_max: int = 0,
        failures_max: int = 20,
    ) -> None:
        if not instances:
            raise TrainingError("no training instances; build the data with a training split that is not empty")
        self.instances, self.budget, self.seed = instances, budget, seed
        self.group_size, self.places = group_size, places
        self.refill_max, self.replace_max, self.failures_max = refill_max, replace_max, failures_max
        self.next_index = 0
        self.redo: deque[int] = deque()
        self.waiting: deque[Ticket] = deque()
        self.flights: dict[int, _Flight] = {}
        self.running: set[Ticket] = set()
        self.buffer = _Buffer()
        self.learner_version = NO_LEARNER
        self.failures_in_row = 0
        self.fault: BaseException | None = None
        self._lost: list[Ticket] = []

    def next_ticket(self) -> Ticket | None:
        """What to start now, or None; it holds a place until its outcome is told."""
        if self.fault is not None or len(self.running) >= self.places:
            return None
        if not self.waiting and not self._admit():
            return None
        ticket = self.waiting.popleft()
        self.running.add(ticket)
        self.flights[ticket.group].running[ticket] = None
        return ticket

    def finish(self, ticket: Ticket, trajectory: Trajectory, span: tuple[float, float] = (0.0, 0.0)) -> None:
        """A rollout has ended with a trajectory; nothing comes of it when its group is lost."""
        flight = self._end(ticket)
        if flight is None:
            return
        if trajectory.ending.startswith("error:") and trajectory.ending not in MODEL_ERRORS:
            return self._replace(flight, ticket, RunError(f"group {ticket.group} ended with {trajectory.ending}"))
        flight.ended[ticket.sample] = (trajectory, span)
        if len(flight.ended) == self.group_size:
            del self.flights[flight.index]
            self._collect(flight.group())

    def fail(self, ticket: Ticket, error: BaseException) -> None:
        """A rollout has ended without a trajectory; a RunError, or one that is no BiomniError, stops the run."""
        flight = self._end(ticket)
        if isinstance(error, RunError) or not isinstance(error, BiomniError):
            self.fault = self.fault or error
        elif flight is not None:
            self._replace(flight, ticket, error)

    def release(self, ticket: Ticket) -> None:
        """A rollout named by `lost` was cancelled: its place is free."""
        self._end(ticket)

    def lost(self) -> list[Ticket]:
        """Tickets still under way whose group was lost since the last call: whoever runs them may cancel them."""
        tickets, self._lost = self._lost, []
        return [ticket for ticket in tickets if ticket in self.running]

    def set_version(self, version: int) -> None:
        """New weights are in the engine: places open. Raises: TrainingError when the version goes back."""
        self.budget.advance(version)

    def take_batch(self, learner_version: int) -> list[Group] | None:
        """The next batch, sorted by group index, or None as long as too few groups are complete.

        Groups too old for `learner_version` are dropped; of the others the oldest go first.
        Raises: RunError when rollouts keep failing; whatever a rollout raised that is not a BiomniError.
        """
        if self.fault is not None:
            raise self.fault
        self._learner_at(learner_version)
        if len(self.buffer.ready) < self.budget.groups_per_step:
            return None
        return self._pick(self.budget.groups_per_step)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: counts, cursor, and the indexes of groups that are neither trained nor lost.

        Groups filtered since the last batch are among them: without these, a resumed batch could refill more.
        """
        complete = [group.index for group in [*self.buffer.ready, *self.buffer.spare]]
        redo = sorted([*self.redo, *self.flights, *complete])
        return {"budget": self.budget.state(len(self.buffer.spare)), "next_index": self.next_index, "redo": redo}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state; unfinished groups are rolled out anew, first."""
        self.budget.restore(state["budget"])
        self.next_index, self.redo = state["next_index"], deque(state["redo"])

    def counts(self) -> dict[str, int]:
        """Groups so far, by what became of them."""
        return asdict(self.budget.counts)

    def _admit(self) -> bool:
        """Take a group in flight, unless what it samples now could never be trained."""
        if self.budget.capacity() < 1 or self.budget.too_old(self.budget.version, self.learner_version):
            return False
        index = self.redo.popleft() if self.redo else self.next_index
        self.next_index = max(self.next_index, index + 1)
        instance = self.instances[instance_at(index, len(self.instances), self.seed)]
        self.budget.admit()
        self.flights[index] = _Flight(index, self.budget.version)
        self.waiting.extend(Ticket(index, sample, 0, instance) for sample in range(self.group_size))
        return True

    def _end(self, ticket: Ticket) -> _Flight | None:
        """Free a ticket's place. Returns: its group, unless that is lost."""
        self.running.remove(ticket)
        flight = self.flights.get(ticket.group)
        if flight is None or ticket not in flight.running:
            return None
        del flight.running[ticket]
        return flight

    def _replace(self, flight: _Flight, ticket: Ticket, error: BiomniError) -> None:
        lost = isinstance(error, EngineLostError)
        if lost or flight.replaced < self.replace_max:
            flight.replaced += not lost
            self.budget.replace()
            self.waiting.appendleft(Ticket(ticket.group, ticket.sample, ticket.attempt + 1, ticket.instance))
            return
        self._lose(flight, self.budget.fail)
        self.failures_in_row += 1
        if self.failures_in_row >= self.failures_max:
            self.fault = self.fault or RunError(f"{self.failures_in_row} groups in a row failed; the last: {error}")

    def _lose(self, flight: _Flight, count: Callable[[], None]) -> None:
        count()
        del self.flights[flight.index]
        self.waiting = deque(ticket for ticket in self.waiting if ticket.group != flight.index)
        self._lost.extend(flight.running)

    def _collect(self, group: Group) -> None:
        self.failures_in_row = 0
        self.budget.complete()
        if self.budget.too_old(group.oldest_version, self.learner_version):
            self.budget.drop()
        elif group.flat and len(self.buffer.spare) < self.refill_max:
            self.budget.filter()
            self.buffer.spare.append(group)
        else:
            self.buffer.ready.append(group)

    def _learner_at(self, version: int) -> None:
        """Drop what is too old; once a version, as what completes later is looked at then."""
        if version <= self.learner_version:
            return
        self.learner_version = version
        fresh = [g for g in self.buffer.ready if not self.budget.too_old(g.oldest_version, version)]
        for _ in range(len(self.buffer.ready) - len(fresh)):
            self.budget.drop()
        self.buffer.ready = fresh
        for flight in [f for f in self.flights.values() if self.budget.too_old(f.version, version)]:
            self._lose(flight, self.budget.abandon)

    def _pick(self, size: int) -> list[Group]:
        self._settle_flat()
        order = sorted(self.buffer.ready, key=lambda g: (g.oldest_version, g.index))
        batch, self.buffer.ready = order[:size], order[size:]
        self.buffer.spare.clear()
        for _ in batch:
            self.budget.train()
        return sorted(batch, key=lambda g: g.index)

    def _settle_flat(self) -> None:
        """Which flat groups are kept past the cap must not depend on who finished first: freshest, lowest index."""
        kept = [g for g in self.buffer.ready if g.flat]
        pool = sorted([*kept, *self.buffer.spare], key=lambda g: (-g.oldest_version, g.index))
        self.buffer.ready = [g for g in self.buffer.ready if not g.flat] + pool[: len(kept)]
