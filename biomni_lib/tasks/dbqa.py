"""The task `lab_bench_dbqa`: generated questions of the kind of LAB-Bench DbQA, over the bundled lake.

Ten subtasks of the benchmark ask databases (gene location, disease-gene association, variants, targets of miRNAs and
transcription factors, gene sets, viral interactions), known by name from its public split as open evaluation code lists
them. Twins of two exist: `gene_location` and `chromosome` of its gene location, `disease_gene` and `gene_disease` of
its disease-gene association. The other kinds ask what the lake holds instead. No question of the benchmark was used.
Not covered, as the lake does not hold it: variants, miRNA and transcription factor targets, gene sets, viral proteins.

Genes and diseases come from one split of `make_splits`, those in the options too. Terms of the ontology whose parent is
asked are divided by organ system, since siblings have the same answer. Wrong options are like the
right one where a lookup decides: chosen near it on the chromosome, in the ontology, or by shared findings.
"""

from collections.abc import Callable, Sequence

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.lake.hpo import PHENOTYPIC_ABNORMALITY
from biomni_lib.tasks.choices import LETTERS, ChoiceTask, Question
from biomni_lib.tasks.splits import SPLITS, Split, make_splits
from biomni_lib.tools.scoring import shown_terms

WRONG = len(LETTERS) - 1
LEAST_DIFFERENCE = 10_000
"""Base pairs by which the nearest gene must be nearer than the next."""
SPREAD = 2_000_000
"""Base pairs around a gene within which the position asked about is drawn."""
SYSTEMS = {"dev": ("HP:0000478", "HP:0000598"), "heldout": ("HP:0001626", "HP:0002086")}
"""Organ systems whose terms are asked about in a split: eye and ear, heart and lung; all others train."""
RAREST, MOST_FREQUENT = 5, 400
"""Diseases that show a term asked about: fewer would name the disease, more would tell nothing."""


