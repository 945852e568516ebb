import asyncio
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import RunError, SandboxError, TrainingError
from biomni_lib.rl.scheduler import GroupScheduler, instance_at
from biomni_lib.rl.staleness import StalenessBudget

INSTANCES = list(range(7))


def trajectory(total: float, version: int, ending: str = "solved") -> Trajectory:
    made = Trajectory("toy", "i", total=total, ending=ending)
    made.append([5], sampled=False)
    made.append([6, 7], sampled=True, logprobs=[-1.0, -1.0], policy_versions=[version, version + 1])
    return made


class Rollouts:
    """Groups that take a random number of event-loop turns and end as the seed says."""

    def __init__(self, seed: int, *, slow: int = 6, faults: float = 0.0, flat: float = 0.0) -> None:
        self.seed, self.slow, self.faults, self.flat = seed, slow, faults, flat
        self.version = 0
        self.started: list[int] = []
        self.running = self.most = 0

    async def __call__(self, index: int, instance: int) -> list[Trajectory]:
        self.started.append(index)
        self.running += 1
        self.most = max(self.most, self.running)
        version = self.version
        content = np.random.default_rng([1, index]).random(2)  # what happens: a function of the index alone
        turns = np.random.default_rng([2, self.seed, index]).integers(0, self.slow)  # when: another one in every run
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        if content[0] < self.faults:
            raise SandboxError(f"group {index}")
        totals = (1.0, 1.0) if content[1] < self.flat else (0.0, 1.0)
        return [trajectory(total, version) for total in totals]


def scheduler(rollouts: Rollouts, size: int, staleness: int, refill: int = 0, in_flight: int = 50) -> GroupScheduler:
    budget = StalenessBudget(size, staleness)
    return GroupScheduler(rollouts, INSTANCES, budget, seed=3, in_flight_max=in_flight, refill_max=refill)


async def train(made: GroupScheduler, rollouts: Rollouts, steps: range, lag: int = 0) -> list[list[int]]:
    """Take batches as a learner does; the engine gets each version `lag` event-loop turns later."""
    batches = []
    for step in steps:
        batch = await made.next_batch(step)
        batches.append([group.index for group in batch])
        for group in batch:
            assert step - group.oldest_version <= made.budget.max_staleness
        assert made.budget.counts.balanced()
        for _ in range(lag):
            await asyncio.sleep(0)
        rollouts.version = step + 1
        made.set_version(step + 1)
    return batches


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 3), st.sampled_from([0.0, 0.3]), st.integers(0, 5))
async def test_bound_and_counts_hold_under_random_latencies(
    seed: int, size: int, staleness: int, rate: float, lag: int
) -> None:
    rollouts = Rollouts(seed, slow=30, faults=rate, flat=rate)
    made = scheduler(rollouts, size, staleness, refill=size)
    batches = await train(made, rollouts, range(8), lag)
    used = [index for batch in batches for index in batch]
    assert len(used) == len(set(used)) == 8 * size
    assert len(rollouts.started) <= made.budget.counts.admitted == made.next_index
    assert rollouts.most <= (staleness + 1) * size
    await made.close()
    assert not made.running


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 3))
async def test_synchronous_batches_do_not_depend_on_timing(one: int, other: int, size: int, refill: int) -> None:
    runs = []
    for seed in (one, other):
        rollouts = Rollouts(seed, slow=40, flat=0.5)
        runs.append(await train(scheduler(rollouts, size, 0, refill=refill), rollouts, range(6)))
    assert runs[0] == runs[1]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 2), st.integers(1, 5))
async def test_a_resumed_run_loses_and_repeats_no_group(seed: int, staleness: int, stop: int) -> None:
    rollouts = Rollouts(seed, slow=20)
    first = scheduler(rollouts, 3, staleness)
    batches = await train(first, rollouts, range(stop))
    state = first.state()
    await first.close()
    second = scheduler(rollouts, 3, staleness)
    second.restore(state)
    second.set_version(stop)
    batches += await train(second, rollouts, range(stop, 8))
    used = Counter(index for batch in batches for index in batch)
    unfinished = second.state()["redo"]
    await second.close()
    assert set(used.values()) == {1}
    assert not set(used) & set(unfinished)
    assert len(used) + len(unfinished) + second.budget.counts.dropped == second.next_index


