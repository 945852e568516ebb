"""The task `screen_gene_retrieval`: which gene has the strongest effect in a genome-wide CRISPR screen.

Source: six screens of about 18,000 genes each (Schmidt22, Steinhart22, Carnevale22, Sanchez21), with the question that
each asks; Scharenberg22 tests 1,055 genes alone and is left out. Genes are ranked by the absolute value of their score,
whatever it measures and in whichever direction. A hit is one of the 100 strongest, a non-hit one of the weaker half;
both have a symbol that the genome knows. A question shows one hit among non-hits, and each hit is asked once.
Split by study: screens of one study share cells and hits (of 100, IFNG and IL2 36, the two of Sanchez21 26), those of
two studies at most 3. Not covered: screens measure with noise, and a hit may be one by chance; some questions ask for
one direction, but no file says which sign that is, so that strong scores of both signs count.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomni_lib.lake.datasets import gold_table
from biomni_lib.tasks import gene_baselines
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.curated import CuratedTask

STUDIES = {"train": ("Schmidt22", "Steinhart22"), "dev": ("Carnevale22",), "heldout": ("Sanchez21",)}
HITS = 100
CANDIDATES = 10

_PROMPT = (
    "Task: given a CRISPR screen, identify the candidate gene whose perturbation has the strongest effect in it.\n"
    "Screen: {task}\nMeasured: {measurement}\nCandidate genes: {genes}\nOutput format: only the gene symbol"
)


@dataclass(frozen=True)
class Screen:
    """A screen: its question, what it measures, and the symbols of hits (strongest first) and of non-hits."""

    name: str
    study: str
    task: str
    measurement: str
    hits: tuple[str, ...]
    non_hits: tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """A hit of a screen."""

    gene: str
    screen: Screen


class ScreenGeneRetrieval(CuratedTask[Hit]):
    """A hit of a screen among non-hits."""

    name = "screen_gene_retrieval"
    stream = 7
    data_sets = ("genome", "screens")

    def read_answers(self) -> dict[str, Sequence[Hit]]:
        """Every hit of every screen of the split's studies."""
        screens = self._screens()
        return {
            split: [Hit(gene, one) for one in screens if one.study in studies for gene in one.hits]
            for split, studies in STUDIES.items()
        }

    def ask(self, answer: Hit, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        """The screen's question and a hit among random non-hits, in random order."""
        screen = answer.screen
        genes = [answer.gene, *rng.choice(screen.non_hits, CANDIDATES - 1, replace=False).tolist()]
        shown = [genes[at] for at in rng.permutation(len(genes))]
        prompt = _PROMPT.format(task=screen.task, measurement=screen.measurement, genes=", ".join(shown))
        return prompt, answer.gene, {"screen": screen.name, "study": screen.study, "candidates": shown}

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics over the candidates (see `gene_baselines`), and `majority`: a gene that is a training hit."""
        hits = {hit.gene for hit in self._answers["train"]}
        return gene_baselines.screen_baselines(self.lake, hits)

    def _screens(self) -> list[Screen]:
        lake_dir, scores = self.lake.lake_dir, defaultdict(list)
        for row in gold_table(lake_dir, "screens", "scores").to_pylist():
            scores[row["screen"]].append((row["gene"], abs(row["score"])))
        used = {study for studies in STUDIES.values() for study in studies}
        table = gold_table(lake_dir, "screens", "screens").to_pylist()
        return [self._screen(row, scores[row["screen"]]) for row in table if row["study"] in used]

    def _screen(self, row: dict[str, Any], scores: list[tuple[str, float]]) -> Screen:
        """Ties are broken by symbol, so that the order of a file does not matter."""
        ranked = [gene for gene, _ in sorted(scores, key=lambda one: (-one[1], one[0]))]
        hits, weaker = (
            tuple(gene for gene in genes if self._is_symbol(gene))
            for genes in (ranked[:HITS], ranked[len(ranked) // 2 :])
        )
        return Screen(row["screen"], row["study"], row["task"], row["measurement"], hits, weaker)

    def _is_symbol(self, gene: str) -> bool:
        return any(not is_synonym for _, is_synonym in self.genome.genes_named(gene))
