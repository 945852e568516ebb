"""What all tasks of this project share: instances drawn once a split, shown as they are, graded by the task's rule."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.grading import gold_answer, grade
from biomni_lib.tasks.splits import SPLITS


class DrawnTask(ABC):
    """A family of questions with one grading rule.

    Args:
        config: how many instances a split has.
        seed: of the training instances. Dev and held-out instances are the same for every seed, as instruments are.
    Attributes: name: of the task and its rule. stream: seeds what it draws, beside seed and split.
    """

    name = ""
    stream = 0

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._made: dict[str, list[Instance]] = {}

    def instances(self, split: str) -> list[Instance]:
        """All instances of a split; instance i of a seed does not depend on how many are asked for."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
        if split not in self._made:
            count = getattr(self.config, f"{split}_instances")
            self._made[split] = self._make(split, self.seed if split == "train" else 0, count)
        return self._made[split]

    def prompt(self, instance: Instance) -> str:
        """The text shown to the agent."""
        return instance.prompt

    def grade(self, instance: Instance, answer: str | None, *, strict: bool = False) -> float:
        """1.0 for a right answer, else 0.0; never raises."""
        return grade(self.name, answer, instance.gold, strict=strict)

    def gold_answer(self, instance: Instance) -> str:
        """The gold in the output format."""
        return gold_answer(self.name, instance.gold)

    @abstractmethod
    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics that read only the prompt's facts, by name, each from instance to answer."""

    @abstractmethod
    def _make(self, split: str, seed: int, count: int) -> list[Instance]:
        """At most `count` instances of a split, drawn from its seed, the task's stream and the split's number."""

    def _words(self, split: str, seed: int) -> tuple[int, ...]:
        """What seeds the streams of a split."""
        return (seed, self.stream, SPLITS.index(split))
