"""Published patients of the Phenopacket Store, asked and graded like the simulated ones, in two arms.

`leak-free`: no annotation of the lake cites the patient's paper. `leaky`: some annotation does, so that a look-up has
seen the patient; what an agent gains there is in part memory of the lake. Diseases and genes lie in the split that they
have for simulated patients, and no paper is in two splits. A patient's findings and exclusions are a random choice of
those published, as many as `DataConfig` tells of simulated patients, as published: neither imprecise nor noisy.
Each gene is asked at most `PER_GENE` times, the genes in turn, so that a large cohort decides little.

Left out: patients without one gene, or whose gene or disease the lake does not know, whose two are not linked in one
split, or who have fewer findings than `DataConfig.terms_min`.
Not covered: an annotation that cites OMIM rests on papers that it does not name, and one family may be in two papers.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import gold_table
from biomni_lib.tasks.base import Instance, Task
from biomni_lib.tasks.candidates import CandidateGroups
from biomni_lib.tasks.patients import Patient
from biomni_lib.tasks.phenotypes import PatientGeneDetection, PhenotypeTask, RareDiseaseDiagnosis
from biomni_lib.tasks.public_tier import lacking
from biomni_lib.tasks.splits import SPLITS, make_splits

ARMS = ("leak-free", "leaky")
DATA_SETS = ("genome", "patients")
"""Data sets of the public tier that they need."""
PER_GENE = 10
STREAM = 10
"""Kept apart from those of the simulated patients and of the other tasks."""


@dataclass(frozen=True)
class Case:
    """A published patient; gene, disease and findings are rows of the lake, sorted."""

    id: str
    paper: str
    leaky: bool
    gene: int
    disease: int
    terms: tuple[int, ...]
    excluded: tuple[int, ...]


class Cohort:
    """The published patients by split and arm.

    Args:
        lake: with its public tier built (`make data`).
    Attributes: left_out: number of published patients that no split can have, by reason.
    Raises: DataError when the data are not built, with the remedy.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake, self.left_out = lake, Counter[str]()
        rows = gold_table(lake.lake_dir, "patients", "patients").to_pylist()
        self._symbols = {lake.symbols[row]: row for row in range(len(lake.ensembl_ids))}
        self._split_of = {
            link: split.name for split in make_splits(lake).values() for link in map(tuple, split.links.tolist())
        }
        cited = _cited_papers(lake)
        placed = [(split, case) for row in rows for split, case in self._placed(row, cited)]
        self._cases = self._by_split(placed)

    def of(self, split: str, arm: str) -> list[Case]:
        """The cases of a split and an arm, sorted by id."""
        return [case for case in self._cases[split] if case.leaky == (arm == "leaky")]

    def _placed(self, row: dict[str, Any], cited: set[str]) -> Iterator[tuple[str, Case]]:
        """Split and case of a row, or nothing, which is counted."""
        gene, disease = self._symbols.get(row["gene_symbol"], -1), self._disease(row["omim"])
        split = self._split_of.get((gene, disease))
        if split is None:
            self.left_out[_why(row, gene, disease)] += 1
            return
        present, excluded = (self._terms(row[key]) for key in ("present", "excluded"))
        told = (tuple(sorted(present)), tuple(sorted(excluded - present)))
        yield split, Case(row["id"], row["pmid"], row["pmid"] in cited, gene, disease, *told)

    def _disease(self, omim: int) -> int:
        """Row of a disease that has annotated findings, else -1."""
        at = int(np.searchsorted(self.lake.omims, omim))
        known = at < len(self.lake.omims) and int(self.lake.omims[at]) == omim
        return at if known and len(self.lake.disease_profiles.terms[at]) else -1

    def _terms(self, ids: list[str]) -> set[int]:
        """Rows of the phenotypic terms that the lake knows; newer ones are left out."""
        rows = set()
        for id in ids:
            try:
                rows.add(self.lake.term_row(id))
            except ValueError:
                continue
        return {row for row in rows if self.lake.phenotypic[row]}

    def _by_split(self, placed: list[tuple[str, Case]]) -> dict[str, list[Case]]:
        """Cases by split; those of a paper in two splits stay in the later one, which is examined on."""
        last = dict[str, int]()
        for split, case in placed:
            last[case.paper] = max(last.get(case.paper, 0), SPLITS.index(split))
        kept = [(split, case) for split, case in placed if SPLITS[last[case.paper]] == split]
        self.left_out["paper of another split"] += len(placed) - len(kept)
        return {name: [case for split, case in kept if split == name] for name in SPLITS}


