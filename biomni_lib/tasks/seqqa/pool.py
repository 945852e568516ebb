"""The sequences of one split: random windows of them, and the records that serve as vectors.

A longer record is drawn more often, by the square root of its length, so that small plasmids are seen and large
genomes not exhausted. Windows come from either strand.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from Bio import Restriction
from Bio.Seq import Seq

from biomni_lib.lake.sequences import Record

_STICKY = """EcoRI BamHI HindIII XhoI KpnI SacI NdeI PstI SalI XbaI SpeI NcoI BglII NheI ClaI MluI AflII AvrII BspHI
SphI ApaI AatII NotI AscI XmaI AgeI EagI BsiWI PacI PciI"""
_BLUNT = "SmaI EcoRV StuI ScaI SspI PvuII HpaI DraI NruI MscI FspI SnaBI PmlI SwaI AfeI ZraI PsiI"
STICKY, BLUNT = tuple(_STICKY.split()), tuple(_BLUNT.split())
"""Cloning enzymes of the suppliers' catalogues that read an unambiguous palindrome; names and sites as in REBASE."""
LONGEST_VECTOR = 60_000
"""Base pairs. Larger records are never vectors."""
FEWEST_SINGLE_CUTTERS = 5


@dataclass(frozen=True)
class Window:
    """A piece of a record: `start` counts from 0 on the top strand, `strand` is 1 or -1, `text` reads 5' to 3'."""

    record: str
    start: int
    strand: int
    text: str


@dataclass(frozen=True)
class Vector:
    """A record with the enzymes that cut it exactly once, each with its place: first base after the cut, from 0."""

    record: Record
    cuts: dict[str, int]

    def around(self, place: int, reach: int) -> str:
        """Bases of the top strand from `reach` before a place to `reach` after it."""
        text = self.record.sequence
        if self.record.topology == "circular":
            return "".join(text[at % len(text)] for at in range(place - reach, place + reach))
        return text[max(place - reach, 0) : place + reach]

    def describe(self) -> str:
        """Name, topology and size, as the prompts show them."""
        return f"{self.record.name} ({self.record.topology}, {len(self.record.sequence)} bp)"


class SequencePool:
    """Windows and vectors of one split.

    Args:
        records: the split's records.
    """

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        weights = np.sqrt([len(record.sequence) for record in records])
        self._shares = weights / weights.sum()
        self.vectors = [
            vector
            for vector in map(single_cutters, (r for r in records if len(r.sequence) <= LONGEST_VECTOR))
            if len(vector.cuts) >= FEWEST_SINGLE_CUTTERS
        ]

    def window(self, rng: np.random.Generator, length: int) -> Window:
        """A random window of `length` bases on a random strand."""
        record = self.records[int(rng.choice(len(self.records), p=self._shares))]
        start = int(rng.integers(len(record.sequence) - length + 1))
        text, strand = record.sequence[start : start + length], int(rng.choice([1, -1]))
        return Window(record.name, start, strand, text if strand == 1 else reverse_complement(text))

    def vector(self, rng: np.random.Generator) -> Vector:
        """A random vector."""
        return self.vectors[int(rng.integers(len(self.vectors)))]


def single_cutters(record: Record) -> Vector:
    """A record as a vector, with the enzymes of `STICKY` and `BLUNT` that cut it once."""
    linear, text = record.topology == "linear", Seq(record.sequence)
    found = {name: enzyme(name).search(text, linear=linear) for name in (*STICKY, *BLUNT)}
    return Vector(record, {name: cuts[0] - 1 for name, cuts in found.items() if len(cuts) == 1})


def enzyme(name: str) -> Any:
    """Biopython's class of a restriction enzyme."""
    return getattr(Restriction, name)


def reverse_complement(text: str) -> str:
    """The other strand, 5' to 3'."""
    return str(Seq(text).reverse_complement())
