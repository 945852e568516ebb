"""Continuous rollouts under the staleness bound.

Groups of trajectories start in a seeded order whenever the budget has a place, run independently of each other, and
wait in a buffer until the learner asks for a batch. Stragglers block nobody. There are no modes: synchronous, one step
off and fully asynchronous are values of max_staleness. The module reads no clock, so a simulator can drive it on
virtual time, and with max_staleness = 0 its batches do not depend on the order in which groups complete.

Rules, each counted: a group with a failed member (an ending error:* that is not the model's own, or a BiomniError of
its rollout) is dropped and its place refilled; a group whose rewards are all equal is filtered and refilled, at most
`refill_max` times a batch, or kept, by recipe; a group that is too old when the learner asks is dropped.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import BiomniError, RunError, TrainingError
from biomni_lib.rl.staleness import StalenessBudget

ORDER_DOMAIN = zlib.crc32(b"rl.order")  # keeps this stream apart from others of the same seed
MODEL_ERRORS = frozenset({"error:malformed_turn"})
NEVER_OLD = 2**31 - 1  # a group in which no engine sampled a token
RunGroup = Callable[[int, Any], Awaitable[list[Trajectory]]]


def instance_at(group_index: int, instances: int, seed: int) -> int:
    """Which of `instances` a group rolls out: each once an epoch, every epoch in a new seeded order."""
    epoch, position = divmod(group_index, instances)
    order = np.random.default_rng(np.random.SeedSequence([seed, ORDER_DOMAIN, epoch])).permutation(instances)
    return int(order[position])


@dataclass(frozen=True)
class Group:
    """The trajectories of one instance, complete."""

    index: int
    trajectories: list[Trajectory]

    @property
    def oldest_version(self) -> int:
        """Policy version of the oldest sampled token of all members."""
        return min((t.oldest_version for t in self.trajectories if t.oldest_version >= 0), default=NEVER_OLD)

    @property
    def flat(self) -> bool:
        """Whether all rewards are equal, so that no advantage differs from 0."""
        return len({float(t.total) for t in self.trajectories}) == 1

    @property
    def faults(self) -> list[str]:
        """Endings of members that failed by a fault of the environment; what the model does wrong is not one."""
        endings = {t.ending for t in self.trajectories}
        return sorted(e for e in endings if e.startswith("error:") and e not in MODEL_ERRORS)


@dataclass
class _Buffer:
    """Complete groups: `ready` may be trained, `spare` are flat ones that were filtered since the last batch."""

    ready: list[Group] = field(default_factory=list)
    spare: list[Group] = field(default_factory=list)


class GroupScheduler:
    """Admits groups, collects them, and hands out batches of `budget.groups_per_step`.

    Args:
        run_group: rolls out one group; given the group's index and its instance.
        instances: what to train on.
        budget: the staleness arithmetic; this object is its only writer.
        seed: root of the order of instances.
        in_flight_max: groups in flight at most (memory and engine queue stay bounded).
        refill_max: flat groups refilled a batch; 0 keeps them all.
        failures_max: failed groups in a row that stop the run.
    """

    def __init__(
        self,
        run_group: RunGroup,
        instances: Sequence[Any],
        budget: StalenessBudget,
        *,
        seed: int,
        in_flight_max: int,
        refill_max: int,
        failures_max: int = 20,
    ) -> None:
        if not instances:
            raise TrainingError("no training instances; build the data with a training split that is not empty")
        self.run_group, self.instances, self.budget = run_group, instances, budget
        self.seed, self.in_flight_max = seed, in_flight_max
        self.refill_max, self.failures_max = refill_max, failures_max
        self.next_index = 0
        self.redo: list[int] = []
        self.running: dict[asyncio.Task[list[Trajectory]], int] = {}
        self.buffer = _Buffer()
        self.failures_in_row = 0
        self.fault: BaseException | None = None
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Fill every free place; called once, and by the scheduler itself after each event."""
        while self.fault is None and self.budget.capacity() > 0 and len(self.running) < self.in_flight_max:
            index = self._take_index()
            instance = self.instances[instance_at(index, len(self.instances), self.seed)]
            task = asyncio.ensure_future(self.run_group(index, instance))
            self.budget.admit()
            self.running[task] = index
            task.add_done_callback(self._finish)

    def set_version(self, version: int) -> None:
        """New weights are in the engine: places open. Raises: TrainingError when the version goes back."""
        self.budget.advance(version)
        self.start()

    async def next_batch(self, learner_version: int) -> list[Group]:
        """The next batch for the learner, sorted by group index.

        Waits until enough groups are complete that are not too old for `learner_version`; oldest groups go first.
        Raises: RunError when rollouts keep failing; whatever a rollout raised that is not a BiomniError.
        """
        size = self.budget.groups_per_step
        while True:
            self._raise_fault()
            self._drop_old(learner_version)
            self.start()
            if len(self.buffer.ready) >= size:
                return self._pick(size)
            self._changed.clear()
            await self._changed.wait()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: counts, cursor, and the indexes of groups that are neither trained nor lost."""
        unfinished = [*self.redo, *self.running.values(), *(group.index for group in self.buffer.ready)]
        return {"budget": self.budget.state(), "next_index": self.next_index, "redo": sorted(unfinished)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state; unfinished groups are rolled out anew, first."""
        self.budget.restore(state["budget"])
        self.next_index, self.redo = state["next_index"], list(state["redo"])

    async def close(self) -> None:
        """Cancel every group in flight and wait until all have ended."""
        self.fault = self.fault or RunError("the scheduler is closed")
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def counts(self) -> dict[str, int]:
        """Groups so far, by what became of them."""
        return asdict(self.budget.counts)

    def _take_index(self) -> int:
        if self.redo:
            return self.redo.pop(0)
        self.next_index += 1
        return self.next_index - 1

    def _finish(self, task: asyncio.Task[list[Trajectory]]) -> None:
        index = self.running.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._collect(Group(index, task.result()))
        else:
            self._fail(error)
        self.start()
        self._changed.set()

    def _collect(self, group: Group) -> None:
        if group.faults:
            return self._fail(RunError(f"group {group.index} ended with {', '.join(group.faults)}"))
        self.failures_in_row = 0
        self.budget.complete()
        if group.flat and len(self.buffer.spare) < self.refill_max:
            self.budget.filter()
            self.buffer.spare.append(group)
        else:
            self.buffer.ready.append(group)

    def _fail(self, error: BaseException) -> None:
        self.budget.fail()
        self.failures_in_row += 1
        if not isinstance(error, BiomniError):
            self.fault = self.fault or error
        elif self.failures_in_row >= self.failures_max:
            self.fault = self.fault or RunError(f"{self.failures_in_row} groups in a row failed; the last: {error}")

    def _raise_fault(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _drop_old(self, learner_version: int) -> None:
        old = [g for g in self.buffer.ready if self.budget.too_old(g.oldest_version, learner_version)]
        for group in old:
            self.budget.drop()
            self.buffer.ready.remove(group)

    def _pick(self, size: int) -> list[Group]:
        self._settle_flat()
        order = sorted(self.buffer.ready, key=lambda g: (g.oldest_version, g.index))
        batch, self.buffer.ready = order[:size], order[size:]
        self.buffer.spare.clear()
        for _ in batch:
            self.budget.train()
        self.start()
        return sorted(batch, key=lambda g: g.index)

    def _settle_flat(self) -> None:
        """Which flat groups are kept past the cap must not depend on who finished first: freshest, lowest index."""
        kept = [g for g in self.buffer.ready if g.flat]
        pool = sorted([*kept, *self.buffer.spare], key=lambda g: (-g.oldest_version, g.index))
        self.buffer.ready = [g for g in self.buffer.ready if not g.flat] + pool[: len(kept)]
