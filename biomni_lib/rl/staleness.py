"""The staleness bound, as arithmetic: no clock, no tasks, no I/O.

Admission rule (after Fu et al. 2025, AReaL, section 4.1): with B groups a step and learner version v, the groups that
were or still may be trained never exceed (v + max_staleness + 1) B. A group that is lost (dropped, filtered, failed)
gives its place back. If groups were trained in the order of admission, this alone would bound the staleness; they
complete in any order, so a straggler may still come too late, and a second rule drops it: learner version minus the
version of the group's OLDEST token must not exceed max_staleness.

max_staleness = 0 is the synchronous run: B places a version, refilled only when the next version is in the engine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from biomni_lib.errors import TrainingError


@dataclass
class Counts:
    """Groups so far; admitted = trained + dropped + filtered + failed + in_flight + ready at all times.

    `replaced` counts members that were rolled out anew after a failure; their groups are counted once all the same.
    """

    admitted: int = 0
    trained: int = 0
    dropped: int = 0
    filtered: int = 0
    failed: int = 0
    in_flight: int = 0
    ready: int = 0
    replaced: int = 0

    def balanced(self) -> bool:
        """Whether every admitted group is accounted for."""
        settled = self.trained + self.dropped + self.filtered + self.failed
        return self.admitted == settled + self.in_flight + self.ready


class StalenessBudget:
    """Decides how many groups may be admitted and which are too old, and counts every group once.

    `version` is the version in the rollout engine (the lower of engine and learner), so a group admitted now has no
    token older than it.
    """

    def __init__(self, groups_per_step: int, max_staleness: int) -> None:
        if groups_per_step < 1 or max_staleness < 0:
            raise TrainingError(
                f"groups_per_step={groups_per_step} must be at least 1 and max_staleness={max_staleness} at least 0"
            )
        self.groups_per_step = groups_per_step
        self.max_staleness = max_staleness
        self.version = 0
        self.counts = Counts()

    def capacity(self) -> int:
        """Groups that may be admitted now."""
        places = (self.version + self.max_staleness + 1) * self.groups_per_step
        return places - self.counts.trained - self.counts.in_flight - self.counts.ready

    def admit(self) -> None:
        """A group starts. Raises: TrainingError without capacity."""
        if self.capacity() < 1:
            raise TrainingError("a group was admitted beyond the staleness bound")
        self.counts.admitted += 1
        self.counts.in_flight += 1

    def complete(self) -> None:
        """A group in flight is finished and waits for the learner."""
        self._move("in_flight", "ready")

    def fail(self) -> None:
        """A group in flight is lost to a failed member."""
        self._move("in_flight", "failed")

    def abandon(self) -> None:
        """A group in flight is given up because it is too old already."""
        self._move("in_flight", "dropped")

    def replace(self) -> None:
        """A failed member of a group in flight is rolled out anew."""
        self.counts.replaced += 1

    def filter(self) -> None:
        """A ready group is left out because its rewards do not vary."""
        self._move("ready", "filtered")

    def drop(self) -> None:
        """A ready group is left out because it is too old."""
        self._move("ready", "dropped")

    def train(self) -> None:
        """A ready group goes to the learner."""
        self._move("ready", "trained")

    def advance(self, version: int) -> None:
        """New weights are in the engine. Raises: TrainingError when the version goes back."""
        if version < self.version:
            raise TrainingError(f"policy version went back from {self.version} to {version}")
        self.version = version

    def too_old(self, oldest_version: int, learner_version: int) -> bool:
        """Whether a group whose oldest token has `oldest_version` must not be trained at `learner_version`."""
        return learner_version - oldest_version > self.max_staleness

    def state(self, spare: int = 0) -> dict[str, int]:
        """What a resumed run needs; groups in flight or ready, and the last `spare` filtered, are admitted anew."""
        counts = asdict(self.counts)
        counts["admitted"] -= counts.pop("in_flight") + counts.pop("ready") + spare
        counts["filtered"] -= spare
        return {"version": self.version, **counts}

    def restore(self, state: dict[str, int]) -> None:
        """Take up a saved state."""
        values = dict(state)
        self.version = values.pop("version")
        self.counts = Counts(**values)

    def _move(self, source: str, target: str) -> None:
        if getattr(self.counts, source) < 1:
            raise TrainingError(f"no group is {source}, so none can become {target}")
        setattr(self.counts, source, getattr(self.counts, source) - 1)
        setattr(self.counts, target, getattr(self.counts, target) + 1)
