"""Texts that say the same: equal but for case, spaces and punctuation, or nearly so.

A text is cut into shingles: an item of a list of up to three words is one, so that the order of a list does not matter;
longer passages give every run of three words. Two texts are near-duplicates when they share at least `NEAR` of the
smaller one's shingles. What the questions of a benchmark repeat is its form and is left out of its texts, as the task's
own form is (`identifiers` says what of a prompt is a text of its own). No hashing and no sampling: the same texts give
the same pairs.
Not covered: paraphrases in other words, and translations.
Source: containment of shingles, Broder 1997, On the resemblance and containment of documents.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import csr_array

NEAR = 0.7
"""Between what splits of the own tasks reach and a text in which every fifteenth word was replaced; see the tests."""
FEWEST = 5
"""Texts with fewer shingles say too little to be called alike."""
RUN = 3
REPEATED, REPEATED_MIN = 0.05, 3
"""A shingle in more than this share of a benchmark's questions, and in at least so many, belongs to their form."""

_BREAK = re.compile(r"[,;|\n]|[.:?!+]\s")
_SMALL = re.compile(r"\d{1,4}|\w")
_WORD = re.compile(r"\w+(?:[:.'-]\w+)*")


def normalised(text: str) -> str:
    """Lower-case words with one blank between them."""
    return " ".join(_WORD.findall(text.lower()))


def shingles(text: str) -> set[str]:
    """Short list items whole, and every run of three words of longer passages; bare small numbers are left out."""
    found: set[str] = set()
    for passage in _BREAK.split(text.lower()):
        words = _WORD.findall(passage)
        runs = range(max(1, len(words) - RUN + 1)) if words else ()
        found.update(" ".join(words[at : at + RUN]) for at in runs)
    return {shingle for shingle in found if not _SMALL.fullmatch(shingle)}


def without_form(texts: Sequence[set[str]]) -> list[set[str]]:
    """The shingles of questions without those that many of them repeat."""
    counts = Counter(shingle for text in texts for shingle in text)
    most = max(REPEATED * len(texts), REPEATED_MIN - 1)
    return [{shingle for shingle in text if counts[shingle] <= most} for text in texts]


def near_duplicates(one: Sequence[set[str]], other: Sequence[set[str]], near: float = NEAR) -> list[tuple[int, int]]:
    """Pairs of near-duplicate texts.

    Args:
        one, other: shingles of each text.
    Returns: (place in `one`, place in `other`) of every pair that shares at least `near` of the smaller text's
        shingles, in order.
    """
    number = {shingle: at for at, shingle in enumerate(sorted(set().union(*one) & set().union(*other)))}
    shared = (_matrix(one, number) @ _matrix(other, number).T).tocoo()
    sizes = [np.array([len(text) for text in texts], int) for texts in (one, other)]
    smaller = np.minimum(sizes[0][shared.row], sizes[1][shared.col])
    alike = (smaller >= FEWEST) & (shared.data >= near * smaller)
    return sorted(zip(shared.row[alike].tolist(), shared.col[alike].tolist(), strict=True))


def _matrix(texts: Iterable[set[str]], number: dict[str, int]) -> csr_array:
    rows = [sorted(number[shingle] for shingle in text if shingle in number) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.array([at for row in rows for at in row], int)
    return csr_array((np.ones(len(columns), int), columns, starts), shape=(len(rows), max(1, len(number))))
