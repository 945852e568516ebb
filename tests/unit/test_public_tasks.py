"""The tasks over the public tier, on a toy whose right answers are known by construction."""

import collections
import re
import shutil
from pathlib import Path

import pytest
from scipy import stats

from biomni_lib.config import DataConfig
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.lake import Lake, lake_version
from biomni_lib.lake.public import MIRROR, SCREENS
from biomni_lib.tasks import PUBLIC_TASKS, Instance, data_lacking, refuse_evaluation_only, task_names
from biomni_lib.tasks.gene_baselines import read_prompt
from biomni_lib.tasks.gene_split import split_of_chromosome
from biomni_lib.tasks.gwas import CANDIDATES_MAX
from biomni_lib.tasks.loci import WINDOW_BP, coding_genes, curated_loci, genes_near, platform_loci
from biomni_lib.tasks.screens import CANDIDATES, STUDIES
from biomni_lib.tasks.splits import SPLITS
from tests.toy_gwas import CHROMOSOMES, GENES, build_toy, ensembl_id, ranked_genes, start

CONFIG = DataConfig(train_instances=500, dev_instances=500, heldout_instances=500)
OPEN_TARGETS, PHARMAPROJECTS, CATALOG, VARIANTS, SCREENING = PUBLIC_TASKS


@pytest.fixture(scope="module")
def toy_dir(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(lake_dir, folder / "lake")
    build_toy(folder / "lake", folder / "files")
    return folder / "lake"


@pytest.fixture(scope="module")
def toy(toy_dir: Path) -> Lake:
    return Lake.open(toy_dir)


def asked(lake: Lake, name: str, split: str = "train", seed: int = 0, config: DataConfig = CONFIG) -> list[Instance]:
    return PUBLIC_TASKS[name](lake, config, seed).instances(split)


def everything(lake: Lake, name: str) -> list[Instance]:
    return [one for split in SPLITS for one in asked(lake, name, split)]


each_task = pytest.mark.parametrize("name", PUBLIC_TASKS)


@each_task
def test_gold_scores_one_and_every_other_candidate_nothing(toy: Lake, name: str) -> None:
    task = PUBLIC_TASKS[name](toy, CONFIG, 0)
    for one in everything(toy, name):
        answer = task.gold_answer(one)
        assert task.grade(one, answer) == task.grade(one, answer, strict=True) == 1.0
        lines, candidates = read_prompt(task.prompt(one))
        assert candidates == one.meta["candidates"] and len(set(candidates)) == len(candidates) >= 2
        assert answer in candidates
        assert not any(task.grade(one, other) for other in candidates if other != answer)
        assert task.grade(one, ", ".join(candidates)) == task.grade(one, None) == 0.0


@each_task
def test_same_seed_same_questions_and_counts_do_not_matter(toy: Lake, name: str) -> None:
    few = DataConfig(train_instances=9, dev_instances=5, heldout_instances=5)
    again, other = asked(toy, name, config=few), asked(toy, name, seed=1)
    assert again == asked(toy, name)[:9]
    assert [one.prompt for one in other] != [one.prompt for one in asked(toy, name)]
    assert sorted(one.gold for one in other) == sorted(one.gold for one in asked(toy, name))
    for split in ("dev", "heldout"):
        assert asked(toy, name, split, seed=1) == asked(toy, name, split)
        assert asked(toy, name, split, config=few) == asked(toy, name, split)[:5]


@each_task
def test_ids_are_unique_and_of_no_benchmark(toy: Lake, name: str) -> None:
    ids = [one.id for one in everything(toy, name)]
    assert ids and len(set(ids)) == len(ids)
    refuse_evaluation_only(ids, "a test")


@each_task
def test_order_of_candidates_tells_nothing(toy: Lake, name: str) -> None:
    """The gold stands in the first half of a list as often as in the second, over many seeds."""
    places = collections.Counter[bool]()
    for seed in range(12):
        for one in asked(toy, name, seed=seed):
            candidates = one.meta["candidates"]
            at = candidates.index(one.gold)
            if 2 * at + 1 != len(candidates):
                places[2 * at + 1 < len(candidates)] += 1
    assert stats.chisquare([places[True], places[False]]).pvalue > 0.001


@each_task
def test_an_unknown_split_is_refused(toy: Lake, name: str) -> None:
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        asked(toy, name, "test")


@each_task
def test_baselines_answer_with_a_candidate_and_repeat_themselves(toy: Lake, name: str) -> None:
    one = asked(toy, name, "dev")[0]
    baselines = PUBLIC_TASKS[name](toy, CONFIG, 0).baselines()
    assert "random" in baselines
    for answer in baselines.values():
        assert answer(one) == answer(one) and answer(one) in one.meta["candidates"]


@each_task
def test_without_its_data_a_task_is_refused_with_the_remedy(lake: Lake, name: str) -> None:
    with pytest.raises(DataError, match="run `make data`"):
        PUBLIC_TASKS[name](lake, CONFIG, 0)


def test_what_is_lacking_is_said_by_name(lake_dir: Path, toy_dir: Path, tmp_path: Path) -> None:
    assert data_lacking(toy_dir) == dict.fromkeys(PUBLIC_TASKS, "")
    lacking = data_lacking(lake_dir)
    assert list(lacking) == list(PUBLIC_TASKS)
    assert all("make data" in text and MIRROR in text for text in lacking.values())
    shutil.copytree(toy_dir, tmp_path / "lake")
    shutil.copytree(toy_dir.with_name("lake-public"), tmp_path / "lake-public")
    shutil.copytree(toy_dir.with_name("lake-gold") / "screens", tmp_path / "lake-gold" / "screens")
    assert [name for name, text in data_lacking(tmp_path / "lake").items() if not text] == [SCREENING]
    assert "gwas_genes, drug_targets are not built" in data_lacking(tmp_path / "lake")[CATALOG]


def test_they_are_found_by_name() -> None:
    assert set(PUBLIC_TASKS) <= set(task_names())


def test_prompts_have_the_asked_shape(toy: Lake) -> None:
    genes, last = r"Candidate genes: \w+(, \w+)+\n", r"Output format: only the gene symbol"
    place = r"chromosome \w+, {}position \d+ \(GRCh38\)\n"
    locus = r"Task: .+\.\nTrait: .+\nLocus: " + place.format("") + genes + last
    shapes = {
        OPEN_TARGETS: locus,
        CATALOG: locus,
        PHARMAPROJECTS: r"Task: .+\.\nDisease: .+\nRegion: " + place.format("around ") + genes + last,
        VARIANTS: r"Task: .+\.\nTrait: .+\nVariants: (rs\d+ \(\w+:\d+\)(, |\n)){8}Output format: only the rsID",
        SCREENING: r"Task: .+\.\nScreen: .+\nMeasured: .+\n" + genes + last,
    }
    for name, shape in shapes.items():
        assert all(re.fullmatch(shape, one.prompt) for one in everything(toy, name))


def test_questions_lie_in_the_split_of_their_chromosome(toy: Lake) -> None:
    assert [split_of_chromosome(chromosome) for chromosome in CHROMOSOMES] == list(SPLITS)
    for name in (OPEN_TARGETS, PHARMAPROJECTS, CATALOG, VARIANTS):
        for split, chromosome in zip(SPLITS, CHROMOSOMES, strict=True):
            assert {one.meta["chromosome"] for one in asked(toy, name, split)} == {chromosome}


def test_screens_lie_in_the_split_of_their_study(toy: Lake) -> None:
    for split, studies in STUDIES.items():
        names = {one.meta["screen"] for one in asked(toy, SCREENING, split)}
        assert names == {name for name, study in SCREENS.items() if study in studies}


def test_curated_loci_are_the_confident_ones_with_one_gene_near(toy: Lake) -> None:
    found = {(one.chromosome, one.position, one.trait, toy.genome.ensembl_id(one.gene)) for one in curated_loci(toy)}
    assert found == {(c, start(n) + 30_000, f"trait {n}", ensembl_id(c, n)) for c in CHROMOSOMES for n in range(10)}


def test_platform_loci_share_neither_gene_nor_place_with_the_other_tasks(toy: Lake) -> None:
    """Gene 3 is used, gene 12 is a drug target, another set is not read; only gene 25 is left."""
    loci = platform_loci(toy)
    assert {toy.genome.symbols[one.gene] for one in loci} == {f"G{c}_25" for c in CHROMOSOMES}
    traits = {one.position - start(25): one.trait for one in loci}
    assert traits == {0: "trait 3", 1: "Seizure", 2: "told", 3: "MONDO_2"}  # 2019, HPO, genetic_support, unknown


def test_genes_near_are_sorted_and_within_the_window(toy: Lake) -> None:
    rows, distances = genes_near(toy.genome, "4", start(10))
    assert toy.genome.symbols[rows[0]] == "G4_10" and list(distances) == sorted(distances)
    assert distances[0] == 0 and distances[-1] <= WINDOW_BP
    # G4_5 begins 500 kb before and ends 20 kb later; G4_15 begins 500 kb behind; two RNA genes lie between
    assert {toy.genome.symbols[row] for row in rows} == {f"G4_{n}" for n in range(5, 16)} | {"MIR4_5", "MIR4_10"}


def test_rna_genes_and_pseudogenes_are_told_by_their_description(toy: Lake) -> None:
    coding = coding_genes(toy.genome)
    assert coding.sum() == GENES * len(CHROMOSOMES)
    assert all(toy.genome.symbols[row].startswith("G") == kept for row, kept in enumerate(coding))


def test_candidates_of_a_locus_depend_on_the_place_alone(toy: Lake) -> None:
    task = PUBLIC_TASKS[OPEN_TARGETS](toy, CONFIG, 0)
    for one in everything(toy, OPEN_TARGETS):
        rows = genes_near(toy.genome, one.meta["chromosome"], one.meta["position"])[0]
        coding = [toy.genome.symbols[row] for row in rows if toy.genome.symbols[row].startswith("G")]
        assert sorted(one.meta["candidates"]) == sorted(coding[:CANDIDATES_MAX])
    nearest = task.baselines()["nearest_gene"]
    assert all(nearest(one) == one.gold for one in everything(toy, OPEN_TARGETS))  # every sentinel is 10 kb behind its


def test_every_target_is_asked_once_and_other_targets_are_no_candidates(toy: Lake) -> None:
    for split, c in zip(SPLITS, CHROMOSOMES, strict=True):
        questions = asked(toy, PHARMAPROJECTS, split)
        assert sorted((one.gold, one.meta["trait"]) for one in questions) == sorted(
            (f"G{c}_{n}", f"disease{n}") for n in range(15)
        )
        assert all(f"G{c}_1" not in one.meta["candidates"] for one in questions if one.meta["trait"] == "disease0")
        assert all(
            abs(start(int(one.gold.split("_")[1])) + 9_999 - one.meta["position"]) <= WINDOW_BP for one in questions
        )


def test_place_of_a_region_does_not_tell_the_target(toy: Lake) -> None:
    """The rank of the target by distance, among regions in the middle of the targets' range: all ranks alike."""
    ranks = collections.Counter[int]()
    for seed in range(100):
        for one in asked(toy, PHARMAPROJECTS, seed=seed):
            middles = {name: start(int(name.split("_")[1])) + 9_999 for name in one.meta["candidates"]}
            if start(5) <= one.meta["position"] <= start(9) and len(middles) == 10:
                order = sorted(middles, key=lambda name, at=one.meta["position"]: abs(middles[name] - at))
                ranks[order.index(one.gold)] += 1
    assert sum(ranks.values()) > 250
    assert stats.chisquare([ranks[rank] for rank in range(10)]).pvalue > 0.001


def test_variants_are_sentinels_of_other_traits(toy: Lake) -> None:
    for split, c in zip(SPLITS, CHROMOSOMES, strict=True):
        questions = asked(toy, VARIANTS, split)
        own = {one.gold: one.meta["trait"] for one in questions}
        assert set(own) == {f"rs{1000 * int(c) + n}" for n in range(10)}
        for one in questions:
            assert [own[rsid] for rsid in one.meta["candidates"]].count(one.meta["trait"]) == 1


def test_screens_ask_for_a_hit_among_genes_of_the_weaker_half(toy: Lake) -> None:
    asked_hits = collections.defaultdict(set)
    for one in everything(toy, SCREENING):
        ranked = ranked_genes(one.meta["screen"])
        asked_hits[one.meta["screen"]].add(one.gold)
        assert len(one.meta["candidates"]) == CANDIDATES
        assert set(one.meta["candidates"]) - {one.gold} <= set(ranked[40:])
    assert asked_hits == {name: set(ranked_genes(name)[:20]) for name in SCREENS if name != "Scharenberg22"}


def test_majority_knows_training_hits_alone(toy: Lake) -> None:
    task = PUBLIC_TASKS[SCREENING](toy, CONFIG, 0)
    hits = {one.gold for one in task.instances("train")}
    for one in task.instances("heldout"):
        known = [gene for gene in one.meta["candidates"] if gene in hits]
        assert not known or task.baselines()["majority"](one) in known


def test_tools_read_nothing_that_holds_answers(toy: Lake, toy_dir: Path, tmp_path: Path) -> None:
    """What a session opens is the same without the answers, and a prompt names the gold among the candidates alone."""
    shutil.copytree(toy_dir, tmp_path / "lake")
    shutil.copytree(toy_dir.with_name("lake-public"), tmp_path / "lake-public")
    assert lake_version(tmp_path / "lake") == lake_version(toy_dir)
    assert Lake.open(tmp_path / "lake").genome.manifest == toy.genome.manifest
    for name in (OPEN_TARGETS, PHARMAPROJECTS, CATALOG, SCREENING):
        assert not any(one.gold in one.prompt.split("Candidate genes")[0] for one in everything(toy, name))
