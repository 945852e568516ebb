"""What the tasks over curated or measured answers share: each answer is asked once a split, from a list of candidates.

An answer becomes a question by drawing what must not tell it apart (other candidates, their order, a place near it).
Which answers a split has is fixed by the data; the seed draws the rest of the training questions, and dev and held-out
questions are the same for every seed, as instruments are. A split has as many questions as the data have answers,
at most as many as `DataConfig` asks for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.grading import gold_answer, grade
from biomni_lib.tasks.splits import SPLITS

Answer = TypeVar("Answer")


class CuratedTask(ABC, Generic[Answer]):
    """A family of questions over known answers.

    Args:
        lake: with its public tier built (`make data`).
        config: at most how many questions a split has.
        seed: of the training questions.
    Raises: DataError when the data are not built, with the remedy.
    """

    name = ""
    stream = 0
    data_sets: tuple[str, ...] = ()
    """Data sets of the public tier that it needs."""

    def __init__(self, lake: Lake, config: DataConfig, seed: int) -> None:
        self.lake, self.config, self.seed = lake, config, seed
        self.genome = lake.genome
        self._answers = self.read_answers()
        self._made: dict[str, list[Instance]] = {}

    def instances(self, split: str) -> list[Instance]:
        """All instances of a split; instance i of a seed does not depend on how many are asked for."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
        if split not in self._made:
            seed = self.seed if split == "train" else 0
            words = (seed, self.stream, SPLITS.index(split))
            answers = self._answers[split]
            order = np.random.default_rng(np.random.SeedSequence(words)).permutation(len(answers))
            wanted = order[: getattr(self.config, f"{split}_instances")]
            self._made[split] = [
                self._instance(answers[at], np.random.SeedSequence([*words, number]), f"{split}-{seed}-{number}")
                for number, at in enumerate(wanted)
            ]
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
    def read_answers(self) -> dict[str, Sequence[Answer]]:
        """All answers of each split, always in the same order."""

    @abstractmethod
    def ask(self, answer: Answer, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        """A question about an answer: prompt, gold, and what `Instance.meta` keeps."""

    @abstractmethod
    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics that read the prompt's facts and use tools, by name."""

    def _instance(self, answer: Answer, stream: np.random.SeedSequence, id: str) -> Instance:
        prompt, gold, meta = self.ask(answer, np.random.default_rng(stream))
        return Instance(prompt, gold, self.name, f"{self.name}-{id}", meta)
