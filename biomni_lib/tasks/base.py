"""What a task is: instances to ask, a rule to grade, baselines to beat."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from biomni_lib.errors import DataError

EVALUATION_ONLY = ("eval1/", "lab-bench/")
"""How the ids of benchmark instances begin. The id is the mark, since it goes wherever an instance goes: into files,
into other processes, and into the ledgers of its trajectories."""


@dataclass(frozen=True)
class Instance:
    """One question.

    Attributes:
        prompt: the text shown to the agent. gold: the right answer, in the form that `grade` takes.
        task: name of the task. id: unique within the task.
        meta: what the simulation knows (ids of disease, gene, terms, excluded, candidates); never shown to the agent.
            `acceptable`, where there is one, lists second choices: half right in training, wrong in the benchmark.
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


def refuse_evaluation_only(ids: Iterable[str], purpose: str) -> None:
    """Guard of every way into training.

    Args:
        ids: of instances, or of the instances behind trajectories. purpose: what they would be used for.
    Raises: DataError that names the first benchmark instance among them.
    """
    for id in ids:
        if id.startswith(EVALUATION_ONLY):
            raise DataError(
                f"instance {id} is of a benchmark, for evaluation only: {purpose} refuses it; "
                "take training instances from Task.instances('train')"
            )
