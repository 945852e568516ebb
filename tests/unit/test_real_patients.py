"""Published patients: the two arms, what they share with nothing, and candidates that give nothing away."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.lake import Lake
from biomni_lib.tasks import Instance, Task, get_task
from biomni_lib.tasks.baselines import read_facts
from biomni_lib.tasks.candidates import RELATED, CandidateGroups
from biomni_lib.tasks.real_patients import ARMS, Cohort, RealDiagnosis, patients_lacking, real_patient_tasks
from biomni_lib.tasks.splits import SPLITS, make_splits
from tests.toy_patients import GENES, ToyPatients

ALL = DataConfig(train_instances=999, dev_instances=999, heldout_instances=999)
NAMES = [f"{task}, {arm}" for task in ("rare_disease_diagnosis", "patient_gene_detection") for arm in ARMS]


@pytest.fixture(scope="module")
def toy(lake: Lake) -> ToyPatients:
    return ToyPatients(lake)


@pytest.fixture(scope="module")
def toy_lake(toy: ToyPatients, lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("patients")
    shutil.copytree(lake_dir, folder / "lake")
    toy.build(folder / "lake", folder / "files")
    return Lake.open(folder / "lake")


@pytest.fixture(scope="module")
def tasks(toy_lake: Lake) -> dict[str, Task]:
    return real_patient_tasks(toy_lake, ALL, seed=0)


@pytest.fixture(scope="module")
def asked(tasks: dict[str, Task]) -> dict[str, list[Instance]]:
    """Every instance of all splits, by task and arm."""
    return {name: [one for split in SPLITS for one in task.instances(split)] for name, task in tasks.items()}


def cited(lake: Lake) -> set[str]:
    references = lake.table("disease_phenotypes", ["reference"])["reference"].to_pylist()
    return {one for reference in references for one in reference.split(";")}


def test_every_patient_is_in_the_arm_and_split_that_the_paper_says(asked: dict[str, list[Instance]]) -> None:
    """42 genes with three leaky and two free patients; of the paper that train and held-out share, train's is left."""
    assert list(asked) == NAMES
    for name, instances in asked.items():
        arm = name.split(", ")[1]
        patients = [one.meta["patient"].split("-") for one in instances]
        assert len(instances) == (3 * GENES * 3 if arm == "leaky" else 3 * GENES * 2 - 1)
        assert {number for *_, number in patients} == ({"0", "1", "2"} if arm == "leaky" else {"3", "4"})
        assert all(f"-{arm}-{split}-" in one.id for one, (_, split, _, _) in zip(instances, patients, strict=True))
        assert len({one.id for one in instances}) == len(instances)


def test_no_paper_of_the_leak_free_arm_is_cited_and_every_one_of_the_leaky_arm_is(
    lake: Lake, asked: dict[str, list[Instance]]
) -> None:
    known = cited(lake)
    for name, instances in asked.items():
        assert {one.meta["paper"] in known for one in instances} == {name.endswith("leaky")}
        assert {one.meta["arm"] for one in instances} == {name.split(", ")[1]}


def test_no_disease_gene_or_paper_is_in_two_splits(lake: Lake, tasks: dict[str, Task]) -> None:
    """Over both arms and tasks, candidates and their diseases too; and none is one of the simulated patients' split."""
    splits = make_splits(lake)
    seen: dict[str, dict[str, set]] = {}
    for split in SPLITS:
        instances = [one for task in tasks.values() for one in task.instances(split)]
        genes = {gene for one in instances for gene in one.meta["candidates"]}
        diseases = {lake.omim(row) for gene in genes for row in lake.diseases_of[lake.gene_row(gene)]}
        seen[split] = {"genes": genes, "diseases": diseases, "papers": {one.meta["paper"] for one in instances}}
        assert {lake.gene_row(gene) for gene in genes} <= set(splits[split].genes.tolist())
        assert {one.meta["disease"] for one in instances} <= diseases
    for one, other in (("train", "dev"), ("train", "heldout"), ("dev", "heldout")):
        assert all(seen[one][what] and seen[one][what].isdisjoint(seen[other][what]) for what in seen[one])


