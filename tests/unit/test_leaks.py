"""A planted leak of every sort is found and named; what may be shared is counted; benchmarks not at hand are said."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks import BUNDLED_TASKS, Instance, get_task, task_names
from biomni_lib.tasks.crispr_cases import load_cases
from biomni_lib.tasks.eval1 import COUNTS
from biomni_lib.tasks.leaks import Finding, compare, overlapping
from biomni_lib.tasks.leaks.compare import APART, BENCHMARKS, COUNTED, LEAK, NEAR_TEXT, NOT_AUDITED, PROMPT
from biomni_lib.tasks.leaks.identifiers import DNA_WORD, SORTS
from biomni_lib.tasks.splits import SPLITS

CONFIG = DataConfig(train_instances=16, dev_instances=8, heldout_instances=8)
FBN1, MARFAN = "ENSG00000166147", "154700"
DNA = "ACGTTGCAAGGCTTACCGATAGGCTTAACCGGTACGAT"
OTHER_DNA = "TTGACCATGGCAATCCGGATTACCGTAGCATTCGGACT"
CASES = {case.split: case for case in load_cases() if case.reference}
WORDS = [
    "a",
    "gene",
    "of",
    "a",
    "line",
    "that",
    "grows",
    "fast",
    "shall",
    "be",
    "cut",
    "once",
    "and",
    "the",
    "cells",
    "are",
    "thrown",
    "away",
    "after",
    "three",
    "days",
]

Asked = dict[str, dict[str, list[Instance]]]


def one(task: str, split: str, prompt: str = "", gold: str = "b", **meta: Any) -> Instance:
    """An instance of a made-up question."""
    return Instance(prompt or f"Task: made-up {task} {split}", gold, task, f"{task}-{split}-0-0", meta)


def of_benchmark(task: str, prompt: str, gold: str = "b", benchmark: str = "eval1") -> Instance:
    return Instance(prompt, gold, task, f"{benchmark}/{task}/0", {"split": benchmark})


def asked_of(**split_to_instance: Instance) -> Asked:
    return {split.replace("_", "-"): {each.task: [each]} for split, each in split_to_instance.items()}


def leaks(asked: Asked, lake: Lake) -> list[Finding]:
    return [finding for finding in compare(asked, lake) if finding.status == LEAK]


def disease(omim: str) -> str:
    return json.dumps({"OMIM_ID": omim, "disease_name": "named"})


DIAGNOSIS, GENE, DBQA, SEQQA = "rare_disease_diagnosis", "patient_gene_detection", "lab_bench_dbqa", "lab_bench_seqqa"
LOCUS, VARIANT, SCREEN, CRISPR = (
    "gwas_causal_gene_opentargets",
    "gwas_variant_prioritization",
    "screen_gene_retrieval",
    "crispr_delivery",
)
PAIRS: dict[str, Callable[[str], Instance]] = {
    "disease": lambda split: one(DIAGNOSIS, split, gold=disease("999001")),
    "disease gene": lambda split: one(GENE, split, f"{split} ENSG00000000001", gold=f"ENSG0000000001{len(split)}"),
    "patient's paper": lambda split: one(GENE, split, gold=f"ENSG0000000001{len(split)}", paper="PMID:1"),
    "published patient": lambda split: one(GENE, split, gold=f"ENSG0000000001{len(split)}", patient="PMID_1_II-2"),
    "term asked about": lambda split: one(DBQA, split, kind="term_parent", facts={"Phenotype": "HP:0001250"}),
    "record": lambda split: one(SEQQA, split, record="pX"),
    f"word of {DNA_WORD} bases": lambda split: one(SEQQA, split, f"{split} {DNA}"),
    "causal gene": lambda split: one(LOCUS, split, gold="FBN1"),
    "chromosome": lambda split: one(LOCUS, split, gold=split, chromosome="7"),
    "variant": lambda split: one(VARIANT, split, gold="rs334"),
    "study": lambda split: one(SCREEN, split, gold=split, study="Ada26"),
    "situation": lambda split: one(CRISPR, split, case=CASES["train"].id),
    "case's reference": lambda split: one(CRISPR, split, case=CASES["train"].id),
    PROMPT: lambda split: one(CRISPR, split, "Case: the same"),
    NEAR_TEXT: lambda split: one(CRISPR, split, f"Case: {' '.join(WORDS)} says {split}"),
}


def test_every_task_declares_what_must_be_apart() -> None:
    assert set(SORTS) == {*task_names(), *COUNTS}
    declared = {sort.name for sorts in SORTS.values() for sort in sorts if sort.apart}
    assert declared | {PROMPT, NEAR_TEXT} == set(PAIRS)


@pytest.mark.parametrize("sort", PAIRS)
@pytest.mark.parametrize(("left", "right"), [("train", "heldout"), ("train", "dev"), ("dev", "heldout")])
def test_a_planted_leak_is_found_and_named(sort: str, left: str, right: str, lake: Lake) -> None:
    mine, yours = PAIRS[sort](left), PAIRS[sort](right)
    found = [finding for finding in leaks(asked_of(**{left: mine, right: yours}), lake) if finding.sort == sort]
    assert [(each.one, each.other, each.shared) for each in found] == [(left, right, found[0].shared)]
    assert found[0].shared and mine.id in found[0].example and yours.id in found[0].example


def test_both_strands_of_a_sequence_are_the_same(lake: Lake) -> None:
    other = DNA[::-1].translate(str.maketrans("ACGT", "TGCA"))
    found = leaks(asked_of(train=one(SEQQA, "train", f"train {DNA}"), heldout=one(SEQQA, "heldout", other)), lake)
    assert [(each.sort, each.shared) for each in found] == [(f"word of {DNA_WORD} bases", len(DNA) - DNA_WORD + 1)]


def test_a_leak_from_one_task_into_another_is_found(lake: Lake) -> None:
    """The disease of a training patient, asked about in a held-out question over the lake; its gene leads there too."""
    train = one(GENE, "train", gold=FBN1)
    heldout = one(DBQA, "heldout", f"Task: which?\nDisease: OMIM:{MARFAN}", kind="disease_gene", facts={})
    found = leaks({"train": {GENE: [train]}, "heldout": {DBQA: [heldout]}}, lake)
    assert [(each.task, each.sort, each.shared) for each in found] == [(GENE, "disease", 1)]
    assert MARFAN in found[0].example


def test_traits_and_hits_and_gwas_papers_are_counted_and_no_leak(lake: Lake) -> None:
    meta = {"trait": "height", "papers": ["1"]}
    loci = asked_of(train=one(LOCUS, "train", gold="A", **meta), heldout=one(LOCUS, "heldout", gold="B", **meta))
    hits = asked_of(train=one(SCREEN, "train", gold="A"), heldout=one(SCREEN, "heldout", gold="A"))
    counted = [each for asked in (loci, hits) for each in compare(asked, lake) if each.status == COUNTED]
    shared = {each.sort: each.shared for each in counted if each.other == "heldout"}
    assert shared == {"trait": 1, "GWAS paper": 1, "hit": 1} and not leaks(loci, lake) + leaks(hits, lake)


@pytest.fixture(scope="module")
def drawn(lake: Lake) -> Asked:
    tasks = {name: get_task(name, lake, CONFIG, seed=0) for name in BUNDLED_TASKS}
    return {split: {name: task.instances(split) for name, task in tasks.items()} for split in SPLITS}


def test_the_bundled_tasks_share_nothing_and_no_benchmark_was_audited(drawn: Asked, lake: Lake) -> None:
    findings = compare(drawn, lake)
    assert not [finding for finding in findings if finding.status == LEAK]
    assert {finding.task for finding in findings} == set(BUNDLED_TASKS)
    for finding in findings:
        assert (finding.status == NOT_AUDITED) == (finding.other in BENCHMARKS) == (finding.shared is None)
    for name in BUNDLED_TASKS:
        of = {(each.one, each.other) for each in findings if each.task == name}
        assert of >= {("train", "dev"), ("train", "heldout"), ("dev", "heldout"), ("train", "eval1"), ("dev", "eval1")}
    compared = {(each.task, each.sort): each.of_one for each in findings if each.other == "heldout"}
    no_such = ("published patient", "patient's paper", "case's reference")
    assert not {key for key, size in compared.items() if not size and key[1] not in no_such}


EVAL1: dict[str, tuple[Instance, Instance]] = {
    "disease": (one(GENE, "train", gold=FBN1), of_benchmark(DIAGNOSIS, "HP:0000001 alone", disease(MARFAN))),
    "disease gene": (one(DIAGNOSIS, "train", gold=disease(MARFAN)), of_benchmark(GENE, "which gene", FBN1)),
    "causal gene": (one(LOCUS, "train", gold="FBN1"), of_benchmark(LOCUS, "Genes in locus: {FBN1},{ALB}", "FBN1")),
    "variant": (one(VARIANT, "train", gold="rs334"), of_benchmark(VARIANT, "rs334, rs335", "rs334")),
    f"word of {DNA_WORD} bases": (one(SEQQA, "train", f"x {DNA}"), of_benchmark(SEQQA, f"What is {DNA.lower()}?", "A")),
    "term asked about": (PAIRS["term asked about"]("train"), of_benchmark(DBQA, "What is above HP:0001250?", "A")),
    PROMPT: (one(CRISPR, "train", "Case: the same."), of_benchmark(CRISPR, "case the same")),
    NEAR_TEXT: (
        one(CRISPR, "train", f"Task: which?\nCase: {' '.join(WORDS)} says one\nOptions:\na. b"),
        of_benchmark(CRISPR, f"You are asked to choose. Here is it: {' '.join(WORDS)} as two say. A. this B. that"),
    ),
}


@pytest.mark.parametrize("sort", EVAL1)
def test_a_leak_into_eval1_is_found_and_its_instance_is_left_out(sort: str, lake: Lake) -> None:
    train, question = EVAL1[sort]
    found = leaks(asked_of(train=train, eval1=question), lake)
    assert sort in {each.sort for each in found} and {each.other for each in found} == {"eval1"}
    assert all(train.id in each.example and question.id in each.example for each in found)
    other = one(CRISPR, "train", "Task: which?\nCase: something else entirely")
    other = dataclasses.replace(other, id="kept")
    assert overlapping([train, other], {"eval1": [question]}, lake) == {train.id}


def test_a_gene_named_in_words_by_lab_bench_is_found(lake: Lake) -> None:
    train = one(DBQA, "train", f"Task: which?\nGene: {FBN1}\nOptions:\nb: 15", kind="chromosome", facts={"Gene": FBN1})
    prompt = "Task: answer.\nQuestion: Which gene is linked to Marfan syndrome?\nOptions:\nA. ALB\nB. FBN1\n"
    question = of_benchmark(DBQA, prompt, "B", benchmark="lab-bench")
    found = leaks(asked_of(train=train, lab_bench=question), lake)
    assert [(each.sort, each.shared, each.other) for each in found] == [("disease gene", 1, "lab-bench")]
    asks_another = of_benchmark(DBQA, prompt, "A", benchmark="lab-bench")
    assert not leaks(asked_of(train=train, lab_bench=asks_another), lake)  # FBN1 is only offered there


def test_candidates_alone_are_no_leak_into_a_benchmark(lake: Lake) -> None:
    train = one(GENE, "train", f"Candidate genes: {FBN1}, ENSG00000000011", gold="ENSG00000000011")
    question = of_benchmark(GENE, f"Genes: {FBN1}, ENSG00000000012", "ENSG00000000012")
    findings = compare(asked_of(train=train, eval1=question), lake)
    assert {each.status for each in findings if each.other == "eval1"} == {APART}
    assert overlapping([train], {"eval1": [question]}, lake) == set()
