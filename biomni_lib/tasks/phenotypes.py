"""The two tasks about patients: which disease is it, and which gene is behind it."""

import json
from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks import baselines
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.drawn import DrawnTask
from biomni_lib.tasks.patients import Patient, PatientSimulator
from biomni_lib.tasks.splits import make_splits

_FACTS = "Phenotypes: {terms}\nExcluded phenotypes: {excluded}\nCandidate genes: {genes}\n"


class PhenotypeTask(DrawnTask):
    """What both tasks share: patients, splits and the facts shown.

    Args:
        config: sizes and noise of the simulated patients.
        seed: of the training patients. Dev and held-out patients are the same for every seed, as instruments are.
    """

    question = ""
    output_format = ""

    def __init__(self, lake: Lake, config: DataConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.lake, self._splits = lake, make_splits(lake)

    def _make(self, split: str, seed: int, count: int) -> list[Instance]:
        """Simulated patients, each from a stream of its own."""
        simulator = PatientSimulator(self.lake, self._splits[split], self.config)
        streams = (np.random.SeedSequence([*self._words(split, seed), number]) for number in range(count))
        return [
            self._instance(simulator.draw(np.random.default_rng(stream)), f"{split}-{seed}-{number}")
            for number, stream in enumerate(streams)
        ]

    def _instance(self, patient: Patient, id: str) -> Instance:
        lake = self.lake
        meta = {
            "terms": [lake.term_id(row) for row in patient.terms],
            "excluded": [lake.term_id(row) for row in patient.excluded],
            "candidates": [lake.ensembl_id(row) for row in patient.candidates],
            "disease": lake.omim(patient.disease),
            "gene": lake.ensembl_id(patient.gene),
        }
        facts = _FACTS.format(
            terms=", ".join(meta["terms"]),
            excluded=", ".join(meta["excluded"]) or "none",
            genes=", ".join(meta["candidates"]),
        )
        prompt = f"Task: {self.question}\n{facts}Output format: {self.output_format}"
        return Instance(prompt, self._gold(patient), self.name, f"{self.name}-{id}", meta)

    @abstractmethod
    def _gold(self, patient: Patient) -> str:
        """The right answer, in the form that `grade` takes."""


class RareDiseaseDiagnosis(PhenotypeTask):
    """Name the patient's disease by its OMIM number."""

    name = "rare_disease_diagnosis"
    stream = 1
    question = (
        "given a patient's phenotypes and a list of candidate genes, diagnose the rare disease that the patient has."
    )
    output_format = '{"disease_name": ..., "OMIM_ID": ...}'

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics over all diseases of the candidate genes; see `baselines`."""
        return baselines.disease_baselines(self.lake)

    def _gold(self, patient: Patient) -> str:
        lake = self.lake
        return json.dumps({"OMIM_ID": lake.omim(patient.disease), "disease_name": lake.disease_names[patient.disease]})


class PatientGeneDetection(PhenotypeTask):
    """Name the gene behind the patient's disease."""

    name = "patient_gene_detection"
    stream = 2
    question = "given a patient's phenotypes and a list of candidate genes, identify the causal gene."
    output_format = '{"causal_gene": ["ENSG..."]}'

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics over the candidate genes; see `baselines`."""
        return baselines.gene_baselines(self.lake)

    def _gold(self, patient: Patient) -> str:
        return self.lake.ensembl_id(patient.gene)


PATIENT_TASKS = (RareDiseaseDiagnosis.name, PatientGeneDetection.name)
