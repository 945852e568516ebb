"""What the tasks over curated or measured answers share: each answer is asked once a split, from a list of candidates.

An answer becomes a question by drawing what must not tell it apart (other candidates, their order, a place near it).
Which answers a split has is fixed by the data; the seed draws the rest of the training questions, and dev and held-out
questions are the same for every seed, as instruments are. A split has as many questions as the data have answers,
at most as many as `DataConfig` asks for.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.drawn import DrawnTask

Answer = TypeVar("Answer")


class CuratedTask(DrawnTask, Generic[Answer]):
    """A family of questions over known answers.

    Args:
        lake: with its public tier built (`make data`).
        config: at most how many questions a split has.
        seed: of the training questions.
    Raises: DataError when the data are not built, with the remedy.
    """

    data_sets: tuple[str, ...] = ()
    """Data sets of the public tier that it needs."""

    def __init__(self, lake: Lake, config: DataConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.lake, self.genome = lake, lake.genome
        self._answers = self.read_answers()

    @abstractmethod
    def read_answers(self) -> dict[str, Sequence[Answer]]:
        """All answers of each split, always in the same order."""

    @abstractmethod
    def ask(self, answer: Answer, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        """A question about an answer: prompt, gold, and what `Instance.meta` keeps."""

    def _make(self, split: str, seed: int, count: int) -> list[Instance]:
        words, answers = self._words(split, seed), self._answers[split]
        order = np.random.default_rng(np.random.SeedSequence(words)).permutation(len(answers))
        return [
            self._instance(answers[at], np.random.SeedSequence([*words, number]), f"{split}-{seed}-{number}")
            for number, at in enumerate(order[:count])
        ]

    def _instance(self, answer: Answer, stream: np.random.SeedSequence, id: str) -> Instance:
        prompt, gold, meta = self.ask(answer, np.random.default_rng(stream))
        return Instance(prompt, gold, self.name, f"{self.name}-{id}", meta)
