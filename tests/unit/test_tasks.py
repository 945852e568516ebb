"""The tasks: prompts, gold answers, simulated patients, and candidates that give nothing away."""

import re

import numpy as np
import pytest

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError
from biomni_lib.lake import Lake
from biomni_lib.tasks import Instance, Task, get_task, refuse_evaluation_only
from biomni_lib.tasks.baselines import read_facts
from biomni_lib.tasks.patients import LEAST_INFORMATION, PatientSimulator
from biomni_lib.tasks.phenotypes import PATIENT_TASKS
from biomni_lib.tasks.splits import make_splits
from biomni_lib.tools.scoring import shown_terms

CONFIG = DataConfig(train_instances=300, dev_instances=20, heldout_instances=10)


@pytest.fixture(scope="module", params=PATIENT_TASKS)
def task(request: pytest.FixtureRequest, lake: Lake) -> Task:
    return get_task(request.param, lake, CONFIG, seed=0)


@pytest.fixture(scope="module")
def genes_task(lake: Lake) -> Task:
    return get_task("patient_gene_detection", lake, CONFIG, seed=0)


def clean(lake: Lake, **settings: object) -> list[Instance]:
    """Training patients of the gene task under other settings."""
    config = DataConfig(train_instances=150, **settings)  # type: ignore[arg-type]
    return get_task("patient_gene_detection", lake, config, seed=0).instances("train")


def test_gold_answer_scores_one_and_others_do_not(task: Task) -> None:
    instances = task.instances("train")
    for one, other in zip(instances, instances[1:], strict=False):
        answer = task.gold_answer(one)
        assert task.grade(one, answer) == task.grade(one, answer, strict=True) == 1.0
        if one.gold != other.gold:
            assert task.grade(other, answer) == 0.0
        assert task.grade(one, None) == 0.0


def test_prompt_has_the_asked_shape(task: Task) -> None:
    shape = (
        r"Task: given a patient's phenotypes and a list of candidate genes, .+\.\n"
        r"Phenotypes: HP:\d{7}(, HP:\d{7})*\n"
        r"Excluded phenotypes: (none|HP:\d{7}(, HP:\d{7})*)\n"
        r"Candidate genes: ENSG\d{11}(, ENSG\d{11})*\n"
        r"Output format: \{.+\}"
    )
    for one in task.instances("dev"):
        assert re.fullmatch(shape, task.prompt(one))
        assert read_facts(one.prompt) == (one.meta["terms"], one.meta["excluded"], one.meta["candidates"])


def test_prompt_tells_what_was_set(task: Task) -> None:
    for one in task.instances("train"):
        terms, excluded, genes = read_facts(one.prompt)
        assert 1 <= len(terms) <= CONFIG.terms_max + CONFIG.noise_terms_max
        assert len(set(terms)) == len(terms) and not set(terms) & set(excluded)
        assert len(set(excluded)) == len(excluded) <= CONFIG.excluded_max
        assert len(set(genes)) == len(genes) == CONFIG.candidates
        assert one.meta["gene"] in genes


def test_ids_are_unique(task: Task) -> None:
    ids = [one.id for split in ("train", "dev", "heldout") for one in task.instances(split)]
    assert len(set(ids)) == len(ids)
    refuse_evaluation_only(ids, "a test")


def test_same_seed_same_patients_and_counts_do_not_matter(task: Task, lake: Lake) -> None:
    shorter = DataConfig(train_instances=20, dev_instances=20, heldout_instances=10)
    again = get_task(task.name, lake, shorter, seed=0)
    other = get_task(task.name, lake, shorter, seed=1)
    assert again.instances("train") == task.instances("train")[:20]
    assert other.instances("train") != again.instances("train")
    assert other.instances("dev") == task.instances("dev")


def test_tasks_do_not_share_patients(lake: Lake) -> None:
    disease, gene = (get_task(name, lake, CONFIG, seed=0).instances("dev") for name in PATIENT_TASKS)
    assert [one.meta for one in disease] != [one.meta for one in gene]


def test_patient_without_noise_shows_only_findings_of_the_disease(lake: Lake) -> None:
    for one in clean(lake, imprecision=0.0, noise_terms_max=0):
        profile = lake.disease_profiles
        known = {lake.term_id(term) for term in shown_terms(profile, lake.disease_row(one.meta["disease"]))}
        assert set(one.meta["terms"]) <= known


def test_imprecise_findings_are_informative_ancestors(lake: Lake) -> None:
    for one in clean(lake, imprecision=1.0, noise_terms_max=0):
        closure = set(shown_terms(lake.disease_closure, lake.disease_row(one.meta["disease"])).tolist())
        rows = [lake.term_row(term) for term in one.meta["terms"]]
        assert set(rows) <= closure
        specific = [row for row in rows if lake.ic[row] < LEAST_INFORMATION]
        assert all((lake.ic[lake.ancestors[row]] < LEAST_INFORMATION).all() for row in specific)


