"""Three kinds of question about PCR on a linear template: which primers, and how long the product.

A primer binds where its last `BINDING` bases match exactly; a pair is used only when each primer binds once. In the two
kinds that ask for primers the options are all six pairs of three forward and two reverse primers, so that no primer is
seen more often because it is right. Melting temperature, dimers and mismatches are not covered.
"""

from itertools import product

import numpy as np

from biomni_lib.tasks.choices import Question, number_options
from biomni_lib.tasks.seqqa.pool import SequencePool, reverse_complement

BINDING = 18
TEMPLATE = 300
SHORTEST_PRODUCT = 60


def amplicon(template: str, forward: str, reverse: str) -> str | None:
    """The product of a PCR, read from the first primer's strand, tails of the primers included.

    Args:
        template: top strand of a linear template. forward, reverse: primers, 5' to 3'; either may bind either strand.
    Returns: the product, or None when a primer binds nowhere or more than once, or the two do not face each other.
    """
    other = reverse_complement(template)
    for top, bottom in ((template, other), (other, template)):
        if _sites(top, forward) == 1 and _sites(bottom, reverse) == 1 and not _sites(bottom, forward):
            start = top.index(forward[-BINDING:]) + BINDING
            end = len(top) - bottom.index(reverse[-BINDING:]) - BINDING
            if _sites(top, reverse) == 0 and start <= end:
                return forward + top[start:end] + reverse_complement(reverse)
    return None


def primers_length(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """How long the product of a given pair is. Wrong: primers left out or counted twice, and near numbers."""
    window = pool.window(rng, TEMPLATE)
    start, end = _region(rng)
    forward, reverse = window.text[start : start + BINDING], reverse_complement(window.text[end - BINDING : end])
    made = amplicon(window.text, forward, reverse)
    if made is None:
        return None
    gold = len(made)
    plausible = [gold + change for change in (-2 * BINDING, -BINDING, BINDING, -1, 1)] + [end, len(window.text) - start]
    wrong = number_options(gold, plausible, rng, lowest=2 * BINDING)
    facts = {"Template": window.text, "Forward primer": forward, "Reverse primer": reverse}
    return Question("how long is the PCR product, in bp?", facts, str(gold), wrong, {"record": window.record})


def length_primers(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which pair makes a product of a stated length. Wrong: pairs on the same template with other lengths."""
    window = pool.window(rng, TEMPLATE)
    starts, ends = _distinct(rng, 0, 110, 3), _distinct(rng, 190, TEMPLATE, 2)
    forwards = [window.text[start : start + BINDING] for start in starts]
    reverses = [reverse_complement(window.text[end - BINDING : end]) for end in ends]
    made = {pair: amplicon(window.text, *pair) for pair in product(forwards, reverses)}
    lengths = [len(one) for one in made.values() if one]
    if len(set(lengths)) < len(made):
        return None
    gold, target = list(made.items())[int(rng.integers(len(made)))]
    text = f"which primer pair (forward + reverse) makes a PCR product of {len(target or '')} bp?"
    wrong = tuple(written(pair) for pair in made if pair != gold)
    return Question(text, {"Template": window.text}, written(gold), wrong, {"record": window.record})


def region_primers(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which pair amplifies exactly a region. Wrong: shifted forward primers, a reverse primer on the wrong strand."""
    window = pool.window(rng, TEMPLATE)
    start, end = _region(rng)
    forwards = [window.text[start + shift : start + shift + BINDING] for shift in three_shifts(rng)]
    last = window.text[end - BINDING : end]
    made = {pair: amplicon(window.text, *pair) for pair in product(forwards, (reverse_complement(last), last))}
    right = [pair for pair, one in made.items() if one == window.text[start:end]]
    if len(right) != 1 or len(set(forwards)) < 3:
        return None
    text = f"which primer pair (forward + reverse) amplifies exactly bases {start + 1} to {end} of the template?"
    wrong = tuple(written(pair) for pair in made if pair != right[0])
    meta = {"record": window.record, "region": (start, end)}
    return Question(text, {"Template": window.text}, written(right[0]), wrong, meta)


def three_shifts(rng: np.random.Generator) -> list[int]:
    """Three neighbouring displacements of a primer, in bases; none (0) is the least, the middle or the greatest."""
    least = -3 * int(rng.integers(3))
    return [least, least + 3, least + 6]


def written(pair: tuple[str, str]) -> str:
    """A pair of primers, or of enzymes, as an option shows it: first + second."""
    return " + ".join(pair)


def _sites(text: str, primer: str) -> int:
    return sum(text.startswith(primer[-BINDING:], at) for at in range(len(text) - BINDING + 1))


def _region(rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(10, TEMPLATE - SHORTEST_PRODUCT - 60))
    return start, int(rng.integers(start + SHORTEST_PRODUCT, TEMPLATE - 10))


def _distinct(rng: np.random.Generator, low: int, high: int, count: int) -> list[int]:
    return [int(number) for number in rng.choice(np.arange(low, high), size=count, replace=False)]