def _cited_papers(lake: Lake) -> set[str]:
    """Every reference of every annotation of a disease."""
    references = lake.table("disease_phenotypes", ["reference"])["reference"].to_pylist()
    return {one.strip() for reference in set(references) for one in reference.split(";")}


def _why(row: dict[str, Any], gene: int, disease: int) -> str:
    if not row["gene_symbol"]:
        return "no single gene"
    if gene < 0:
        return "gene not in the lake"
    return "disease not in the lake" if disease < 0 else "gene and disease not linked in one split"


class RealPatients(PhenotypeTask):
    """What both tasks about published patients share.

    Args:
        cohort: whose patients are asked.
        config: how many instances, findings, exclusions and candidates.
        seed: of the training instances; dev and held-out instances are the same for every seed.
        arm: one of `ARMS`.
    Raises: ConfigError for another arm.
    """

    def __init__(self, cohort: Cohort, config: DataConfig, seed: int, arm: str) -> None:
        if arm not in ARMS:
            raise ConfigError(f"unknown arm {arm!r}; the arms are {', '.join(ARMS)}")
        super().__init__(cohort.lake, config, seed)
        self.cohort, self.arm = cohort, arm

    def _make(self, split: str, seed: int, count: int) -> list[Instance]:
        """Each gene's patients in random order, the genes in turn."""
        words = (seed, STREAM + self.stream, SPLITS.index(split), ARMS.index(self.arm))
        cases = [case for case in self.cohort.of(split, self.arm) if len(case.terms) >= self.config.terms_min]
        genes = np.array(sorted({case.gene for case in cases}))
        if not len(genes):
            return []
        groups = CandidateGroups(self.lake, genes, self.config.candidates, f"arm {self.arm} of split {split}")
        order = _in_turn(cases, np.random.default_rng(np.random.SeedSequence(words)))
        made = []
        for number, case in enumerate(order[:count]):
            rng = np.random.default_rng(np.random.SeedSequence([*words, number]))
            patient = self._told(case, groups.draw(case.gene, rng), rng)
            asked = self._instance(patient, f"{self.arm}-{split}-{seed}-{number}")
            origin = {"patient": case.id, "paper": case.paper, "arm": self.arm}
            made.append(replace(asked, meta=asked.meta | origin))
        return made

    def _told(self, case: Case, candidates: list[int], rng: np.random.Generator) -> Patient:
        """As many findings and exclusions as the settings say and the paper has."""
        settings = self.config
        findings = int(rng.integers(settings.terms_min, settings.terms_max + 1))
        exclusions = int(rng.integers(settings.excluded_min, settings.excluded_max + 1))
        terms, excluded = (
            tuple(rng.permutation(rows).astype(int).tolist()[:count])
            for rows, count in ((case.terms, findings), (case.excluded, exclusions))
        )
        return Patient(case.disease, case.gene, terms, excluded, tuple(candidates))


class RealDiagnosis(RealPatients, RareDiseaseDiagnosis):
    """Name a published patient's disease by its OMIM number."""


class RealGeneDetection(RealPatients, PatientGeneDetection):
    """Name the gene behind a published patient's disease."""


def patients_lacking(lake_dir: Path) -> str:
    """What published patients lack and the remedy; empty when their data are there."""
    return lacking(lake_dir, DATA_SETS)


def real_patient_tasks(lake: Lake, config: DataConfig, seed: int) -> dict[str, Task]:
    """Both tasks in both arms, by `TASK, ARM`; instances and answers are graded under the task's name.

    Raises: DataError when the data are not built, with the remedy.
    """
    if why := patients_lacking(lake.lake_dir):
        raise DataError(f"published patients cannot be asked: {why}")
    cohort = Cohort(lake)
    kinds: tuple[type[RealDiagnosis] | type[RealGeneDetection], ...] = (RealDiagnosis, RealGeneDetection)
    return {f"{kind.name}, {arm}": kind(cohort, config, seed, arm) for kind in kinds for arm in ARMS}


def _in_turn(cases: list[Case], rng: np.random.Generator) -> list[Case]:
    """A patient of every gene, then a second one of every gene that has one, and so on, each round in random order."""
    mixed = [cases[at] for at in rng.permutation(len(cases))]
    round_of, seen = list[int](), Counter[int]()
    for case in mixed:
        round_of.append(seen[case.gene])
        seen[case.gene] += 1
    rounds = np.argsort(np.array(round_of), kind="stable").tolist()
    return [mixed[at] for at in rounds if round_of[at] < PER_GENE]
