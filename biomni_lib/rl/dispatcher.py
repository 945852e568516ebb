"""Runs what the scheduler hands out: one asyncio task a trajectory, cancelled when its group is lost.

All decisions are the scheduler's; this is the shell that turns tickets into rollouts and outcomes into decisions, on
the wall clock. Every outcome is told exactly once, by the task's own end, whatever ended it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import BiomniError, RunError
from biomni_lib.rl.scheduler import Group, GroupScheduler, Ticket

RunMember = Callable[[Ticket], Awaitable[Trajectory]]


class Dispatcher:
    """Keeps every place of a scheduler busy.

    Args:
        scheduler: this object is its only caller while it runs.
        run_member: rolls out and scores one trajectory.
        clock: seconds, for the spans of the trajectories; comparable between processes and restarts by default.
    """

    def __init__(
        self, scheduler: GroupScheduler, run_member: RunMember, clock: Callable[[], float] = time.time
    ) -> None:
        self.scheduler, self.run_member, self.clock = scheduler, run_member, clock
        self.tasks: dict[Ticket, asyncio.Task[Trajectory]] = {}
        self._cancelled: set[Ticket] = set()
        self._closed = False
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Fill every free place and stop what is lost; called once, and by this object after each event."""
        for lost in self.scheduler.lost():
            self._cancelled.add(lost)
            self.tasks[lost].cancel()
        while (ticket := self.scheduler.next_ticket()) is not None:
            task = asyncio.ensure_future(self.run_member(ticket))
            self.tasks[ticket] = task
            task.add_done_callback(functools.partial(self._ended, ticket, self.clock()))

    def set_version(self, version: int) -> None:
        """New weights are in the engine. Raises: TrainingError when the version goes back."""
        self.scheduler.set_version(version)
        self.start()

    async def next_batch(self, learner_version: int) -> list[Group]:
        """Wait for `GroupScheduler.take_batch`; cancelling the wait takes nothing out. Raises: what that raises."""
        while True:
            batch = self.scheduler.take_batch(learner_version)
            self.start()
            if batch is not None:
                return batch
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Cancel every rollout and wait until all have ended; the scheduler's state still names them as unfinished."""
        self._closed = True
        self.scheduler.fault = self.scheduler.fault or RunError("the scheduler is closed")
        self._changed.set()
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, ticket: Ticket, began_s: float, task: asyncio.Task[Trajectory]) -> None:
        del self.tasks[ticket]
        if not self._closed:
            self._tell(ticket, began_s, task)
            self.start()
            self._changed.set()

    def _tell(self, ticket: Ticket, began_s: float, task: asyncio.Task[Trajectory]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.scheduler.finish(ticket, task.result(), (began_s, self.clock()))
        elif task.cancelled() and ticket in self._cancelled:
            self.scheduler.release(ticket)
        else:
            cancelled = BiomniError("a rollout was cancelled from outside")
            self.scheduler.fail(ticket, cancelled if task.cancelled() else task.exception() or cancelled)
        self._cancelled.discard(ticket)
