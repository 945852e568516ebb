"""Simulated patients: what a clinician might note of somebody with a known disease, and which genes are suspected.

Findings are drawn by their annotated frequency; some are noted imprecisely (an ancestor), some belong to nothing.
Findings excluded are those that the annotations say are absent or rare, and findings of the diseases of the other
candidate genes that this patient was checked for. Every candidate gene comes from the same split.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks.splits import Split
from biomni_lib.tools.scoring import UNKNOWN_FREQUENCY

FEWEST_FINDINGS = 8
"""Diseases with fewer annotated findings are left out: their patients would all look the same."""
GENE_POOL = 300
"""Candidate genes are the most similar of this many, drawn anew for each patient: as hard in every split."""
NEAREST = 12
"""The distractors are drawn from this many most similar genes of the pool."""
LEAST_INFORMATION = 1.0
"""Nats. A broader finding, such as an abnormality of the nervous system, is never noted: it would say nothing."""


@dataclass(frozen=True)
class Patient:
    """Rows of the lake: the disease, one causal gene of it, and what is told to the agent."""

    disease: int
    gene: int
    terms: tuple[int, ...]
    excluded: tuple[int, ...]
    candidates: tuple[int, ...]


class PatientSimulator:
    """Draws patients of one split.

    Args:
        split: where diseases and all candidate genes come from.
        config: how many findings, how noisy, how many candidates.
    """

    def __init__(self, lake: Lake, split: Split, config: DataConfig) -> None:
        self.lake, self.split, self.config = lake, split, config
        shown = lake.disease_profiles
        counts = [int((shown.frequencies[row] != 0).sum()) for row in split.diseases]
        self.diseases = split.diseases[np.array(counts) >= FEWEST_FINDINGS]
        self.noise_terms = np.flatnonzero((lake.annotated > 0) & lake.phenotypic & (lake.ic >= LEAST_INFORMATION))
        self._vectors = _unit_vectors(lake, split.genes)

    def draw(self, rng: np.random.Generator) -> Patient:
        """One patient; every disease of the split is equally likely."""
        disease = int(rng.choice(self.diseases))
        own = self.lake.genes_of[disease]
        gene = int(rng.choice(own[np.isin(own, self.split.genes)]))
        distractors = self._distractors(disease, own, rng)
        terms = self._terms(disease, rng)
        excluded = self._excluded(disease, terms, distractors, rng)
        candidates = rng.permutation(np.append(distractors, gene))
        return Patient(disease, gene, tuple(terms), tuple(excluded), tuple(int(row) for row in candidates))

    def _distractors(self, disease: int, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Genes of other diseases whose profiles look like this disease."""
        others = np.flatnonzero(~np.isin(self.split.genes, own))
        pool = rng.choice(others, size=min(GENE_POOL, len(others)), replace=False)
        query = np.zeros(len(self.lake.ic), np.float32)
        closure = self.lake.disease_closure
        shown = closure.terms[disease][closure.frequencies[disease] != 0]
        query[shown] = self.lake.ic[shown]
        nearest = pool[np.argsort(-(self._vectors[pool] @ query), kind="stable")[:NEAREST]]
        return self.split.genes[rng.choice(nearest, size=self.config.candidates - 1, replace=False)]

    def _terms(self, disease: int, rng: np.random.Generator) -> list[int]:
        """Findings by frequency without replacement, some made imprecise, then noise; no finding twice."""
        profile = self.lake.disease_profiles
        frequencies = np.nan_to_num(profile.frequencies[disease], nan=UNKNOWN_FREQUENCY)
        present, weights = profile.terms[disease][frequencies > 0], frequencies[frequencies > 0]
        wanted = min(int(rng.integers(self.config.terms_min, self.config.terms_max + 1)), len(present))
        chosen = rng.choice(present, size=wanted, replace=False, p=weights / weights.sum())
        noted = [self._imprecise(int(t), rng) if rng.random() < self.config.imprecision else int(t) for t in chosen]
        noise = rng.choice(self.noise_terms, size=int(rng.integers(0, self.config.noise_terms_max + 1)))
        return [int(term) for term in rng.permutation(list(dict.fromkeys([*noted, *map(int, noise)])))]

    def _imprecise(self, term: int, rng: np.random.Generator) -> int:
        """A random informative ancestor, or the term itself when it has none."""
        above = self.lake.ancestors[term]
        above = above[(above != term) & (self.lake.ic[above] >= LEAST_INFORMATION)]
        return int(rng.choice(above)) if len(above) else term

    def _excluded(self, disease: int, terms: list[int], distractors: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Findings that this patient was checked for and lacks: annotated ones first, then of the differential."""
        profile, closure = self.lake.disease_profiles, self.lake.disease_closure
        frequencies = profile.frequencies[disease]
        rare = (frequencies == 0) | ((frequencies <= 0.1) & (rng.random(len(frequencies)) > frequencies))
        annotated = profile.terms[disease][rare]
        implied = set(closure.terms[disease][closure.frequencies[disease] != 0].tolist()) | set(terms)
        differential = [t for gene in distractors for t in self._typical(int(gene)) if t not in implied]
        wanted = int(rng.integers(0, self.config.excluded_max + 1))
        listed = [int(t) for t in annotated if not self._has_below(int(t), terms)]
        first = [int(t) for t in rng.permutation(listed)[: int(rng.integers(0, 2))]]
        rest = [int(t) for t in rng.permutation(differential) if int(t) not in first]
        return list(dict.fromkeys([*first, *rest]))[:wanted]

    def _typical(self, gene: int) -> list[int]:
        """Findings of a gene that at least half of its patients show."""
        profile = self.lake.gene_profiles
        frequencies = np.nan_to_num(profile.frequencies[gene], nan=UNKNOWN_FREQUENCY)
        return [int(term) for term in profile.terms[gene][frequencies >= UNKNOWN_FREQUENCY]]

    def _has_below(self, term: int, terms: list[int]) -> bool:
        """Whether a noted finding is a kind of `term`, so that `term` cannot be absent."""
        return any(term in self.lake.ancestors[noted] for noted in terms)


def _unit_vectors(lake: Lake, genes: np.ndarray) -> csr_array:
    """(genes, terms) information content of each gene's closure, each row of length 1."""
    rows = [lake.gene_closure.terms[g][lake.gene_closure.frequencies[g] != 0] for g in genes]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows)
    matrix = csr_array((lake.ic[columns], columns, starts), shape=(len(genes), len(lake.ic)))
    norms = np.sqrt((matrix * matrix).sum(axis=1))
    matrix.data /= np.repeat(np.maximum(norms, 1e-9), np.diff(starts)).astype(matrix.data.dtype)
    return matrix
