"""Simulated patients: what a clinician might note of somebody with a known disease, and which genes are suspected.

Findings are drawn by their annotated frequency; some are noted imprecisely (an ancestor), some belong to nothing.
Findings excluded are those that the annotations say are absent or rare, and findings of similar diseases that this
patient was checked for. Candidate genes are alike in their diseases' findings and come from one split; which of them
is causal is drawn last, so that nothing but the patient's findings tells.
Not covered: onset, sex, inheritance, and how findings depend on each other.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tasks.splits import Split
from biomni_lib.tools.scoring import UNKNOWN_FREQUENCY, known_frequencies, overlap, shown_terms

FEWEST_FINDINGS = 8
"""Diseases with fewer annotated findings are left out: their patients would all look the same."""
GENE_POOL = 500
"""Genes among which the candidates are sought, drawn anew for each patient: the same number in every split, so that
the candidates are as alike in each."""
SETS_DRAWN = 4
"""Candidate sets drawn for each patient; the most alike is kept, so that one finding seldom decides."""
DIFFERENTIAL = 2
"""Diseases, the closest to the findings noted, whose typical findings the patient was checked for."""
RARE = 0.1
"""Findings at most this frequent may be excluded in a patient who has the disease."""
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
        counts = [len(shown_terms(lake.disease_profiles, row)) for row in split.diseases]
        self.diseases = split.diseases[np.array(counts) >= FEWEST_FINDINGS]
        self.noise_terms = np.flatnonzero((lake.annotated > 0) & lake.phenotypic & (lake.ic >= LEAST_INFORMATION))
        self._eligible = np.zeros(len(lake.omims), bool)
        self._eligible[self.diseases] = True
        self.genes = np.unique(split.links[self._eligible[split.links[:, 1]], 0])
        self.similarity = gene_similarity(lake, self.genes)

    def draw(self, rng: np.random.Generator) -> Patient:
        """One patient. The candidates are drawn first and the causal gene uniformly among them, so that nothing about
        the candidates alone, such as how much is known of each, says which one it is."""
        candidates = self._candidates(rng)
        gene = int(rng.choice(candidates))
        own = self.lake.diseases_of[gene]
        disease = int(rng.choice(own[self._eligible[own]]))
        terms = self._terms(disease, rng)
        excluded = self._excluded(disease, terms, candidates, rng)
        return Patient(disease, gene, tuple(terms), tuple(excluded), tuple(rng.permutation(candidates).tolist()))

    def _candidates(self, rng: np.random.Generator) -> np.ndarray:
        """Gene rows of the most alike of some sets of similar genes."""
        sets = [self._alike(rng) for _ in range(SETS_DRAWN)]
        likeness = [self.similarity[np.ix_(chosen, chosen)].sum() for chosen in sets]
        return self.genes[sets[int(np.argmax(likeness))]]

    def _alike(self, rng: np.random.Generator) -> list[int]:
        """Positions in `genes` of a random one and its most similar others in a pool; no two share a disease."""
        pool = rng.permutation(len(self.genes))[:GENE_POOL]
        chosen, diseases = [int(pool[0])], set(self._diseases_of(int(pool[0])))
        nearest = pool[1:][np.argsort(-self.similarity[pool[0], pool[1:]], kind="stable")]
        for other in nearest.tolist():
            if diseases.isdisjoint(self._diseases_of(other)):
                chosen.append(other)
                diseases.update(self._diseases_of(other))
            if len(chosen) == self.config.candidates:
                return chosen
        raise ConfigError(
            f"data.candidates = {self.config.candidates} is more than split {self.split.name} can offer; lower it"
        )

    def _diseases_of(self, position: int) -> list[int]:
        return self.lake.diseases_of[self.genes[position]].tolist()

    def _terms(self, disease: int, rng: np.random.Generator) -> list[int]:
        """Findings by frequency without replacement, some made imprecise, some noise; no finding twice."""
        profile = self.lake.disease_profiles
        frequencies = known_frequencies(profile, disease)
        present, weights = profile.terms[disease][frequencies > 0], frequencies[frequencies > 0]
        wanted = int(rng.integers(self.config.terms_min, self.config.terms_max + 1))
        noise = int(rng.integers(0, min(self.config.noise_terms_max, wanted - 1) + 1))
        noted: dict[int, None] = {}
        for term in rng.choice(present, size=len(present), replace=False, p=weights / weights.sum()):
            if len(noted) == wanted - noise:
                break
            imprecise = rng.random() < self.config.imprecision
            noted[self._imprecise(int(term), rng) if imprecise else int(term)] = None
        while len(noted) < wanted:
            noted[int(rng.choice(self.noise_terms))] = None
        return [int(term) for term in rng.permutation(list(noted))]

    def _imprecise(self, term: int, rng: np.random.Generator) -> int:
        """A random informative ancestor, or the term itself when it has none."""
        above = self.lake.ancestors[term]
        above = above[(above != term) & (self.lake.ic[above] >= LEAST_INFORMATION)]
        return int(rng.choice(above)) if len(above) else term

    def _excluded(self, disease: int, terms: list[int], candidates: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Findings that this patient was checked for and lacks: at most one annotated as absent or rare, then
        typical findings of the differential that are no part of the disease."""
        profiles = self.lake.disease_profiles
        own, frequencies = profiles.terms[disease], known_frequencies(profiles, disease)
        noted = {above for term in terms for above in self.lake.ancestors[term].tolist()}
        absent = own[(frequencies <= RARE) & (rng.random(len(own)) >= frequencies)].tolist()
        listed = rng.permutation(sorted(set(absent) - noted)).tolist()
        typical = {term for other in self._differential(disease, terms, candidates) for term in self._typical(other)}
        checked = rng.permutation(
            sorted(typical - noted - set(shown_terms(self.lake.disease_closure, disease).tolist()))
        )
        wanted = int(rng.integers(self.config.excluded_min, self.config.excluded_max + 1))
        return [int(term) for term in dict.fromkeys([*listed[: int(rng.integers(0, 2))], *checked.tolist()])][:wanted]

    def _differential(self, disease: int, terms: list[int], candidates: np.ndarray) -> list[int]:
        """The candidate genes' other diseases that explain the noted findings best."""
        others = sorted({int(d) for gene in candidates for d in self.lake.diseases_of[gene]} - {disease})
        closure = self.lake.disease_closure
        scores = [overlap(self.lake, np.array(terms), shown_terms(closure, other)) for other in others]
        return [others[at] for at in np.argsort(-np.array(scores), kind="stable")[:DIFFERENTIAL]]

    def _typical(self, disease: int) -> list[int]:
        """Findings that at least half of a disease's patients show."""
        profile = self.lake.disease_profiles
        return profile.terms[disease][known_frequencies(profile, disease) >= UNKNOWN_FREQUENCY].tolist()


def gene_similarity(lake: Lake, genes: np.ndarray) -> np.ndarray:
    """How alike the findings of genes' diseases are.

    Args:
        genes: (n,) gene rows.
    Returns: (n, n) cosine, 0 to 1, of vectors with the information content of every term that a gene's closure shows.
    """
    rows = [shown_terms(lake.gene_closure, gene) for gene in genes]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    values = [lake.ic[row] / np.linalg.norm(lake.ic[row]) for row in rows]
    unit = csr_array((np.concatenate(values), np.concatenate(rows), starts), shape=(len(genes), len(lake.ic)))
    return (unit @ unit.T).toarray()
