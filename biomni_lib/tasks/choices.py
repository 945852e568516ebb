"""Questions with six options of which one is right: what all generated multiple-choice tasks share.

A task names its kinds and draws one question of a kind; here the options are shuffled, lettered and written out, and
the answer is compared. Where on the scale of the options a number stands is drawn, so that the middle earns nothing.
Not covered: an option that refuses to answer, which LAB-Bench has and the recipe's scoring does not use.
"""

import re
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.drawn import DrawnTask

LETTERS = "abcdef"
MOST_DRAWS = 500
"""Draws for one question; a split that yields none in so many cannot be asked that kind."""
OUTPUT_FORMAT = f"one letter, {LETTERS[0]} to {LETTERS[-1]}"


@dataclass(frozen=True)
class Question:
    """A question before its options are lettered.

    Attributes:
        text: what is asked, without the facts. facts: label and value of each line shown. gold: the right option.
        wrong: candidates for the other options, the first that differ are taken. meta: where it comes from.
    """

    text: str
    facts: dict[str, str]
    gold: str
    wrong: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)


class ChoiceTask(DrawnTask):
    """Instances in turn of every kind: instance i of a split is of kind i modulo the number of kinds."""

    kinds: tuple[str, ...] = ()

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Guesses that know nothing of biology.

        `random`: any letter. `majority`: the most frequent letter of the training instances. `longest`: the longest
        option. `most_alike`: the option that resembles the others most, as wrong options are made from the right one.
        """
        counts = Counter(one.gold for one in self.instances("train"))
        majority = max(LETTERS, key=lambda letter: counts[letter])
        return {
            "random": lambda one: str(_generator(one).choice(list(LETTERS))),
            "majority": lambda one: majority,
            "longest": lambda one: _best(one, lambda option, others: len(option)),
            "most_alike": lambda one: _best(one, _likeness),
        }

    @abstractmethod
    def ask(self, kind: str, split: str, rng: np.random.Generator) -> Question | None:
        """One question of a kind over a split's own data, or None when this draw yields none."""

    def _make(self, split: str, seed: int, count: int) -> list[Instance]:
        words = self._words(split, seed)
        return [
            self._instance(split, np.random.default_rng(np.random.SeedSequence([*words, number])), seed, number)
            for number in range(count)
        ]

    def _instance(self, split: str, rng: np.random.Generator, seed: int, number: int) -> Instance:
        kind = self.kinds[number % len(self.kinds)]
        for _ in range(MOST_DRAWS):
            question = self.ask(kind, split, rng)
            wrong = _distinct(question.wrong, question.gold) if question else []
            if question and len(wrong) == len(LETTERS) - 1:
                return self._written(kind, question, wrong, rng, f"{self.name}-{split}-{seed}-{number}")
        raise DataError(f"no question of kind {kind!r} in {MOST_DRAWS} draws from split {split}; leave the kind out")

    def _written(self, kind: str, question: Question, wrong: list[str], rng: np.random.Generator, id: str) -> Instance:
        place = int(rng.integers(len(LETTERS)))
        options = [str(option) for option in rng.permutation(wrong)]
        options.insert(place, question.gold)
        facts = "".join(f"{label}: {value}\n" for label, value in question.facts.items())
        lines = "".join(f"{letter}: {option}\n" for letter, option in zip(LETTERS, options, strict=True))
        prompt = f"Task: {question.text}\n{facts}Options:\n{lines}Output format: {OUTPUT_FORMAT}"
        meta = {"kind": kind, "facts": question.facts, "options": options, **question.meta}
        return Instance(prompt, LETTERS[place], self.name, id, meta)


def read_options(prompt: str) -> dict[str, str]:
    """Letter to option, as a prompt shows them."""
    return dict(re.findall(rf"^([{LETTERS}]): (.+)$", prompt, re.MULTILINE))


def number_options(
    gold: int, plausible: Iterable[int], rng: np.random.Generator, *, lowest: int = 0, highest: int | None = None
) -> tuple[str, ...]:
    """Five wrong numbers for a right one; how many of them are smaller is drawn uniformly as far as the bounds allow.

    Args:
        plausible: results of likely mistakes, taken first. lowest, highest: bounds of what the quantity can be.
    Returns: the numbers as text; gaps are filled with numbers near the gold one.
    """
    top = max(highest if highest is not None else 2 * gold + 40, gold)
    likely = [int(number) for number in rng.permutation(sorted(set(plausible)))]
    reach = max(6, gold // 8)
    near = [int(number) for number in rng.permutation(np.arange(gold - reach, gold + reach + 1))]
    pool = [number for number in dict.fromkeys([*likely, *near]) if lowest <= number <= top and number != gold]
    below, above = [n for n in pool if n < gold], [n for n in pool if n > gold]
    wanted = len(LETTERS) - 1
    smaller = min(max(int(rng.integers(wanted + 1)), wanted - len(above)), len(below))
    return tuple(str(number) for number in [*below[:smaller], *above[: wanted - smaller]])


def _distinct(options: tuple[str, ...], gold: str) -> list[str]:
    return [option for option in dict.fromkeys(options) if option != gold][: len(LETTERS) - 1]


def _best(instance: Instance, score: Callable[[str, list[str]], float]) -> str:
    """The letter of the option that scores highest; a tie is broken at random."""
    options = read_options(instance.prompt)
    scores = {
        letter: score(option, [other for key, other in options.items() if key != letter])
        for letter, option in options.items()
    }
    best = [letter for letter, value in scores.items() if value == max(scores.values())]
    return str(_generator(instance).choice(best))


def _likeness(option: str, others: list[str]) -> float:
    return sum(SequenceMatcher(None, option, other, autojunk=False).ratio() for other in others)


def _generator(instance: Instance) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([zlib.crc32(instance.id.encode())]))