def test_frequent_findings_come_more_often(lake: Lake) -> None:
    """Among a disease's findings with known frequency, those noted are more frequent than the rest."""
    noted, rest = [], []
    for one in clean(lake, imprecision=0.0, noise_terms_max=0):
        row = lake.disease_row(one.meta["disease"])
        told = {lake.term_row(term) for term in one.meta["terms"]}
        for term, frequency in zip(
            lake.disease_profiles.terms[row], lake.disease_profiles.frequencies[row], strict=True
        ):
            if frequency > 0:
                (noted if term in told else rest).append(frequency)
    assert np.mean(noted) > np.mean(rest) + 0.05


def test_excluded_findings_are_absent_or_rare_in_the_disease(genes_task: Task, lake: Lake) -> None:
    closure = lake.disease_closure
    for one in genes_task.instances("train"):
        row = lake.disease_row(one.meta["disease"])
        frequency = dict(zip(closure.terms[row].tolist(), closure.frequencies[row].tolist(), strict=True))
        noted = {a for term in one.meta["terms"] for a in lake.ancestors[lake.term_row(term)].tolist()}
        for term in map(lake.term_row, one.meta["excluded"]):
            assert term not in noted
            own = dict(
                zip(lake.disease_profiles.terms[row].tolist(), lake.disease_profiles.frequencies[row], strict=True)
            )
            assert term not in frequency or own[term] <= 0.1


def test_candidates_share_no_disease(genes_task: Task, lake: Lake) -> None:
    for one in genes_task.instances("train"):
        linked = [int(row) for gene in one.meta["candidates"] for row in lake.diseases_of[lake.gene_row(gene)]]
        assert len(linked) == len(set(linked))


def test_candidates_alone_do_not_tell(genes_task: Task, lake: Lake) -> None:
    """Choosing by how much is known of a gene, or by place, is right as often as chance, within 4 standard errors."""
    instances, chance = genes_task.instances("train"), 1 / CONFIG.candidates
    band = 4 * np.sqrt(chance * (1 - chance) / len(instances))

    def size(gene: str) -> int:
        return len(shown_terms(lake.gene_closure, lake.gene_row(gene)))

    for choose in (lambda genes: min(genes, key=size), lambda genes: max(genes, key=size), lambda genes: genes[0]):
        right = np.mean([choose(one.meta["candidates"]) == one.meta["gene"] for one in instances])
        assert abs(right - chance) < band


def test_candidates_are_alike(genes_task: Task, lake: Lake) -> None:
    """Candidates resemble each other more than random genes of the split do."""
    simulator = PatientSimulator(lake, make_splits(lake)["train"], CONFIG)
    at = {lake.ensembl_id(gene): row for row, gene in enumerate(simulator.genes)}
    similarity = simulator.similarity
    sets = [[at[gene] for gene in one.meta["candidates"]] for one in genes_task.instances("train")[:50]]
    inside = np.mean([similarity[np.ix_(rows, rows)][~np.eye(len(rows), dtype=bool)].mean() for rows in sets])
    assert inside > 3 * similarity[~np.eye(len(similarity), dtype=bool)].mean()


def test_deeper_evidence_is_better(task: Task) -> None:
    """random < one term < all terms <= all terms and exclusions, with room between the first three."""
    instances = task.instances("train")
    score = {
        name: np.mean([task.grade(one, answer(one)) for one in instances]) for name, answer in task.baselines().items()
    }
    assert list(score) == ["random", "one_term", "overlap", "overlap_excluded"]
    assert score["random"] < 0.3 and score["random"] + 0.15 < score["one_term"]
    assert score["one_term"] + 0.15 < score["overlap"] <= score["overlap_excluded"] < 1


def test_baselines_repeat_themselves(task: Task) -> None:
    one = task.instances("dev")[0]
    assert all(answer(one) == answer(one) for answer in task.baselines().values())


def test_unknown_names_are_refused(task: Task, lake: Lake) -> None:
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        task.instances("test")
    with pytest.raises(ConfigError, match="unknown task 'riddle'"):
        get_task("riddle", lake, CONFIG, seed=0)


def test_too_many_candidates_are_refused_with_the_setting(lake: Lake) -> None:
    config = DataConfig(dev_instances=1, candidates=2000)
    with pytest.raises(ConfigError, match="data.candidates = 2000"):
        get_task("patient_gene_detection", lake, config, seed=0).instances("dev")
