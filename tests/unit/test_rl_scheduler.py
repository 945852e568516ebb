import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import EngineLostError, RunError, SandboxError, TrainingError
from biomni_lib.rl.dispatcher import Dispatcher
from biomni_lib.rl.scheduler import GroupScheduler, Ticket, instance_at
from biomni_lib.rl.staleness import StalenessBudget

INSTANCES = list(range(7))


def trajectory(total: float, version: int, ending: str = "solved") -> Trajectory:
    made = Trajectory("toy", "i", total=total, ending=ending)
    made.append([5], sampled=False)
    made.append([6, 7], sampled=True, logprobs=[-1.0, -1.0], policy_versions=[version, version + 1])
    return made


class Rollouts:
    """Groups of two whose members take a random number of event-loop turns and end as the seed says."""

    def __init__(self, seed: int, *, slow: int = 6, faults: float = 0.0, flat: float = 0.0) -> None:
        self.seed, self.slow, self.faults, self.flat = seed, slow, faults, flat
        self.version = 0
        self.started: list[tuple[int, int, int]] = []
        self.running = self.most = 0

    async def __call__(self, ticket: Ticket) -> Trajectory:
        which = (ticket.group, ticket.sample, ticket.attempt)
        self.started.append(which)
        self.running += 1
        self.most = max(self.most, self.running)
        version = self.version
        flat = np.random.default_rng([1, ticket.group]).random() < self.flat  # what happens: not a matter of time
        broken = np.random.default_rng([3, *which]).random() < self.faults
        turns = np.random.default_rng([2, self.seed, *which]).integers(0, self.slow)  # when: another one in every run
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        if broken:
            raise SandboxError(f"group {ticket.group}")
        return trajectory(1.0 if flat else float(ticket.sample), version)


def dispatcher(
    run: Any, size: int, staleness: int, *, places: int = 100, refill: int = 0, replace: int = 0
) -> Dispatcher:
    budget = StalenessBudget(size, staleness)
    options = {"group_size": 2, "places": places, "refill_max": refill, "replace_max": replace}
    return Dispatcher(GroupScheduler(INSTANCES, budget, seed=3, **options), run)


async def train(made: Dispatcher, rollouts: Rollouts, steps: range, lag: int = 0) -> list[list[int]]:
    """Take batches as a learner does; the engine gets each version `lag` event-loop turns later."""
    batches, budget = [], made.scheduler.budget
    for step in steps:
        batch = await made.next_batch(step)
        batches.append([group.index for group in batch])
        for group in batch:
            assert step - group.oldest_version <= budget.max_staleness
        assert budget.counts.balanced()
        for _ in range(lag):
            await asyncio.sleep(0)
        rollouts.version = step + 1
        made.set_version(step + 1)
    return batches


def run_by(answer: Callable[[Ticket], Trajectory]) -> Any:
    async def run_member(ticket: Ticket) -> Trajectory:
        return answer(ticket)

    return run_member


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 3), st.sampled_from([0.0, 0.2]), st.integers(0, 5))
async def test_bound_and_counts_hold_under_random_latencies(
    seed: int, size: int, staleness: int, rate: float, lag: int
) -> None:
    rollouts = Rollouts(seed, slow=30, faults=rate, flat=rate)
    made = dispatcher(rollouts, size, staleness, refill=size, replace=1)
    batches = await train(made, rollouts, range(8), lag)
    used = [index for batch in batches for index in batch]
    assert len(used) == len(set(used)) == 8 * size
    assert made.scheduler.budget.counts.admitted == made.scheduler.next_index
    assert len(rollouts.started) == len(set(rollouts.started))
    await made.close()
    assert not made.tasks and not rollouts.running


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 3), st.integers(1, 9))
async def test_synchronous_batches_do_not_depend_on_timing(
    one: int, other: int, size: int, refill: int, places: int
) -> None:
    runs = []
    for seed, room in ((one, places), (other, 100)):
        rollouts = Rollouts(seed, slow=40, flat=0.5)
        runs.append(await train(dispatcher(rollouts, size, 0, refill=refill, places=room), rollouts, range(6)))
    assert runs[0] == runs[1]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 2), st.integers(1, 5))
