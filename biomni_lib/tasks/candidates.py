"""Candidate genes for patients whose gene is given: groups of like genes in which each could as well be the causal one.

Simulated patients have their candidates drawn first and the causal gene among them. A published patient has a gene, and
candidates chosen around it would betray it as the one that all others resemble. So genes of a cohort are divided
into groups, anew for every patient, and its candidates are the group that its gene fell into: whichever of the group
were causal, the group would be the same. The most alike come first, and before them paralogs and genes of one locus.
Not covered: genes of no patient are never candidates, since the causal gene would be told by how much is known of it.
"""

import numpy as np

from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.lake.ids import row_of
from biomni_lib.tasks.patients import gene_similarity

LOCUS_BP = 1_000_000
"""Genes whose starts lie so close on one chromosome are of one locus: a linkage study would not tell them apart."""
RELATED = 1.0
"""Added to the similarity of findings, at most 1, for paralogs and for genes of one locus: these come first."""
GENE_POOL = 40
"""Genes that are divided, drawn anew for each patient, its own included, so that a large split is no harder."""
DIVISIONS_DRAWN = 4
"""Divisions drawn for each patient; the one with the most alike groups is kept, whatever the patient's gene."""
MOST_TRIES = 100
"""A few genes are left over in a division that does not come out even; then another one is drawn."""


class CandidateGroups:
    """Divides genes into groups of candidates.

    Args:
        genes: (n,) gene rows of the lake, whose genome is built. size: candidates of a group. where: whose genes they
            are, for the message.
    Attributes: likeness: (n, n) similarity of findings, 0 to 1, plus `RELATED` for the related.
    Raises: ConfigError when there are fewer genes than candidates.
    """

    def __init__(self, lake: Lake, genes: np.ndarray, size: int, where: str) -> None:
        self.genes, self.size, self.where = genes, size, where
        if len(genes) < size:
            raise self._too_many()
        self._diseases = [frozenset(lake.diseases_of[gene].tolist()) for gene in genes]
        self.likeness = gene_similarity(lake, genes) + RELATED * (_paralogs(lake, genes) | _of_one_locus(lake, genes))

    def draw(self, gene: int, rng: np.random.Generator) -> list[int]:
        """Gene rows of one patient's candidates, the causal one among them, in random order; no two share a disease.

        Raises: ConfigError when no division has the gene in a whole group.
        """
        own = int(np.flatnonzero(self.genes == gene)[0])
        others = np.flatnonzero(self.genes != gene)
        for _ in range(MOST_TRIES):
            pool = np.array([own, *rng.permutation(others)[: GENE_POOL - 1]])
            divisions = [self._divide(pool, rng) for _ in range(DIVISIONS_DRAWN)]
            for group in max(divisions, key=self._alike):
                if own in group:
                    return self.genes[rng.permutation(group)].tolist()
        raise self._too_many()

    def _divide(self, pool: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
        """Whole groups alone: each is the first gene left, in random order, and those most like it."""
        left, groups = rng.permutation(pool).tolist(), list[list[int]]()
        while group := self._group(left):
            groups.append(group)
            left = [position for position in left if position not in group]
        return groups

    def _group(self, left: list[int]) -> list[int]:
        """A whole group around the first of the positions left; empty when they do not suffice."""
        if not left:
            return []
        chosen, diseases = [left[0]], set(self._diseases[left[0]])
        others = np.array(left[1:], int)
        for other in others[np.argsort(-self.likeness[left[0], others], kind="stable")].tolist():
            if len(chosen) == self.size:
                break
            if diseases.isdisjoint(self._diseases[other]):
                chosen.append(other)
                diseases |= self._diseases[other]
        return chosen if len(chosen) == self.size else []

    def _alike(self, groups: list[list[int]]) -> float:
        """Mean likeness inside the groups."""
        return float(np.mean([self.likeness[np.ix_(group, group)].mean() for group in groups])) if groups else -1.0

    def _too_many(self) -> ConfigError:
        return ConfigError(f"data.candidates = {self.size} is more than {self.where} can offer; lower it")


def _paralogs(lake: Lake, genes: np.ndarray) -> np.ndarray:
    """(n, n) whether two genes are paralogs; a gene that the genome does not know has none."""
    genome, numbers = lake.genome, lake.ensembl_ids[genes]
    found = np.zeros((len(genes), len(genes)), bool)
    for at, number in enumerate(numbers):
        row = row_of(genome.ensembl_ids, int(number))
        if row >= 0:
            found[at] = np.isin(numbers, genome.paralogs(row))
    return found | found.T


def _of_one_locus(lake: Lake, genes: np.ndarray) -> np.ndarray:
    """(n, n) whether two different genes start within `LOCUS_BP` on one chromosome."""
    chromosomes = np.array([lake.chromosomes[gene] for gene in genes])
    starts = lake.gene_starts[genes].astype(np.int64)
    near = np.abs(starts[:, None] - starts[None, :]) <= LOCUS_BP
    return near & (chromosomes[:, None] == chromosomes[None, :]) & ~np.eye(len(genes), dtype=bool)
