"""The tasks over the real public tier: what their modules state of it, leaks between splits, and baselines.

Needs the folder that BIOMNI_DATA_MIRROR names. Numbers are those of its README and of the tasks' docstrings.
"""

import itertools
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import DATA_SETS, gold_table
from biomni_lib.lake.public import MIRROR, obtain
from biomni_lib.lake.writing import replacing, write_tables
from biomni_lib.tasks import PUBLIC_TASKS, Instance
from biomni_lib.tasks.gwas import CANDIDATES_MAX
from biomni_lib.tasks.loci import WINDOW_BP, coding_genes, curated_loci, genes_near, platform_loci
from biomni_lib.tasks.splits import SPLITS

pytestmark = pytest.mark.skipif(not os.environ.get(MIRROR), reason=f"{MIRROR} names no folder of public files")

OPEN_TARGETS, PHARMAPROJECTS, CATALOG, VARIANTS, SCREENING = PUBLIC_TASKS
GWAS = (OPEN_TARGETS, PHARMAPROJECTS, CATALOG, VARIANTS)
ALL = DataConfig(train_instances=9999, dev_instances=9999, heldout_instances=9999)
Asked = dict[str, dict[str, list[Instance]]]


@pytest.fixture(scope="module")
def real(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The bundled lake with the real public tier beside it, without the patients, which no task here reads."""
    folder = tmp_path_factory.mktemp("mirrored")
    (folder / "lake").symlink_to(lake_dir)
    for data_set in DATA_SETS:
        if data_set.name != "patients":
            files = {source: obtain(source, folder / "none", download=False) for source in data_set.sources}
            tables, arrays = data_set.build(files)
            with replacing(data_set.folder(folder / "lake")) as staging:
                write_tables(tables, staging, data_set.sources, arrays)
    return Lake.open(folder / "lake")


@pytest.fixture(scope="module")
def asked(real: Lake) -> Asked:
    """Every question, by task and split."""
    tasks = {name: task(real, ALL, 0) for name, task in PUBLIC_TASKS.items()}
    return {name: {split: task.instances(split) for split in SPLITS} for name, task in tasks.items()}


def whole(asked: Asked, name: str) -> list[Instance]:
    return [one for split in SPLITS for one in asked[name][split]]


def test_as_many_questions_as_the_modules_say(asked: Asked) -> None:
    sizes = {name: len(whole(asked, name)) for name in PUBLIC_TASKS}
    assert sizes[OPEN_TARGETS] == 866 < 947 and sizes[CATALOG] == 208 < 229
    assert sizes[PHARMAPROJECTS] == 445 < 464 and sizes[VARIANTS] == 227
    assert 570 < sizes[SCREENING] <= 600  # of 100 hits of six screens, those with a symbol of today


def test_each_split_has_its_share_of_questions_and_genes(asked: Asked) -> None:
    for name, of in ((name, of) for name in GWAS for of in ("gold", "id")):
        total = len({getattr(one, of) for one in whole(asked, name)})
        for split in ("dev", "heldout"):
            assert 0.12 < len({getattr(one, of) for one in asked[name][split]}) / total < 0.18


@pytest.mark.parametrize("name", PUBLIC_TASKS)
def test_gold_scores_one_and_every_other_candidate_nothing(real: Lake, asked: Asked, name: str) -> None:
    task = PUBLIC_TASKS[name](real, ALL, 0)
    for one in whole(asked, name):
        assert [task.grade(one, given) for given in one.meta["candidates"]].count(1.0) == 1
        assert task.grade(one, task.gold_answer(one), strict=True) == 1.0


def test_no_gene_and_no_place_is_in_two_splits(asked: Asked) -> None:
    """Over all GWAS tasks together; places are chromosomes, so no window reaches from one split into another."""
    for one, other in itertools.combinations(SPLITS, 2):
        for what in ("gene", "chromosome"):
            sets = [{each.meta[what] for name in GWAS for each in asked[name][split]} for split in (one, other)]
            assert sets[0] and sets[0].isdisjoint(sets[1])


def test_no_candidate_is_a_gold_gene_of_another_split(real: Lake, asked: Asked) -> None:
    """Of all loci whose candidates include gold genes, those of other splits: none."""
    split_of = {one.meta["gene"]: split for name in GWAS for split in SPLITS for one in asked[name][split]}
    strange = [
        symbol
        for name in (OPEN_TARGETS, PHARMAPROJECTS, CATALOG)
        for split in SPLITS
        for one in asked[name][split]
        for symbol in one.meta["candidates"]
        if split_of.get(real.genome.ensembl_id(real.genome.gene_row(symbol)), split) != split
    ]
    assert strange == []


def test_no_study_is_in_two_splits_and_hits_are_not_shared(asked: Asked) -> None:
    studies = [{one.meta["study"] for one in asked[SCREENING][split]} for split in SPLITS]
    hits = [Counter(one.gold for one in asked[SCREENING][split]) for split in SPLITS]
    for one, other in itertools.combinations(range(3), 2):
        assert studies[one].isdisjoint(studies[other])
        assert len(hits[one] & hits[other]) < 0.05 * len(hits[other])


def test_the_third_gene_task_shares_neither_gene_nor_place_with_the_others(real: Lake, asked: Asked) -> None:
    others = whole(asked, OPEN_TARGETS) + whole(asked, PHARMAPROJECTS)
    assert {one.meta["gene"] for one in others}.isdisjoint({one.meta["gene"] for one in whole(asked, CATALOG)})
    sentinels = [(one.chromosome, one.position) for one in curated_loci(real)]
    for locus in platform_loci(real):
        assert min(abs(at - locus.position) for on, at in sentinels if on == locus.chromosome) > WINDOW_BP
    assert {one.set_label for one in platform_loci(real)} == {"ot_platform"}


def test_nearest_gene_of_all_genes_is_right_as_often_as_the_mirror_says(real: Lake) -> None:
    """47.4% of 935; a few percent turn on which of overlapping genes is named."""
    records = gold_table(real.lake_dir, "gwas_genes", "gold_standards_2019").to_pylist()
    firm = {
        (record["chromosome"], record["position"], record["trait"], record["ensembl_id"])
        for record in records
        if record["confidence"] != "Low"
    }
    near = [(gene, genes_near(real.genome, chromosome, at)[0]) for chromosome, at, _, gene in firm]
    inside = [(gene, [real.genome.ensembl_id(row) for row in rows]) for gene, rows in near]
    inside = [(gene, ids) for gene, ids in inside if gene in ids]
    assert len(firm) == 947 and len(inside) == 935
    assert np.mean([ids[0] == gene for gene, ids in inside]) == pytest.approx(0.474, abs=0.015)


def test_the_cap_hardly_moves_the_gold_among_the_candidates(real: Lake) -> None:
    """How often the gold is nearest, and farthest, with and without the cap."""
    coding, genome = coding_genes(real.genome), real.genome
    ranks = []
    for locus in curated_loci(real):
        rows = genes_near(genome, locus.chromosome, locus.position)[0]
        rows = rows[coding[rows]].tolist()
        ranks.append((rows.index(locus.gene), len(rows)))
    kept = [(rank, min(size, CANDIDATES_MAX)) for rank, size in ranks if rank < CANDIDATES_MAX]
    nearest = [np.mean([rank == 0 for rank, _ in some]) for some in (ranks, kept)]
    assert 0 <= nearest[1] - nearest[0] < 0.005
    cut = [rank for rank, size in ranks if rank < CANDIDATES_MAX < size]
    assert cut.count(CANDIDATES_MAX - 1) < 0.05 * len(cut)


@pytest.mark.parametrize("name", GWAS)
def test_no_line_before_the_candidates_names_the_gene(real: Lake, asked: Asked, name: str) -> None:
    for one in whole(asked, name):
        symbol = real.genome.symbol_of(int(one.meta["gene"].removeprefix("ENSG")))
        if not symbol:  # a gene of one sentinel is not in the gene table
            continue
        before = re.split(r"\n(?:Candidate genes|Variants): ", one.prompt)[0]
        assert not re.search(rf"\b{re.escape(symbol)}\b", before.partition("\n")[2], re.IGNORECASE)


@pytest.mark.parametrize("name", PUBLIC_TASKS)
def test_place_in_the_list_tells_nothing(asked: Asked, name: str) -> None:
    """First half as often as second; where all lists are as long, each place as often as any other."""
    first, last = 0, 0
    for one in whole(asked, name):
        at, size = one.meta["candidates"].index(one.gold), len(one.meta["candidates"])
        first, last = first + (2 * at + 1 < size), last + (2 * at + 1 > size)
    assert stats.chisquare([first, last]).pvalue > 0.01
    if name in (VARIANTS, SCREENING):
        places = Counter(one.meta["candidates"].index(one.gold) for one in whole(asked, name))
        assert stats.chisquare([places[at] for at in range(len(one.meta["candidates"]))]).pvalue > 0.01


@pytest.mark.parametrize("name", PUBLIC_TASKS)
def test_no_baseline_solves_a_task(real: Lake, asked: Asked, name: str) -> None:
    """On held-out: the place of a curated locus tells much, everything else little."""
    task, questions = PUBLIC_TASKS[name](real, ALL, 0), asked[name]["heldout"]
    rates = {
        by: np.mean([task.grade(one, answer(one)) for one in questions]) for by, answer in task.baselines().items()
    }
    assert rates["random"] < 0.3 and max(rates.values()) < 0.7
    if name == OPEN_TARGETS:
        assert max(rates, key=lambda by: rates[by]) == "nearest_gene" and rates["nearest_gene"] > 0.45
    if name in (VARIANTS, SCREENING):
        assert max(rates.values()) < 0.3
