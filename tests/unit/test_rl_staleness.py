import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from biomni_lib.errors import TrainingError
from biomni_lib.rl.staleness import StalenessBudget


class BudgetMachine(RuleBasedStateMachine):
    """Groups start, finish, fail, are filtered, dropped and trained in any order; resumes happen at any batch."""

    @initialize(size=st.integers(1, 4), staleness=st.integers(0, 3))
    def begin(self, size: int, staleness: int) -> None:
        self.budget = StalenessBudget(size, staleness)
        self.learner = 0
        self.flying: list[int] = []
        self.ready: list[int] = []

    @precondition(lambda self: self.budget.capacity() > 0)
    @rule()
    def admit(self) -> None:
        self.budget.admit()
        self.flying.append(self.budget.version)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fate=st.sampled_from(["complete", "fail", "filter"]))
    def end(self, data: st.DataObject, fate: str) -> None:
        version = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if fate == "fail":
            return self.budget.fail()
        self.budget.complete()
        if fate == "filter":
            self.budget.filter()
        else:
            self.ready.append(version)

    @rule(newest=st.booleans())
    def learn(self, newest: bool) -> None:
        """The learner takes a batch if there is one, in whatever order, and moves on; the engine follows later."""
        for version in [v for v in self.ready if self.budget.too_old(v, self.learner)]:
            self.ready.remove(version)
            self.budget.drop()
        size = self.budget.groups_per_step
        if len(self.ready) >= size:
            self.ready.sort(reverse=newest)
            batch, self.ready = self.ready[:size], self.ready[size:]
            for version in batch:
                self.budget.train()
                assert 0 <= self.learner - version <= self.budget.max_staleness
            self.learner += 1

    @precondition(lambda self: self.budget.version < self.learner)
    @rule()
    def sync(self) -> None:
        self.budget.advance(self.budget.version + 1)

    @rule()
    def resume(self) -> None:
        """A restart forgets what was not trained; its groups are admitted anew, with the learner's weights."""
        state = self.budget.state()
        self.budget = StalenessBudget(self.budget.groups_per_step, self.budget.max_staleness)
        self.budget.restore(state)
        self.budget.advance(self.learner)
        self.flying, self.ready = [], []

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.counts.balanced()
            assert self.budget.counts.in_flight == len(self.flying)
            assert self.budget.counts.ready == len(self.ready)
            assert self.budget.counts.trained == self.learner * self.budget.groups_per_step

    @invariant()
    def never_more_than_the_learner_may_use(self) -> None:
        if hasattr(self, "budget"):
            waiting = len(self.flying) + len(self.ready)
            assert waiting <= (self.budget.max_staleness + 1) * self.budget.groups_per_step


BudgetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBudget = BudgetMachine.TestCase


def test_groups_trained_in_order_are_never_too_old() -> None:
    """First in, first out, with the learner as slow as the capacity allows: the bound is met and reached."""
    budget, queue, seen = StalenessBudget(2, 3), [], set()
    for learner in range(20):
        budget.advance(learner)
        while budget.capacity():
            budget.admit()
            budget.complete()
            queue.append(learner)
        for version in [queue.pop(0), queue.pop(0)]:
            budget.train()
            seen.add(learner - version)
    assert seen == {0, 1, 2, 3}


def test_synchronous_is_a_value() -> None:
    budget = StalenessBudget(3, 0)
    assert budget.capacity() == 3
    for _ in range(3):
        budget.admit()
        budget.complete()
        budget.train()
    assert budget.capacity() == 0
    budget.advance(1)
    assert budget.capacity() == 3


def test_misuse_is_named() -> None:
    budget = StalenessBudget(1, 0)
    with pytest.raises(TrainingError, match="no group is in_flight"):
        budget.complete()
    budget.admit()
    with pytest.raises(TrainingError, match="beyond the staleness bound"):
        budget.admit()
    budget.advance(2)
    with pytest.raises(TrainingError, match="went back"):
        budget.advance(1)
    with pytest.raises(TrainingError, match="max_staleness=-1"):
        StalenessBudget(1, -1)