async def test_a_resumed_run_loses_and_repeats_no_group(seed: int, staleness: int, stop: int) -> None:
    rollouts = Rollouts(seed, slow=20)
    first = dispatcher(rollouts, 3, staleness)
    batches = await train(first, rollouts, range(stop))
    await first.close()
    state = first.scheduler.state()
    second = dispatcher(rollouts, 3, staleness)
    second.scheduler.restore(state)
    second.set_version(stop)
    batches += await train(second, rollouts, range(stop, 8))
    used = Counter(index for batch in batches for index in batch)
    unfinished = second.scheduler.state()["redo"]
    await second.close()
    assert set(used.values()) == {1}
    assert not set(used) & set(unfinished)
    counts = second.scheduler.budget.counts
    assert len(used) + len(unfinished) + counts.dropped == second.scheduler.next_index


async def test_resuming_synchronously_gives_the_uninterrupted_batches() -> None:
    whole, parts = Rollouts(1, flat=0.3), Rollouts(2, flat=0.3)
    expected = await train(dispatcher(whole, 2, 0, refill=1), whole, range(6))
    first = dispatcher(parts, 2, 0, refill=1)
    got = await train(first, parts, range(3))
    second = dispatcher(parts, 2, 0, refill=1)
    second.scheduler.restore(first.scheduler.state())
    assert got + await train(second, parts, range(3, 6)) == expected


async def test_a_straggler_blocks_nobody_and_gives_its_place_back_when_too_old() -> None:
    cancelled = asyncio.Event()

    async def run_member(ticket: Ticket) -> Trajectory:
        version = made.scheduler.budget.version
        if ticket.group == 0:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return trajectory(ticket.sample, version)

    made = dispatcher(run_member, 2, 1, places=3)
    for step in range(4):
        batch = await made.next_batch(step)
        assert 0 not in [g.index for g in batch]
        made.set_version(step + 1)
    await cancelled.wait()
    counts = made.scheduler.budget.counts
    assert (counts.dropped, counts.trained) == (1, 8)
    await made.close()


async def test_a_group_that_completes_too_late_is_dropped() -> None:
    made = dispatcher(run_by(lambda t: trajectory(t.sample, 0)), 1, 1)
    for step in (0, 1):
        await made.next_batch(step)
        made.set_version(step + 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.next_batch(2), 0.05)  # the toy samples with version 0 for ever
    counts = made.scheduler.budget.counts
    assert counts.trained == 2 and counts.dropped > 1 and counts.balanced()
    await made.close()


async def test_flat_groups_are_refilled_up_to_the_cap() -> None:
    for cap in (0, 3):
        made = dispatcher(run_by(lambda t: trajectory(1, 0)), 2, 0, refill=cap)
        batch = await made.next_batch(0)
        assert [g.index for g in batch] == [0, 1]
        counts = made.scheduler.budget.counts
        assert (counts.filtered, counts.admitted) == (cap, 2 + cap)


async def test_a_fault_of_the_environment_drops_the_group_and_one_of_the_model_does_not() -> None:
    endings = {0: "error:sandbox", 1: "error:malformed_turn"}
    made = dispatcher(run_by(lambda t: trajectory(t.sample, 0, endings.get(t.group, "solved"))), 2, 0)
    assert [g.index for g in await made.next_batch(0)] == [1, 2]
    assert made.scheduler.budget.counts.failed == 1


@pytest.mark.parametrize(("replace", "trained", "failed"), [(0, 1, 1), (1, 1, 1), (2, 0, 0)])
async def test_failed_members_are_replaced_as_often_as_the_rule_says(replace: int, trained: int, failed: int) -> None:
    async def run_member(ticket: Ticket) -> Trajectory:
        if ticket.group == 0 and ticket.sample == 1 and ticket.attempt < 2:
            raise SandboxError("no session")
        return trajectory(ticket.sample, 0)

    made = dispatcher(run_member, 1, 0, replace=replace)
    (group,) = await made.next_batch(0)
    counts = made.scheduler.budget.counts
    assert (group.index, counts.failed, counts.replaced) == (trained, failed, replace)
    assert [t.total for t in group.trajectories] == [0, 1]