class LabBenchDbQA(ChoiceTask):
    """Choose the answer to a question about genes, diseases or findings.

    The module's docstring says which questions.
    """

    name = "lab_bench_dbqa"
    stream = 9

    def __init__(self, lake: Lake, config: DataConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.lake, self.splits, self.terms = lake, make_splits(lake), divide_terms(lake)
        self.chromosome = np.array([lake.chromosomes[row] for row in range(len(lake.ensembl_ids))])
        self._children = children(lake)
        self._draws: dict[str, Callable[[Split, np.random.Generator], Question | None]] = {
            "chromosome": self._chromosome,
            "gene_location": self._gene_location,
            "nearest_gene": self._nearest_gene,
            "disease_gene": self._disease_gene,
            "gene_disease": self._gene_disease,
            "phenotype_disease": self._phenotype_disease,
            "disease_phenotype": self._disease_phenotype,
            "term_parent": self._term_parent,
        }
        self.kinds = tuple(self._draws)

    def ask(self, kind: str, split: str, rng: np.random.Generator) -> Question | None:
        """One question of a kind over the genes, diseases or terms of a split, or None when this draw yields none."""
        return self._draws[kind](self.splits[split], rng)

    def _chromosome(self, split: Split, rng: np.random.Generator) -> Question:
        """On which chromosome a gene lies. Y is no option for a gene on X, as the pseudoautosomal genes lie on both."""
        gene = int(rng.choice(split.genes))
        gold = str(self.chromosome[gene])
        names = [str(name) for name in rng.permutation(np.unique(self.chromosome[split.genes]))]
        wrong = tuple(name for name in names if {name, gold} != {"X", "Y"})
        text = "on which human chromosome does the gene lie?"
        return Question(text, {"Gene": self._gene(gene)}, gold, wrong, {"gene": self.lake.ensembl_id(gene)})

    def _gene_location(self, split: Split, rng: np.random.Generator) -> Question:
        """Which gene lies in a stretch of a chromosome. Wrong: the nearest genes of the split outside it."""
        gene = int(rng.choice(split.genes))
        start, end = self._extent(gene)
        low, high = max(start - int(rng.integers(SPREAD)), 1), end + int(rng.integers(SPREAD))
        mates = self._same_chromosome(split, gene)
        outside = [row for row in mates if self._extent(row)[1] < low or self._extent(row)[0] > high]
        inside = [row for row in mates if row not in outside]
        near = sorted(outside, key=lambda row: abs(int(self.lake.gene_starts[row]) - start))[: 2 * WRONG]
        place = f"chr{self.chromosome[gene]}:{low}-{high}"
        text = "which of the genes lies within the stretch (GRCh38)?"
        return self._pick(text, {"Stretch": place}, gene, [] if inside else near, self._gene, rng)

    def _nearest_gene(self, split: Split, rng: np.random.Generator) -> Question | None:
        """Which gene lies closest to a position. Wrong: other genes of the split in the neighbourhood."""
        gene = int(rng.choice(split.genes))
        position = max(int(self.lake.gene_starts[gene]) + int(rng.integers(-SPREAD, SPREAD)), 1)
        mates = [gene, *self._same_chromosome(split, gene)]
        ranked = sorted(mates, key=lambda row: self.distance(row, position))[: 2 * WRONG]
        first, *others = (self.distance(row, position) for row in ranked)
        if len(others) < WRONG or others[0] < first + LEAST_DIFFERENCE:
            return None
        place = f"chr{self.chromosome[gene]}:{position}"
        text = "which of the genes lies closest to the position (GRCh38)?"
        return self._pick(text, {"Position": place}, ranked[0], ranked[1:], self._gene, rng)

    def _disease_gene(self, split: Split, rng: np.random.Generator) -> Question | None:
        """Which gene is linked to a disease. Wrong: genes of the diseases that share most findings with it."""
        disease = int(rng.choice(split.diseases))
        gene = int(rng.choice(self.lake.genes_of[disease]))
        others = [row for other in self._alike(split, disease, rng) for row in self.lake.genes_of[other].tolist()]
        wrong = [row for row in others if row not in self.lake.genes_of[disease]]
        text = "which of the genes is linked to the disease?"
        return self._pick(text, {"Disease": self._disease(disease)}, gene, wrong, self._gene, rng)

    def _gene_disease(self, split: Split, rng: np.random.Generator) -> Question | None:
        """Which disease is linked to a gene. Wrong: diseases that share most findings with it."""
        gene = int(rng.choice(split.genes))
        disease = int(rng.choice(self.lake.diseases_of[gene]))
        wrong = [row for row in self._alike(split, disease, rng) if row not in self.lake.diseases_of[gene]]
        text = "which of the diseases is linked to the gene?"
        return self._pick(text, {"Gene": self._gene(gene)}, disease, wrong, self._disease, rng)

    def _phenotype_disease(self, split: Split, rng: np.random.Generator) -> Question | None:
        """Which disease shows a term or one below it. Wrong: diseases that share other findings with the right one."""
        disease = int(rng.choice(split.diseases))
        term = self._telling(disease, rng)
        if term is None:
            return None
        wrong = [row for row in self._alike(split, disease, rng) if term not in self.lake.disease_closure.terms[row]]
        text = "which of the diseases is annotated with the phenotype, or with one below it?"
        return self._pick(text, {"Phenotype": self._term(term)}, disease, wrong, self._disease, rng)

    def _disease_phenotype(self, split: Split, rng: np.random.Generator) -> Question | None:
        """Which term a disease is annotated with. Wrong: terms of similar diseases that this one lacks."""
        disease = int(rng.choice(split.diseases))
        term = self._telling(disease, rng)
        if term is None:
            return None
        own = set(self.lake.disease_closure.terms[disease].tolist())
        drawn = [self._telling(other, rng) for other in self._alike(split, disease, rng)]
        wrong = [row for row in drawn if row is not None and row not in own]
        text = "which of the phenotypes is the disease annotated with?"
        return self._pick(text, {"Disease": self._disease(disease)}, term, wrong, self._term, rng)

    def _term_parent(self, split: Split, rng: np.random.Generator) -> Question | None:
        """Which term is a parent of a term. Wrong: its grandparents, its siblings and its children."""
        lake, term = self.lake, int(rng.choice(self.terms[split.name]))
        parents = lake.parents[term].tolist()
        gold = int(rng.choice(parents))
        above = [row for parent in parents for row in lake.parents[parent].tolist()]
        beside = [row for parent in parents for row in self._children.get(parent, []) if row != term]
        below = self._children.get(term, [])
        wrong = [row for row in (*above, *beside, *below) if row not in parents and lake.phenotypic[row]]
        text = "which of the phenotypes is a direct parent of the phenotype in the ontology?"
        return self._pick(text, {"Phenotype": self._term(term)}, gold, wrong, self._term, rng)

    def _pick(
        self,
        text: str,
        facts: dict[str, str],
        gold: int,
        wrong: Sequence[int],
        show: Callable[[int], str],
        rng: np.random.Generator,
    ) -> Question:
        """A question whose options are rows of the lake; wrong ones are taken in random order."""
        rows = [int(row) for row in rng.permutation(sorted(set(wrong)))] if len(wrong) else []
        return Question(text, facts, show(gold), tuple(map(show, rows)), {})

    def distance(self, gene: int, position: int) -> int:
        """Base pairs from a position to a gene row's nearer end; 0 inside it."""
        start, end = self._extent(gene)
        return max(start - position, position - end, 0)

    def _extent(self, gene: int) -> tuple[int, int]:
        start = int(self.lake.gene_starts[gene])
        return start, start + int(self.lake.gene_lengths[gene]) - 1

    def _same_chromosome(self, split: Split, gene: int) -> list[int]:
        same = split.genes[self.chromosome[split.genes] == self.chromosome[gene]]
        return [int(row) for row in same if row != gene]

    def _telling(self, disease: int, rng: np.random.Generator) -> int | None:
        """A random annotated term of a disease that neither few nor most diseases show."""
        terms = shown_terms(self.lake.disease_profiles, disease)
        counts = self.lake.annotated[terms]
        fit = terms[(counts >= RAREST) & (counts <= MOST_FREQUENT)]
        return int(rng.choice(fit)) if len(fit) else None

    def _alike(self, split: Split, disease: int, rng: np.random.Generator) -> list[int]:
        """Ten diseases of a random hundred of the split that share most information with one."""
        own = shown_terms(self.lake.disease_closure, disease)
        some = [int(row) for row in rng.permutation(split.diseases)[:100] if row != disease]
        shared = [
            float(self.lake.ic[np.intersect1d(own, shown_terms(self.lake.disease_closure, row))].sum()) for row in some
        ]
        return [some[at] for at in np.argsort(-np.array(shared), kind="stable")[: 2 * WRONG]]

    def _gene(self, row: int) -> str:
        return self._shown(self.lake.symbols[row], self.lake.ensembl_id(row))

    def _disease(self, row: int) -> str:
        return self._shown(self.lake.disease_names[row], f"OMIM:{self.lake.omim(row)}")

    def _term(self, row: int) -> str:
        return self._shown(self.lake.term_names[row], self.lake.term_id(row))

    def _shown(self, name: str, id: str) -> str:
        return f"{name} ({id})" if self.config.names else id


def divide_terms(lake: Lake) -> dict[str, np.ndarray]:
    """Rows of the terms asked about in each split: findings that some disease shows, divided by organ system.

    Siblings and parents share a system, so that no question of one split is that of another with a sibling in the place
    of the term. A term of several systems belongs to a split when all of them do, else to none.
    """
    root = lake.term_row(PHENOTYPIC_ABNORMALITY)
    systems = {name: {lake.term_row(id) for id in ids} for name, ids in SYSTEMS.items()}
    tops = {int(row) for row in range(len(lake.parents)) if root in lake.parents[row]}
    systems["train"] = tops - systems["dev"] - systems["heldout"]
    findings = np.flatnonzero(lake.phenotypic & (lake.annotated > 0))
    fit = [row for row in findings.tolist() if len(lake.parents[row]) and lake.phenotypic[lake.parents[row]].all()]
    of = {row: tops & set(lake.ancestors[row].tolist()) for row in fit}
    return {name: np.array([row for row in fit if of[row] and of[row] <= systems[name]], int) for name in SPLITS}


def children(lake: Lake) -> dict[int, list[int]]:
    """Term row to the rows of its direct children; terms without any are left out."""
    found: dict[int, list[int]] = {}
    for row in range(len(lake.parents)):
        for parent in lake.parents[row].tolist():
            found.setdefault(parent, []).append(row)
    return found
