"""The promises of the scheduler under every order of events that Hypothesis and fault injection can think of."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import SandboxError
from biomni_lib.rl.dispatcher import Dispatcher
from biomni_lib.rl.scheduler import GroupScheduler, Ticket
from biomni_lib.rl.staleness import StalenessBudget

INSTANCES = list(range(5))


def make(size: int, staleness: int, *, places: int = 8, refill: int = 1, replace: int = 1) -> GroupScheduler:
    options = {"group_size": 2, "places": places, "refill_max": refill, "replace_max": replace, "failures_max": 10**6}
    return GroupScheduler(INSTANCES, StalenessBudget(size, staleness), seed=1, **options)


def trajectory(versions: list[int], total: float, ending: str = "solved") -> Trajectory:
    made = Trajectory("toy", "i", total=total, ending=ending)
    made.append([6] * len(versions), sampled=True, logprobs=[-1.0] * len(versions), policy_versions=versions)
    return made


class SchedulerMachine(RuleBasedStateMachine):
    """Rollouts begin and end in any order and way; the engine follows the learner late; restarts happen at any time.

    A trajectory samples one token when it begins and one when it ends, so it spans the versions in between.
    """

    @initialize(size=st.integers(1, 3), staleness=st.integers(0, 3), places=st.integers(1, 9), refill=st.integers(0, 2))
    def begin(self, size: int, staleness: int, places: int, refill: int) -> None:
        self.shape = {"places": places, "refill": refill}
        self.scheduler = make(size, staleness, **self.shape)
        self.size, self.staleness = size, staleness
        self.learner = 0
        self.running: dict[Ticket, int] = {}
        self.trained: list[int] = []
        self.saved = (self.scheduler.state(), 0, 0)

    @rule(most=st.integers(1, 9))
    def start(self, most: int) -> None:
        for _ in range(most):
            ticket = self.scheduler.next_ticket()
            if ticket is not None:
                self.running[ticket] = self.scheduler.budget.version

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fate=st.sampled_from(["right", "wrong", "wrong", "fault", "raise"]))
    def end(self, data: st.DataObject, fate: str) -> None:
        ticket = data.draw(st.sampled_from(list(self.running)))
        began = self.running.pop(ticket)
        if fate == "raise":
            return self.scheduler.fail(ticket, SandboxError("no session"))
        versions = [began, self.scheduler.budget.version]
        ending = "error:sandbox" if fate == "fault" else "solved"
        self.scheduler.finish(ticket, trajectory(versions, float(fate == "right"), ending))

    @rule()
    def stop_what_is_lost(self) -> None:
        for ticket in self.scheduler.lost():
            if self.running.pop(ticket, None) is not None:
                self.scheduler.release(ticket)

    @rule()
    def learn(self) -> None:
        batch = self.scheduler.take_batch(self.learner)
        if batch is None:
            return
        assert len(batch) == self.size
        for group in batch:
            oldest = min(int(t.policy_versions.min()) for t in group.trajectories)
            assert 0 <= self.learner - oldest <= self.staleness
            assert len(group.trajectories) == 2
        self.trained += [group.index for group in batch]
        self.learner += 1

    @precondition(lambda self: self.scheduler.budget.version < self.learner)
    @rule()
    def sync(self) -> None:
        self.scheduler.set_version(self.scheduler.budget.version + 1)

    @rule()
    def checkpoint(self) -> None:
        self.saved = (self.scheduler.state(), self.learner, len(self.trained))

    @rule()
    def kill(self) -> None:
        """Everything since the checkpoint is gone, and so is everything under way."""
        state, self.learner, kept = self.saved
        self.trained = self.trained[:kept]
        self.running = {}
        self.scheduler = make(self.size, self.staleness, **self.shape)
        self.scheduler.restore(state)
        self.scheduler.set_version(self.learner)

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "scheduler"):
            counts = self.scheduler.budget.counts
            assert counts.balanced()
            assert counts.trained == len(self.trained) == self.learner * self.size
            unfinished, spare = self.scheduler.state()["redo"], len(self.scheduler.buffer.spare)
            settled = counts.trained + counts.dropped + counts.filtered - spare + counts.failed
            assert settled + len(unfinished) == self.scheduler.next_index

    @invariant()
    def no_group_is_used_twice_or_lost(self) -> None:
        if hasattr(self, "scheduler"):
            unfinished = self.scheduler.state()["redo"]
            assert max(Counter([*self.trained, *unfinished]).values(), default=1) == 1

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "scheduler"):
            made, counts = self.scheduler, self.scheduler.budget.counts
            assert len(made.running) == len(self.running) <= made.places
            assert counts.in_flight + counts.ready <= (self.staleness + 1) * self.size
            assert counts.ready == len(made.buffer.ready)
            assert len(made.waiting) <= 2 * counts.in_flight
            assert len(made.buffer.spare) <= made.refill_max


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestScheduler = SchedulerMachine.TestCase


class Points:
    """Counts the await points of everything that runs, and does something at one of them."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act, self.passed = at, act, 0

    async def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.at + 1:
            self.act()
        await asyncio.sleep(0)


