"""Generated database questions: the lake's tables give exactly one right option; splits share no gene or disease."""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks import Instance
from biomni_lib.tasks.choices import LETTERS, read_options
from biomni_lib.tasks.dbqa import LabBenchDbQA
from biomni_lib.tasks.splits import SPLITS

KINDS = 8
EACH = 40
COUNT = EACH * KINDS
CONFIG = DataConfig(train_instances=COUNT, dev_instances=COUNT, heldout_instances=COUNT)
PAIRS = [("train", "dev"), ("train", "heldout"), ("dev", "heldout")]


class Tables:
    """The lake's Parquet tables as plain dictionaries by id, without the arrays that the generator reads."""

    def __init__(self, lake: Lake) -> None:
        genes, diseases, terms = (lake.table(name).to_pylist() for name in ("genes", "diseases", "terms"))
        self.genes = {gene["ensembl_id"]: gene for gene in genes}
        self.links = {
            (genes[row["gene"]]["ensembl_id"], diseases[row["disease"]]["omim"])
            for row in lake.table("gene_disease").to_pylist()
        }
        self.parents = {
            (terms[row["term"]]["id"], terms[row["parent"]]["id"]) for row in lake.table("term_parents").to_pylist()
        }
        above: dict[int, list[int]] = {}
        for row in lake.table("term_ancestors").to_pylist():
            above.setdefault(row["term"], []).append(row["ancestor"])
        self.shown = {
            (diseases[row["disease"]]["omim"], terms[ancestor]["id"])
            for row in lake.table("disease_profiles").to_pylist()
            if row["frequency"] != 0
            for ancestor in above[row["term"]]
        }

    def distance(self, ensembl: str, position: int) -> int:
        start, end = self.genes[ensembl]["start"], self.genes[ensembl]["start"] + self.genes[ensembl]["length"] - 1
        return max(start - position, position - end, 0)


def ensembl(text: str) -> str:
    return re.search(r"ENSG\d{11}", text)[0]


def omim(text: str) -> int:
    return int(re.search(r"OMIM:(\d{6})", text)[1])


def hpo(text: str) -> str:
    return re.search(r"HP:\d{7}", text)[0]


def inside(tables: Tables, place: str, gene: str) -> bool:
    chromosome, low, high = re.match(r"chr(\w+):(\d+)-(\d+)", place).groups()
    row = tables.genes[gene]
    within = int(low) <= row["start"] and row["start"] + row["length"] - 1 <= int(high)
    return row["chromosome"] == chromosome and within


def closest(tables: Tables, place: str, option: str, options: list[str]) -> bool:
    position = int(re.match(r"chr\w+:(\d+)", place)[1])
    far = [tables.distance(ensembl(other), position) for other in options]
    return tables.distance(ensembl(option), position) == min(far)


RIGHT: dict[str, Callable[[Tables, str, str, list[str]], bool]] = {
    "chromosome": lambda tables, fact, option, options: tables.genes[ensembl(fact)]["chromosome"] == option,
    "gene_location": lambda tables, fact, option, options: inside(tables, fact, ensembl(option)),
    "nearest_gene": closest,
    "disease_gene": lambda tables, fact, option, options: (ensembl(option), omim(fact)) in tables.links,
    "gene_disease": lambda tables, fact, option, options: (ensembl(fact), omim(option)) in tables.links,
    "phenotype_disease": lambda tables, fact, option, options: (omim(option), hpo(fact)) in tables.shown,
    "disease_phenotype": lambda tables, fact, option, options: (omim(fact), hpo(option)) in tables.shown,
    "term_parent": lambda tables, fact, option, options: (hpo(fact), hpo(option)) in tables.parents,
}


@pytest.fixture(scope="module")
def tables(lake: Lake) -> Tables:
    return Tables(lake)


@pytest.fixture(scope="module")
def task(lake: Lake) -> LabBenchDbQA:
    return LabBenchDbQA(lake, CONFIG, seed=0)


def of_kind(task: LabBenchDbQA, kind: str, split: str) -> list[Instance]:
    return [one for one in task.instances(split) if one.meta["kind"] == kind]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", list(RIGHT))
def test_tables_give_the_gold_and_no_other_right_option(
    task: LabBenchDbQA, tables: Tables, kind: str, split: str
) -> None:
    instances = of_kind(task, kind, split)
    assert len(instances) == EACH and len(task.kinds) == KINDS
    for one in instances:
        (fact,) = one.meta["facts"].values()
        options = read_options(one.prompt)
        right = [key for key, option in options.items() if RIGHT[kind](tables, fact, option, list(options.values()))]
        assert right == [one.gold], one.id


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_splits_share_no_gene_disease_or_asked_term(task: LabBenchDbQA, left: str, right: str) -> None:
    def named(split: str) -> tuple[set[str], set[str]]:
        text = "\n".join(one.prompt for one in task.instances(split))
        asked = "\n".join(one.meta["facts"]["Phenotype"] for one in of_kind(task, "term_parent", split))
        return set(re.findall(r"ENSG\d{11}|OMIM:\d{6}", text)), set(re.findall(r"HP:\d{7}", asked))

    for mine, other in zip(named(left), named(right), strict=True):
        assert mine and not mine & other


def test_terms_are_divided_whole(task: LabBenchDbQA) -> None:
    parts = [set(task.terms[split].tolist()) for split in SPLITS]
    assert len(set.union(*parts)) == sum(map(len, parts)) > 5000


def test_prompt_has_the_asked_shape(task: LabBenchDbQA) -> None:
    shape = r"Task: .+\?\n[A-Z]\w+: .+\nOptions:\n([a-f]: .+\n){6}Output format: one letter, a to f"
    for one in task.instances("dev"):
        assert re.fullmatch(shape, task.prompt(one))
        assert len(set(one.meta["options"])) == len(LETTERS)
        assert len(one.prompt) < 1000


def test_gold_answer_scores_one_and_others_do_not(task: LabBenchDbQA) -> None:
    for one in task.instances("dev")[:40]:
        assert task.grade(one, task.gold_answer(one).upper()) == 1.0
        assert not any(task.grade(one, letter) for letter in LETTERS if letter != one.gold)


def test_gold_letters_are_uniform(lake: Lake) -> None:
    made = LabBenchDbQA(lake, DataConfig(train_instances=1200), seed=1)
    golds = Counter(one.gold for one in made.instances("train"))
    assert set(golds) == set(LETTERS)
    assert chisquare(list(golds.values())).pvalue > 1e-3


def test_guesses_are_not_far_from_chance(task: LabBenchDbQA) -> None:
    """Letters and lengths tell nothing, within 4 standard errors; likeness tells a little, as names of terms resemble
    their parents' names."""
    instances = [one for split in SPLITS for one in task.instances(split)]
    chance = 1 / len(LETTERS)
    band = 4 * np.sqrt(chance * (1 - chance) / len(instances))
    score = {
        name: np.mean([task.grade(one, answer(one)) for one in instances]) for name, answer in task.baselines().items()
    }
    assert all(abs(score[name] - chance) < band for name in ("random", "majority", "longest"))
    assert score["most_alike"] < 0.25


def test_same_seed_same_questions_and_counts_do_not_matter(task: LabBenchDbQA, lake: Lake) -> None:
    shorter = DataConfig(train_instances=16, dev_instances=16)
    again, other = LabBenchDbQA(lake, shorter, seed=0), LabBenchDbQA(lake, shorter, seed=1)
    assert again.instances("train") == task.instances("train")[:16]
    assert other.instances("train") != again.instances("train")
    assert other.instances("dev") == task.instances("dev")[:16]
