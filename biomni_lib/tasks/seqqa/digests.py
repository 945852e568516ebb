"""Three kinds of question about the sequence as it is: GC content and complete digests.

Digests use enzymes that read four or five bases, so that a short window is cut. Fragment lengths are those of the top
strand. Methylation and star activity are not covered.
"""

import numpy as np
from Bio.Seq import Seq
from Bio.SeqUtils import gc_fraction

from biomni_lib.tasks.choices import Question, number_options
from biomni_lib.tasks.seqqa.pool import SequencePool, enzyme

_FREQUENT = "AluI HaeIII RsaI MspI HhaI TaqI MseI NlaIII MboI MluCI HinfI DdeI BfaI HpyCH4IV"
FREQUENT = tuple(_FREQUENT.split())
"""Enzymes that read four bases (HinfI and DdeI: five, one of them any)."""
WINDOW = 300
MOST_FRAGMENTS = 8
LEAST_APART = 8
"""Bases between two cuts, and from an end: closer sites may overlap, and what is cut first decides what remains."""


def gc_percent(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """GC content in whole percent. Wrong: shares of other pairs of bases, or of half the sequence, and near numbers."""
    window = pool.window(rng, int(rng.integers(80, 201)))
    text = window.text
    exact = 100 * gc_fraction(text)
    if abs(exact % 1 - 0.5) < 0.05:
        return None
    pairs = [100 * sum(text.count(base) for base in pair) / len(text) for pair in ("AT", "AG", "AC", "GT", "CT")]
    half = 100 * gc_fraction(text[: len(text) // 2])
    wrong = number_options(round(exact), [round(share) for share in (*pairs, half)], rng, highest=100)
    question = "what is the GC content of the sequence, in percent, rounded to a whole number?"
    return Question(question, {"Sequence": text}, str(round(exact)), wrong, {"record": window.record})


def cut_places(text: str, names: list[str], *, linear: bool) -> list[int]:
    """Bases before which the top strand is cut by any of the enzymes, counted from 0, in order."""
    found = {cut - 1 for name in names for cut in enzyme(name).search(Seq(text), linear=linear)}
    return sorted(place for place in found if not linear or 0 < place < len(text))


def well_apart(length: int, cuts: list[int], *, linear: bool) -> bool:
    """Whether no fragment of a digest is so short that one cut may hinder another."""
    return fragment_lengths(length, cuts, linear=linear)[-1] >= LEAST_APART


def fragment_lengths(length: int, cuts: list[int], *, linear: bool) -> list[int]:
    """Lengths of the fragments of a complete digest, longest first; an uncut sequence is one fragment."""
    closed = [*cuts, cuts[0] + length] if cuts else [0, length]
    ends = [0, *cuts, length] if linear else closed
    return sorted((end - start for start, end in zip(ends, ends[1:], strict=False)), reverse=True)


def fragment_count(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """How many fragments a complete digest with two enzymes gives."""
    text, names, linear, meta = _digest(pool, rng)
    cuts = cut_places(text, names, linear=linear)
    gold = len(fragment_lengths(len(text), cuts, linear=linear))
    if not 2 <= gold <= MOST_FRAGMENTS or not well_apart(len(text), cuts, linear=linear):
        return None
    alone = [len(cut_places(text, [name], linear=linear)) + linear for name in names]
    wrong = number_options(gold, [*alone, gold - 1, gold + 1], rng, lowest=1)
    question = f"how many fragments does a complete digest of the {_shape(linear)} DNA give?"
    return Question(question, {"Enzymes": " and ".join(names), "Sequence": text}, str(gold), wrong, meta)


def fragment_sizes(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """The fragments' lengths. Options: three enzymes taken two by two, linear and circular, so that none is central."""
    text, names, linear, meta = _digest(pool, rng)
    other = str(rng.choice([name for name in FREQUENT if name not in names]))
    pairs = [names, [names[0], other], [names[1], other]]
    if not all(cut_places(text, [name], linear=True) for name in (*names, other)):
        return None
    cuts = [cut_places(text, pair, linear=linear) for pair in pairs]
    sizes = [fragment_lengths(len(text), found, linear=shape) for shape in (linear, not linear) for found in cuts]
    if not 2 <= len(sizes[0]) <= MOST_FRAGMENTS or not well_apart(len(text), cuts[0], linear=linear):
        return None
    question = f"how long are the fragments (top strand, bp) of a complete digest of the {_shape(linear)} DNA?"
    gold, *wrong = map(_listed, sizes)
    return Question(question, {"Enzymes": " and ".join(names), "Sequence": text}, gold, tuple(wrong), meta)


def _digest(pool: SequencePool, rng: np.random.Generator) -> tuple[str, list[str], bool, dict[str, object]]:
    window = pool.window(rng, WINDOW)
    names = [str(name) for name in rng.choice(FREQUENT, size=2, replace=False)]
    linear = bool(rng.random() < 0.5)
    return window.text, names, linear, {"record": window.record, "enzymes": names, "linear": linear}


def _shape(linear: bool) -> str:
    return "linear" if linear else "circular"


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))