async def test_the_siblings_of_a_lost_member_are_stopped() -> None:
    stopped = []

    async def run_member(ticket: Ticket) -> Trajectory:
        if ticket.group == 0 and ticket.sample == 1:
            raise SandboxError("no session")
        if ticket.group == 0:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(ticket.sample)
        return trajectory(ticket.sample, 0)

    made = dispatcher(run_member, 1, 0)
    assert [g.index for g in await made.next_batch(0)] == [1]
    assert stopped == [0] and not made.tasks and not made.scheduler.running


async def test_rollouts_that_always_fail_stop_the_run() -> None:
    made = dispatcher(Rollouts(0, faults=1.1), 2, 0)
    with pytest.raises(RunError, match=r"20 groups in a row failed; the last: group \d+"):
        await made.next_batch(0)


async def test_members_that_go_with_their_engine_are_rolled_out_anew_and_counted() -> None:
    """Both members of every group, two times each: more than any number of replacements of failed members."""

    async def run_member(ticket: Ticket) -> Trajectory:
        if ticket.attempt < 2:
            raise EngineLostError("engine 0 was lost")
        return trajectory(ticket.sample, 0)

    made = dispatcher(run_member, 40, 0, replace=1)
    assert len(await made.next_batch(0)) == 40
    counts = made.scheduler.counts()
    assert (counts["replaced"], counts["failed"], counts["trained"]) == (40 * 2 * 2, 0, 40)
    assert made.scheduler.budget.counts.balanced()


async def test_what_no_run_survives_stops_it_at_once() -> None:
    async def run_member(ticket: Ticket) -> Trajectory:
        raise RunError("engine 0 was lost 4 times")

    with pytest.raises(RunError, match="engine 0 was lost 4 times"):
        await dispatcher(run_member, 2, 0, replace=5).next_batch(0)


async def test_a_programming_error_propagates_as_itself() -> None:
    async def run_member(ticket: Ticket) -> Trajectory:
        raise ZeroDivisionError("in a rollout")

    with pytest.raises(ZeroDivisionError):
        await dispatcher(run_member, 2, 0).next_batch(0)


async def test_trajectories_under_way_are_bounded() -> None:
    rollouts = Rollouts(0, slow=30)
    made = dispatcher(rollouts, 6, 3, places=5)
    await train(made, rollouts, range(4))
    assert rollouts.most == 5
    await made.close()


async def test_no_group_starts_that_could_never_be_trained() -> None:
    """The learner is two versions ahead of the engine, and one is allowed."""
    made = dispatcher(Rollouts(0), 1, 1)
    assert made.scheduler.take_batch(2) is None
    assert made.scheduler.next_ticket() is None
    made.scheduler.set_version(1)
    assert made.scheduler.next_ticket() is not None


async def test_spans_tell_when_each_member_began_and_ended() -> None:
    ticks = iter(range(100))
    budget = StalenessBudget(1, 0)
    scheduler = GroupScheduler(INSTANCES, budget, seed=0, group_size=2, places=1, refill_max=0)
    run = run_by(lambda t: trajectory(t.sample, 0))
    (group,) = await Dispatcher(scheduler, run, clock=lambda: float(next(ticks))).next_batch(0)
    assert group.spans == [(0.0, 1.0), (2.0, 3.0)]


def test_each_instance_comes_once_an_epoch_in_another_order() -> None:
    epochs = [[instance_at(e * 7 + i, 7, seed=5) for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == INSTANCES for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [instance_at(i, 7, seed=6) for i in range(7)]


def test_no_instances_are_refused() -> None:
    with pytest.raises(TrainingError, match="no training instances"):
        GroupScheduler([], StalenessBudget(1, 0), seed=0, group_size=1, places=1, refill_max=0)