def rollouts(points: Points, version: Callable[[], int]) -> Callable[[Ticket], Awaitable[Trajectory]]:
    async def run_member(ticket: Ticket) -> Trajectory:
        began = version()
        for _ in range(1 + (ticket.group + ticket.sample) % 3):
            await points()
        return trajectory([began, version()], float(ticket.sample) if ticket.group % 4 else 1.0)

    return run_member


@pytest.mark.parametrize("refill", [1, 2])
def test_a_state_saved_in_the_middle_of_a_synchronous_batch_gives_that_batch(refill: int) -> None:
    """Groups 0, 1, 2, 4 and 5 are flat, so that the cap on refills decides what is trained."""

    def step(scheduler: GroupScheduler, saved: list[dict]) -> list[int]:
        while (batch := scheduler.take_batch(0)) is None:
            ticket = scheduler.next_ticket()
            assert ticket is not None
            total = float(ticket.sample) if ticket.group % 4 == 3 else 1.0
            scheduler.finish(ticket, trajectory([0], total))
            saved.append(scheduler.state())
        return [group.index for group in batch]

    saved: list[dict] = []
    expected = step(make(2, 0, refill=refill), saved)
    for state in saved:
        resumed = make(2, 0, refill=refill)
        resumed.restore(state)
        assert step(resumed, []) == expected


async def learner(made: Dispatcher, points: Points, steps: range, used: list[int], saved: list[dict]) -> None:
    """Batch, learn, publish, save: with an await point wherever the real loop has one."""
    for step in steps:
        batch = await made.next_batch(step)
        await points()
        used += [group.index for group in batch]
        saved.append(made.scheduler.state())
        await points()
        made.set_version(step + 1)
        await points()


def fail() -> None:
    raise SandboxError("no session")


def cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


STEPS = 3


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("act", [fail, cancel])
async def test_a_rollout_that_ends_at_any_await_point_costs_no_other_group(
    act: Callable[[], None], staleness: int
) -> None:
    at, told, reached = 0, 0, True
    while reached:
        for replace in (0, 1):
            points, apart = Points(at, act), Points(-1, fail)
            scheduler = make(2, staleness, places=5, replace=replace)
            made = Dispatcher(scheduler, rollouts(points, lambda made=scheduler: made.budget.version))
            used: list[int] = []
            await learner(made, apart, range(STEPS), used, [])
            await made.close()
            assert len(used) == len(set(used)) == 2 * STEPS
            state, counts = scheduler.state(), scheduler.budget.counts
            assert not set(used) & set(state["redo"])
            gone = counts.dropped + counts.filtered - len(scheduler.buffer.spare) + counts.failed
            assert len(used) + len(state["redo"]) + gone == scheduler.next_index
            reached = points.passed > at
            assert counts.failed + counts.replaced <= 1
            told += counts.failed + counts.replaced
        at += 1
    assert at > 3 * STEPS and told > at  # of each fault that the run lived to hear, once with each rule


@pytest.mark.parametrize("staleness", [0, 1, 2])
async def test_a_run_killed_at_any_await_point_loses_and_repeats_no_group(staleness: int) -> None:
    at, reached = 0, True
    uninterrupted: list[int] = []
    while reached:
        over = asyncio.Event()
        points = Points(at, over.set)
        first = make(2, staleness, places=5)
        made = Dispatcher(first, rollouts(points, lambda made=first: made.budget.version))
        used: list[int] = []
        saved = [first.state()]
        running = asyncio.ensure_future(learner(made, points, range(STEPS), used, saved))
        killed = asyncio.ensure_future(over.wait())
        await asyncio.wait({running, killed}, return_when=asyncio.FIRST_COMPLETED)
        reached = over.is_set()
        for task in (running, killed):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        done = len(saved) - 1
        await made.close()
        second = make(2, staleness, places=5)
        second.restore(saved[-1])
        second.set_version(done)
        quiet = Points(-1, fail)
        again = Dispatcher(second, rollouts(quiet, lambda made=second: made.budget.version))
        kept = used[: 2 * done]
        await learner(again, quiet, range(done, STEPS), kept, [])
        await again.close()
        counts, redo = second.budget.counts, second.state()["redo"]
        assert len(kept) == len(set(kept)) == 2 * STEPS
        assert not set(kept) & set(redo)
        settled = counts.dropped + counts.filtered - len(second.buffer.spare) + counts.failed
        assert len(kept) + len(redo) + settled == second.next_index
        uninterrupted = uninterrupted or kept
        assert staleness > 0 or kept == uninterrupted
        at += 1
    assert at > 3 * STEPS


async def test_cancelling_the_wait_for_a_batch_takes_nothing_out() -> None:
    scheduler = make(2, 0, refill=0)
    points = Points(-1, fail)
    made = Dispatcher(scheduler, rollouts(points, lambda: 0))
    for turns in range(6):
        waiting = asyncio.ensure_future(made.next_batch(0))
        for _ in range(turns):
            await asyncio.sleep(0)
        if waiting.done():
            break
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert scheduler.budget.counts.trained == 0
    batch = await waiting if waiting.done() and not waiting.cancelled() else await made.next_batch(0)
    assert [group.index for group in batch] == [0, 1]