async def test_resuming_synchronously_gives_the_uninterrupted_batches() -> None:
    whole, parts = Rollouts(1, flat=0.3), Rollouts(2, flat=0.3)
    expected = await train(scheduler(whole, 2, 0, refill=1), whole, range(6))
    first = scheduler(parts, 2, 0, refill=1)
    got = await train(first, parts, range(3))
    second = scheduler(parts, 2, 0, refill=1)
    second.restore(first.state())
    assert got + await train(second, parts, range(3, 6)) == expected


async def test_a_straggler_blocks_nobody_and_is_dropped_when_too_old() -> None:
    release = asyncio.Event()

    async def run_group(index: int, instance: int) -> list[Trajectory]:
        version = made.budget.version
        if index == 0:
            await release.wait()
        return [trajectory(0, version), trajectory(1, version)]

    made = GroupScheduler(run_group, INSTANCES, StalenessBudget(2, 1), seed=0, in_flight_max=9, refill_max=0)
    for step in range(3):
        batch = await made.next_batch(step)
        assert 0 not in [g.index for g in batch]
        made.set_version(step + 1)
    release.set()
    batch = await made.next_batch(3)
    assert 0 not in [g.index for g in batch]
    assert made.budget.counts.dropped == 1
    await made.close()


async def test_flat_groups_are_refilled_up_to_the_cap() -> None:
    async def run_group(index: int, instance: int) -> list[Trajectory]:
        return [trajectory(1, 0), trajectory(1, 0)]

    for cap in (0, 3):
        made = GroupScheduler(run_group, INSTANCES, StalenessBudget(2, 0), seed=0, in_flight_max=9, refill_max=cap)
        batch = await made.next_batch(0)
        assert [g.index for g in batch] == [0, 1]
        assert (made.budget.counts.filtered, made.budget.counts.admitted) == (cap, 2 + cap)


async def test_a_fault_of_the_environment_drops_the_group_and_one_of_the_model_does_not() -> None:
    async def run_group(index: int, instance: int) -> list[Trajectory]:
        ending = {0: "error:sandbox", 1: "error:malformed_turn"}.get(index, "solved")
        return [trajectory(0, 0, ending), trajectory(1, 0)]

    made = GroupScheduler(run_group, INSTANCES, StalenessBudget(2, 0), seed=0, in_flight_max=9, refill_max=0)
    assert [g.index for g in await made.next_batch(0)] == [1, 2]
    assert made.budget.counts.failed == 1


async def test_rollouts_that_always_fail_stop_the_run() -> None:
    made = scheduler(Rollouts(0, faults=1.1), 2, 0)
    with pytest.raises(RunError, match=r"20 groups in a row failed; the last: group \d+"):
        await made.next_batch(0)


async def test_a_programming_error_propagates_as_itself() -> None:
    async def run_group(index: int, instance: int) -> list[Trajectory]:
        raise ZeroDivisionError("in a rollout")

    made = GroupScheduler(run_group, INSTANCES, StalenessBudget(2, 0), seed=0, in_flight_max=9, refill_max=0)
    with pytest.raises(ZeroDivisionError):
        await made.next_batch(0)


async def test_groups_in_flight_are_bounded() -> None:
    rollouts = Rollouts(0, slow=30)
    made = scheduler(rollouts, 6, 3, in_flight=4)
    await train(made, rollouts, range(4))
    assert rollouts.most == 4
    await made.close()


def test_each_instance_comes_once_an_epoch_in_another_order() -> None:
    epochs = [[instance_at(e * 7 + i, 7, seed=5) for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == INSTANCES for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [instance_at(i, 7, seed=6) for i in range(7)]


def test_no_instances_are_refused() -> None:
    with pytest.raises(TrainingError, match="no training instances"):
        GroupScheduler(Rollouts(0), [], StalenessBudget(1, 0), seed=0, in_flight_max=1, refill_max=0)
