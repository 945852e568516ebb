"""Which of six methods delivers a CRISPR system best? Written cases, the options in another order for every instance.

The order is drawn for every instance, and each block of six instances has six different right letters: no letter is a
good guess. In training the cases come again and again, each time in another order, so that a letter learned by heart
earns nothing; dev and held-out cases come once. A second method that would also do is listed in `meta["acceptable"]`
and earns half in training.
Departs from the other tasks: it reads no lake, and there are only as many dev and held-out instances as cases. With ten
held-out cases one answer is a tenth of the score: an interval belongs to every number.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.crispr_cases import METHODS, Case, load_cases
from biomni_lib.tasks.drawn import DrawnTask

LETTERS = "abcdef"

KEYWORDS = (
    (r"\d,\d{3} guides|librar|one guide|barcode", "lentivirus"),
    (r"zona-intact|zona left", "electroporation"),
    (r"zygotes|embryos|\beggs\b|gonad", "microinjection"),
    (r"\bliver|hepatocyte|lung", "lnp"),
    (r"neuron|retina|muscle|heart|hair cells", "aav"),
    (r"\b(T|B|NK) cells|CD34|iPSC", "electroporation"),
)
"""A rule of thumb read from the training cases: the first pattern that the case's text has names the method."""


class CrisprDelivery(DrawnTask):
    """Choose the method of delivery.

    Args:
        lake: not used; every task is built alike.
        config: how many instances a split has.
        seed: of the order of options in training. Dev and held-out instances are the same for every seed.
    """

    name = "crispr_delivery"
    stream = 3
    question = "choose the delivery method that fits this use of CRISPR best."
    output_format = "one letter, a to f"

    def __init__(self, lake: Lake | None, config: DataConfig, seed: int) -> None:
        super().__init__(config, seed)
        self._cases = load_cases()

    def _make(self, split: str, seed: int, count: int) -> list[Instance]:
        cases = [case for case in self._cases if case.split == split]
        count = count if split == "train" else min(count, len(cases))
        words = self._words(split, seed)
        shown = (cases[number % len(cases)] for number in range(count))
        return [
            self._instance(case, order_of_options(case.right, words, number), f"{split}-{seed}-{number}")
            for number, case in enumerate(shown)
        ]

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics that read the prompt: any letter, the method most often right in training, a rule of thumb."""
        train: Counter[str] = Counter(case.right for case in self._cases if case.split == "train")
        majority = max(METHODS, key=lambda method: train[method])
        return {
            "random": lambda instance: LETTERS[zlib.crc32(instance.id.encode()) % len(LETTERS)],
            "majority": lambda instance: letter_of(instance.prompt, majority),
            "keywords": lambda instance: letter_of(instance.prompt, method_by_keywords(read_case(instance.prompt))),
        }

    def _instance(self, case: Case, methods: list[str], id: str) -> Instance:
        options = "\n".join(f"{letter}. {METHODS[name].option}" for letter, name in zip(LETTERS, methods, strict=True))
        prompt = f"Task: {self.question}\nCase: {case.text}\nOptions:\n{options}\nOutput format: {self.output_format}"
        letters = dict(zip(methods, LETTERS, strict=True))
        meta = {
            "case": case.id,
            "options": methods,
            "acceptable": [letters[case.second]] if case.second else [],
            "reason": case.reason,
        }
        return Instance(prompt, letters[case.right], self.name, f"{self.name}-{id}", meta)


def order_of_options(right: str, words: Sequence[int], number: int) -> list[str]:
    """The six methods in the order shown.

    Args:
        right: the right method. words: what seeds the split: seed, stream, split. number: of the instance.
    Returns: `right` at a place that differs from that of the other five instances of its block of six; the other
        methods around it in any order.
    """
    block, turn = divmod(number, len(METHODS))
    place = int(_generator(*words, 0, block).permutation(len(METHODS))[turn])
    others = [method for method in METHODS if method != right]
    methods = [others[i] for i in _generator(*words, 1, number).permutation(len(others))]
    return [*methods[:place], right, *methods[place:]]


def _generator(*words: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(words))


def read_case(prompt: str) -> str:
    """The case's text in a prompt."""
    return prompt.partition("\nCase: ")[2].partition("\nOptions:\n")[0]


def letter_of(prompt: str, method: str) -> str:
    """The letter that a method has in a prompt."""
    return next(line[0] for line in prompt.splitlines() if line[1:] == f". {METHODS[method].option}")


def method_by_keywords(text: str) -> str:
    """The method of the first of `KEYWORDS` that a case's text has; plasmid when it has none."""
    return next((method for pattern, method in KEYWORDS if re.search(pattern, text)), "plasmid")