def test_what_was_left_out_is_counted(toy_lake: Lake) -> None:
    assert Cohort(toy_lake).left_out == {"disease not in the lake": 1, "paper of another split": 1}


def test_gold_scores_one_and_no_other_candidate_does(tasks: dict[str, Task], asked: dict[str, list[Instance]]) -> None:
    for name, instances in asked.items():
        task = tasks[name]
        for one in instances:
            assert one.task == task.name and task.prompt(one) == one.prompt
            assert task.grade(one, task.gold_answer(one), strict=True) == 1.0
            assert task.grade(one, None) == task.grade(one, "") == 0.0
    genes = tasks["patient_gene_detection, leaky"]
    for one in asked["patient_gene_detection, leaky"]:
        grades = [genes.grade(one, json.dumps({"causal_gene": [gene]})) for gene in one.meta["candidates"]]
        assert sorted(grades) == [0.0] * 5 + [1.0]


def test_prompts_have_the_shape_of_the_simulated_and_say_what_was_published(
    toy: ToyPatients, lake: Lake, tasks: dict[str, Task]
) -> None:
    for name, task in tasks.items():
        simulated = get_task(task.name, lake, DataConfig(dev_instances=1), seed=0).instances("dev")[0]
        keys = [line.split(": ")[0] for line in simulated.prompt.splitlines()]
        for one in task.instances("dev"):
            lines = one.prompt.splitlines()
            assert [line.split(": ")[0] for line in lines] == keys and lines[0] == simulated.prompt.splitlines()[0]
            terms, excluded, genes = read_facts(one.prompt)
            assert (terms, excluded, genes) == tuple(one.meta[key] for key in ("terms", "excluded", "candidates"))
            disease = lake.disease_row(one.meta["disease"])
            published = set(toy._terms(disease)[:7])
            assert len(terms) == ALL.terms_max and set(terms) <= published, name
            number = int(one.meta["patient"][-1])
            assert len(excluded) == min(number, ALL.excluded_max) and not published & set(excluded)
            assert len(set(genes)) == ALL.candidates and one.meta["gene"] in genes


def test_limits_of_the_settings_decide_how_much_is_told(toy_lake: Lake) -> None:
    config = DataConfig(dev_instances=999, terms_min=7, terms_max=9, excluded_min=0, excluded_max=0, candidates=4)
    made = real_patient_tasks(toy_lake, config, 0)["patient_gene_detection, leaky"].instances("dev")
    assert {one.meta["patient"][-1] for one in made} == {"1"}  # the others have six findings
    assert {(len(one.meta["terms"]), len(one.meta["excluded"]), len(one.meta["candidates"])) for one in made} == {
        (7, 0, 4)
    }


def test_same_seed_same_instances_and_counts_do_not_matter(toy_lake: Lake, tasks: dict[str, Task]) -> None:
    config = DataConfig(train_instances=9, dev_instances=9, heldout_instances=9)
    again, other = (real_patient_tasks(toy_lake, config, seed) for seed in (0, 1))
    for name, task in tasks.items():
        for split in SPLITS:
            assert again[name].instances(split) == task.instances(split)[:9]
            assert [one.meta for one in again[name].instances(split)] == [o.meta for o in task.instances(split)[:9]]
        assert other[name].instances("train") != again[name].instances("train")
        assert other[name].instances("heldout") == again[name].instances("heldout")


def test_genes_take_turns(tasks: dict[str, Task]) -> None:
    for task in tasks.values():
        genes = [one.meta["gene"] for one in task.instances("heldout")]
        assert len(set(genes[:GENES])) == len(set(genes[GENES : 2 * GENES])) == GENES


