"""The genome beside the bundled lake: look-ups against their definition, and how it is opened or refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import DataError
from biomni_lib.lake import Lake, lake_version, read_lake_manifest
from biomni_lib.lake.cards import CARDS, data_cards
from biomni_lib.lake.datasets import DATA_SETS
from biomni_lib.lake.genome import Genome
from biomni_lib.lake.manifest import genome_dir
from biomni_lib.sandbox.root import visible_paths

POSITIONS = st.integers(1, 50_000_000)


@pytest.fixture(scope="module")
def genome(public_lake: Lake) -> Genome:
    return public_lake.genome


def test_the_bundled_lake_is_the_same_with_and_without_a_genome(lake_dir: Path, public_lake_dir: Path) -> None:
    assert read_lake_manifest(lake_dir) == read_lake_manifest(public_lake_dir)
    assert lake_version(lake_dir) == read_lake_manifest(lake_dir).arrays_sha256 != lake_version(public_lake_dir)


def test_without_a_genome_the_remedy_is_named(lake: Lake) -> None:
    assert not lake.has_genome
    with pytest.raises(DataError, match="not built; run `make data`"):
        _ = lake.genome


def test_an_altered_genome_is_refused(public_lake_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(public_lake_dir, tmp_path / "lake")
    shutil.copytree(genome_dir(public_lake_dir), genome_dir(tmp_path / "lake"))
    path = genome_dir(tmp_path / "lake") / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"arrays\.npz has sha256 .*make data"):
        Lake.open(tmp_path / "lake")


def test_a_session_sees_no_answers(public_lake_dir: Path) -> None:
    answers = [data_set.folder(public_lake_dir) for data_set in DATA_SETS if data_set.name != "genome"]
    for path in visible_paths(public_lake_dir):
        assert not any(answer.is_relative_to(path) for answer in answers)


def test_genes_are_found_by_id_symbol_and_unambiguous_synonym(genome: Genome) -> None:
    row = genome.gene_row("ENSG00000141736")
    assert row == genome.gene_row("ERBB2") == genome.gene_row("erbb2 ") == genome.gene_row("Her2")
    assert genome.ensembl_id(row) == "ENSG00000141736" and genome.synonyms_of(row) == ["HER-2", "HER2"]


def test_a_symbol_of_two_genes_stands_for_the_lower_id(genome: Genome) -> None:
    assert genome.ensembl_id(genome.gene_row("TWICE")) == "ENSG00000000022"
    assert [genome.ensembl_id(row) for row, _ in genome.genes_named("twice")] == ["ENSG00000000022", "ENSG00000000033"]


def test_a_synonym_of_two_genes_is_refused_with_their_names(genome: Genome) -> None:
    with pytest.raises(ValueError, match=r"'PD1' is a synonym of several genes \(SNCA, PDCD1\)"):
        genome.gene_row("PD1")


@given(st.text() | st.integers() | st.none())
def test_unknown_genes_are_refused_shortly(public_lake: Lake, name: object) -> None:
    with pytest.raises(ValueError, match="unknown gene") as caught:
        public_lake.genome.gene_row(name)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 120


@given(st.sampled_from(["15", "17", "4", "19"]), POSITIONS, POSITIONS)
def test_genes_of_a_region_are_those_that_overlap_it(public_lake: Lake, name: str, one: int, other: int) -> None:
    genome = public_lake.genome
    code, (start, end) = genome.chromosome_code(name), sorted((one, other))
    on = [row for row in range(len(genome.ensembl_ids)) if genome.gene_chromosomes[row] == code]
    expected = [row for row in on if not (genome.gene_ends[row] < start or genome.gene_starts[row] > end)]
    assert sorted(genome.genes_between(code, start, end).tolist()) == expected
    rows, distances = genome.distances(code, start)
    assert sorted(rows.tolist()) == on
    inside = (genome.gene_starts[rows] <= start) & (start <= genome.gene_ends[rows])
    np.testing.assert_array_equal(distances == 0, inside)


def test_a_gene_next_door_is_one_base_away(genome: Genome) -> None:
    rows, distances = genome.distances(genome.chromosome_code("chr15"), 48408312)  # FBN1 begins at 48408313
    assert dict(zip(rows.tolist(), distances.tolist(), strict=True))[genome.gene_row("FBN1")] == 1


def test_chromosomes_have_several_spellings(genome: Genome) -> None:
    assert genome.chromosome_code("chrX") == genome.chromosome_code("x") == genome.chromosome_code(" X ")
    assert genome.chromosome_code("chrM") == genome.chromosome_code("MT")
    with pytest.raises(ValueError, match=r"unknown chromosome '23'"):
        genome.chromosome_code("23")


def test_variants_are_sorted_and_found_by_either_id(genome: Genome) -> None:
    rows = genome.variants_between(genome.chromosome_code("19"), 44907843, 44908791)
    assert [int(genome.variant_positions[row]) for row in rows] == [44907843, 44908791]
    assert len(genome.variants_between(genome.chromosome_code("19"), 44907844, 44908790)) == 0
    (sickle,) = genome.variants_with(334, "rsid")
    assert genome.variants_with(15333, "clinvar_id").tolist() == [sickle]
    assert genome.chromosome_of_variant(sickle) == "11" and genome.variants_with(335, "rsid").size == 0


def test_expression_comes_from_a_symbols_first_line_in_its_order(genome: Genome) -> None:
    albumin = genome.expression[genome.gene_row("ALB")]
    assert [genome.tissues[int(at)] for at in genome.expression_tissues[albumin]] == ["Liver", "Whole Blood"]
    assert genome.expression_summaries[albumin, 2].tolist() == pytest.approx([25200.0, 0.17])
    assert len(genome.expression[genome.gene_row("TP53")]) == 0


def test_every_source_has_a_card_with_its_rows(public_lake_dir: Path) -> None:
    cards = data_cards(public_lake_dir)
    assert {card["source"] for card in cards} == set(CARDS)
    assert all(card["known limits"] and card["citation"] and card["licence"] and card["version"] for card in cards)
    (genes,) = [card for card in cards if card["source"] == "ideogram gene cache"]
    assert genes["rows"] == 14 and genes["tables"] == "genes 14" and genes["data set"] == "genome"


def test_a_lake_alone_has_the_cards_of_its_four_sources(lake_dir: Path) -> None:
    assert len(data_cards(lake_dir)) == 4
