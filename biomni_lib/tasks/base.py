"""What a task is: instances to ask, a rule to grade, baselines to beat."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Instance:
    """One question.

    Attributes:
        prompt: the text shown to the agent. gold: the right answer, in the form that `grade` takes.
        task: name of the task. id: unique within the task.
        meta: what the simulation knows (ids of disease, gene, terms, excluded, candidates); never shown to the agent.
    """

    prompt: str
    gold: str
    task: str
    id: str
    meta: dict[str, Any] = field(default_factory=dict, compare=False)


class Task(Protocol):
    """A family of questions with one grading rule."""

    name: str

    def instances(self, split: str) -> list[Instance]:
        """All instances of `train`, `dev` or `heldout`, always the same. Raises: ConfigError for another split."""

    def prompt(self, instance: Instance) -> str:
        """The text shown to the agent."""

    def grade(self, instance: Instance, answer: str | None, *, strict: bool = False) -> float:
        """1.0 for a right answer, else 0.0; never raises. `strict` is for training rewards."""

    def gold_answer(self, instance: Instance) -> str:
        """An answer in the output format that scores 1."""

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics that read only the prompt's facts, by name, each from instance to answer."""
