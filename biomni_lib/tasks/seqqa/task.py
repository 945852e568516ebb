"""The task `lab_bench_seqqa`: its kinds by name, over the sequences of each split."""

from collections.abc import Callable

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.lake.sequences import read_sequence_table
from biomni_lib.tasks.choices import ChoiceTask, Question
from biomni_lib.tasks.seqqa import cloning, digests, frames, pcr
from biomni_lib.tasks.seqqa.pool import SequencePool
from biomni_lib.tasks.splits import SPLITS

KINDS: dict[str, Callable[[SequencePool, np.random.Generator], Question | None]] = {
    "gc_percent": digests.gc_percent,
    "fragment_count": digests.fragment_count,
    "fragment_sizes": digests.fragment_sizes,
    "orf_residue": frames.orf_residue,
    "orf_translation": frames.orf_translation,
    "orf_count": frames.orf_count,
    "translation_efficiency": frames.translation_efficiency,
    "primers_length": pcr.primers_length,
    "length_primers": pcr.length_primers,
    "region_primers": pcr.region_primers,
    "gene_enzyme_primers": cloning.gene_enzyme_primers,
    "sequence_enzyme_primers": cloning.sequence_enzyme_primers,
    "primers_enzymes": cloning.primers_enzymes,
    "gibson_sticky_primers": cloning.gibson_sticky_primers,
    "gibson_blunt_primers": cloning.gibson_blunt_primers,
}
"""Kind to the function that draws one question of it."""


class LabBenchSeqQA(ChoiceTask):
    """Twins of all fifteen kinds of LAB-Bench SeqQA; see the package's docstring.

    Args:
        lake: not needed, as sequences are read from their own table; taken so that all tasks are built alike.
    """

    name = "lab_bench_seqqa"
    stream = 8
    kinds = tuple(KINDS)

    def __init__(self, lake: Lake | None, config: DataConfig, seed: int) -> None:
        super().__init__(config, seed)
        records = read_sequence_table()
        self.pools = {split: SequencePool([one for one in records if one.split == split]) for split in SPLITS}

    def ask(self, kind: str, split: str, rng: np.random.Generator) -> Question | None:
        """One question of a kind over the sequences of a split, or None when this draw yields none."""
        return KINDS[kind](self.pools[split], rng)