def test_paralogs_come_together(toy: ToyPatients, toy_lake: Lake) -> None:
    genes = np.array([gene for gene, _ in toy.chosen["heldout"]])
    first, second = toy.paralogs
    groups = CandidateGroups(toy_lake, genes, 4, "a test")
    assert groups.likeness[0, 1] == groups.likeness[1, 0] >= RELATED > groups.likeness[0, 3:].max()
    rng = np.random.default_rng(0)
    together = np.mean([second in groups.draw(first, rng) for _ in range(60)])
    assert together > 0.8  # at random three of the thirteen others, 0.23


def test_genes_of_one_locus_come_together(lake: Lake, toy_lake: Lake) -> None:
    """Of all genes, two neighbours; everything else lies on other chromosomes."""
    order = np.lexsort((lake.gene_starts, [lake.chromosomes[row] for row in range(len(lake.ensembl_ids))]))
    near = next(
        (int(a), int(b))
        for a, b in zip(order, order[1:], strict=False)
        if lake.chromosomes[a] == lake.chromosomes[b] and 0 < lake.gene_starts[b] - lake.gene_starts[a] < 10**6
    )
    far = next(int(row) for row in order if lake.chromosomes[row] != lake.chromosomes[near[0]])
    likeness = CandidateGroups(toy_lake, np.array([*near, far]), 2, "a test").likeness
    assert likeness[0, 1] >= RELATED > likeness[0, 2] and likeness[0, 0] <= 1.001


def test_a_group_is_as_likely_whichever_of_its_genes_is_causal(toy: ToyPatients, toy_lake: Lake) -> None:
    """Choosing the gene that all others resemble most is right as often as chance, within 4 standard errors."""
    genes, draws, size = np.array([gene for gene, _ in toy.chosen["train"]]), 60, 3
    groups = CandidateGroups(toy_lake, genes, size, "a test")
    at, rng = {gene: place for place, gene in enumerate(genes.tolist())}, np.random.default_rng(0)
    right = []
    for gene in genes.tolist() * draws:
        places = [at[one] for one in groups.draw(gene, rng)]
        likeness = groups.likeness[np.ix_(places, places)].sum(axis=1)
        right.append(places[int(np.argmax(likeness))] == at[gene])
    assert abs(np.mean(right) - 1 / size) < 4 * np.sqrt(2 / 9 / len(right))


def test_baselines_of_the_simulated_answer_real_patients(tasks: dict[str, Task]) -> None:
    """These patients show what the annotations say, so that all findings together tell almost always."""
    for task in tasks.values():
        instances = task.instances("heldout")
        rates = {
            name: np.mean([task.grade(one, answer(one)) for one in instances])
            for name, answer in task.baselines().items()
        }
        assert list(rates) == ["random", "one_term", "overlap", "overlap_excluded"]
        assert rates["overlap"] > 0.8 > rates["random"]


def test_what_is_missing_or_wrong_is_named(lake: Lake, toy_lake: Lake, tasks: dict[str, Task]) -> None:
    with pytest.raises(DataError, match="data of genome, patients are not built; run `make data`"):
        real_patient_tasks(lake, ALL, 0)
    assert "genome, patients" in patients_lacking(lake.lake_dir) and patients_lacking(toy_lake.lake_dir) == ""
    with pytest.raises(ConfigError, match="unknown arm 'both'; the arms are leak-free, leaky"):
        RealDiagnosis(Cohort(toy_lake), ALL, 0, "both")
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        tasks[NAMES[0]].instances("test")
    few = RealDiagnosis(Cohort(toy_lake), DataConfig(candidates=GENES + 1), 0, "leaky")
    with pytest.raises(ConfigError, match=r"data.candidates = 15 is more than arm leaky of split dev can offer"):
        few.instances("dev")
    assert Counter(len(task.instances("dev")) for task in tasks.values()) == {2 * GENES: 2, 3 * GENES: 2}
