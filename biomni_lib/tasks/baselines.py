"""Heuristics without any learning, reported beside every model. They read the facts in the prompt and use the tools.

`random`: any candidate. `one_term`: the candidate that fits the most telling finding. `overlap`: the candidate that
explains most of all findings. `overlap_excluded`: the same for single diseases (a gene is as good as its best one),
less what the excluded findings contradict.
"""

import json
import re
import zlib
from collections.abc import Callable

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.tasks.base import Instance
from biomni_lib.tools import tool_functions

CONTRADICTION_WEIGHT = 0.3
"""Share of the overlap that one certain contradiction takes away; chosen on the training split."""

Pick = Callable[[list[str], list[str], list[str], np.random.Generator], str]
"""From findings, excluded findings, possible entities and a generator to one entity."""


def read_facts(prompt: str) -> tuple[list[str], list[str], list[str]]:
    """Findings, excluded findings and candidate genes that a prompt names, each a list of ids."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    terms, excluded = (re.findall(r"HP:\d{7}", lines.get(key, "")) for key in ("Phenotypes", "Excluded phenotypes"))
    return terms, excluded, re.findall(r"ENSG\d{11}", lines.get("Candidate genes", ""))


def gene_baselines(lake: Lake) -> dict[str, Callable[[Instance], str]]:
    """Baselines of patient_gene_detection, by name."""

    def answer(pick: Pick, instance: Instance) -> str:
        terms, excluded, genes = read_facts(instance.prompt)
        return json.dumps({"causal_gene": [pick(terms, excluded, genes, _generator(instance))]})

    return {name: _with(answer, pick) for name, pick in _picks(lake).items()}


def disease_baselines(lake: Lake) -> dict[str, Callable[[Instance], str]]:
    """Baselines of rare_disease_diagnosis, by name: all diseases of the candidate genes are possible."""
    tools = tool_functions(lake)

    def answer(pick: Pick, instance: Instance) -> str:
        terms, excluded, genes = read_facts(instance.prompt)
        possible = [omim for gene in genes for omim in tools["diseases_of_gene"](gene)]
        omim = pick(terms, excluded, possible, _generator(instance))
        name = tools["disease_profile"](omim, top=1)["name"]
        return json.dumps({"disease_name": name, "OMIM_ID": omim})

    return {name: _with(answer, pick) for name, pick in _picks(lake).items()}


def _picks(lake: Lake) -> dict[str, Pick]:
    tools = tool_functions(lake)
    match, against, content = (tools[n] for n in ("match_score", "contradictions", "information_content"))

    def random(terms: list[str], excluded: list[str], entities: list[str], rng: np.random.Generator) -> str:
        return str(rng.choice(entities))

    def one_term(terms: list[str], excluded: list[str], entities: list[str], rng: np.random.Generator) -> str:
        telling = terms[int(np.argmax(content(terms)))]
        return _argmax([match([telling], entity) for entity in entities], entities, rng)

    def overlap(terms: list[str], excluded: list[str], entities: list[str], rng: np.random.Generator) -> str:
        return _argmax([match(terms, entity) for entity in entities], entities, rng)

    def overlap_excluded(terms: list[str], excluded: list[str], entities: list[str], rng: np.random.Generator) -> str:
        def score(disease: str) -> float:
            return match(terms, disease) - CONTRADICTION_WEIGHT * against(excluded, disease)

        return _argmax([max(map(score, _diseases(tools, entity))) for entity in entities], entities, rng)

    return {"random": random, "one_term": one_term, "overlap": overlap, "overlap_excluded": overlap_excluded}


def _diseases(tools: dict[str, Callable], entity: str) -> list[str]:
    """The diseases of a gene; a disease stands for itself."""
    return tools["diseases_of_gene"](entity) if entity.startswith("ENSG") else [entity]


def _argmax(scores: list[float], entities: list[str], rng: np.random.Generator) -> str:
    """The best entity; a tie is broken at random, so that order in the prompt earns nothing."""
    best = np.flatnonzero(np.array(scores) == max(scores))
    return entities[int(rng.choice(best))]


def _with(answer: Callable[[Pick, Instance], str], pick: Pick) -> Callable[[Instance], str]:
    return lambda instance: answer(pick, instance)


def _generator(instance: Instance) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([zlib.crc32(instance.id.encode())]))
