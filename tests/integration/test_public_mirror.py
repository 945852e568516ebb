"""The real files of the public tier: what they are known to hold must come out of the readers.

Needs the folder that BIOMNI_DATA_MIRROR names. The counts are those that its README states.
"""

import collections
import os
import statistics
from pathlib import Path

import pytest

from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import DATA_SETS, build_public, gold_table, public_manifests
from biomni_lib.lake.public import MIRROR, SCREENS
from biomni_lib.tools import tool_functions

pytestmark = pytest.mark.skipif(not os.environ.get(MIRROR), reason=f"{MIRROR} names no folder of public files")


@pytest.fixture(scope="module")
def mirrored(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled lake with the real public tier beside it."""
    folder = tmp_path_factory.mktemp("mirrored")
    (folder / "lake").symlink_to(lake_dir)
    assert build_public(folder / "lake", folder / "downloads", download=False) == {}
    return folder / "lake"


@pytest.fixture(scope="module")
def patients(mirrored: Path) -> list[dict]:
    """Patients with at least three findings and one gene."""
    rows = gold_table(mirrored, "patients", "patients").to_pylist()
    assert len(rows) == len({row["id"] for row in rows}) == 10_580
    return [row for row in rows if len(row["present"]) >= 3 and row["gene_symbol"]]


def associations(mirrored: Path) -> dict[tuple, str]:
    """Best confidence of each distinct locus, trait and gene of 2019."""
    best: dict[tuple, str] = {}
    for row in gold_table(mirrored, "gwas_genes", "gold_standards_2019").to_pylist():
        key = (row["chromosome"], row["position"], row["trait"], row["ensembl_id"])
        best[key] = min(best.get(key, "Low"), row["confidence"], key=["High", "Medium", "Low"].index)
    return best


def test_every_data_set_is_built(mirrored: Path) -> None:
    manifests = public_manifests(mirrored)
    assert set(manifests) == {data_set.name for data_set in DATA_SETS}
    assert manifests["genome"].tables["genes"].rows == 32_075
    assert manifests["genome"].tables["pathogenic_variants"].rows == 72_582


def test_patients_of_known_number(patients: list[dict]) -> None:
    assert len(patients) == 9_255
    assert len({row["omim"] for row in patients}) == 777
    assert len({row["gene_hgnc"] for row in patients}) == 699


def test_patients_whose_papers_the_annotations_cite(mirrored: Path, patients: list[dict]) -> None:
    """A disease look-up has seen 4,422; 2,799 patients of 245 annotated diseases are free of that."""
    annotations = Lake.open(mirrored).table("disease_phenotypes", ["omim", "reference", "aspect"]).to_pylist()
    findings = [row for row in annotations if row["aspect"] == "P"]
    cited = {(row["omim"], reference) for row in findings for reference in row["reference"].split(";")}
    annotated = {omim for omim, _ in cited}
    assert sum((row["omim"], row["pmid"]) in cited for row in patients) == 4_422
    free = [row for row in patients if row["omim"] in annotated and (row["omim"], row["pmid"]) not in cited]
    assert len(free) == 2_799 and len({row["omim"] for row in free}) == 245


def test_gold_standards_of_known_number_and_place(mirrored: Path) -> None:
    best, genome = associations(mirrored), Lake.open(mirrored).genome
    firm = [key for key, confidence in best.items() if confidence != "Low"]
    assert len(best) == 1_421 and len(firm) == 947
    alone, tied, inside, sizes = 0, 0, 0, []
    for chromosome, position, _, gene in firm:
        rows, distances = genome.distances(genome.chromosome_code(chromosome), position)
        window = [genome.ensembl_id(row) for row in rows[distances <= 500_000]]
        sizes.append(len(window))
        inside += gene in window
        nearest = [genome.ensembl_id(row) for row in rows[distances == distances.min()]]
        alone += nearest == [gene]
        tied += gene in nearest
    assert inside == 935 and statistics.median(sizes) == 16
    assert alone <= round(0.474 * len(firm)) <= tied  # genes that overlap are equally near, and one has to be named


def test_rsids_are_those_of_one_set(mirrored: Path) -> None:
    rows = gold_table(mirrored, "gwas_genes", "gold_standards_2019").to_pylist()
    assert {row["set_label"] for row in rows if row["rsid"]} == {"ProGeM"}
    assert sum(bool(row["rsid"]) for row in rows) == 227


def test_supported_targets_and_the_genes_that_two_sources_share(mirrored: Path) -> None:
    rows = gold_table(mirrored, "drug_targets", "supported_targets").to_pylist()
    genes = {row["gene"] for row in rows}
    assert len({row["ti_uid"] for row in rows}) == len(rows) == 464 and len(genes) == 234
    genome = Lake.open(mirrored).genome
    gold = {gene for (_, _, _, gene), confidence in associations(mirrored).items() if confidence != "Low"}
    assert len({genome.ensembl_id(genome.gene_row(gene)) for gene in genes} & gold) == 82


def test_screens_of_one_study_share_their_strongest_genes(mirrored: Path) -> None:
    scores: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for row in gold_table(mirrored, "screens", "scores").to_pylist():
        scores[row["screen"]][row["gene"]] = row["score"]
    strongest = {name: set(sorted(of, key=lambda g, of=of: -abs(of[g]))[:100]) for name, of in scores.items()}
    assert set(scores) == set(SCREENS) and sum(len(of) > 18_000 for of in scores.values()) == 6
    assert len(strongest["IL2"] & strongest["IFNG"]) == 36
    assert len(strongest["Sanchez21"] & strongest["Sanchez21_down"]) == 26


def test_tools_answer_small_values_on_the_real_genome(mirrored: Path) -> None:
    tools = tool_functions(Lake.open(mirrored))
    assert tools["gene_info"]("BRCA2") == {
        "ensg": "ENSG00000139618",
        "symbol": "BRCA2",
        "description": "BRCA2 DNA repair associated",
        "chromosome": "13",
        "start": 32315086,
        "end": 32400268,
        "length": 85183,
    }
    locus = tools["genes_in_region"]("17", 7_161_779, 8_161_779)
    assert "TP53" in [symbol for _, symbol, _, _ in locus] and len(repr(locus)) < 6_000
    assert len(repr(tools["variants_in_region"]("17", 7_661_779, 7_687_538, top=100))) < 10_000
    assert tools["count_pathogenic_variants"]("BRCA2") > 1_000
    assert tools["variant_info"]("rs334")[0]["genes"] == ["HBB"]
