"""The readers of the public tier, on a few rows in each format."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import DataError
from biomni_lib.lake import gene_caches, gold_files, phenopackets, public
from tests.toy_public import association, phenopacket, write_archive, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return write_files(tmp_path_factory.mktemp("toy"))


def test_genes_are_sorted_and_end_where_the_last_base_is(files: dict) -> None:
    genes = gene_caches.read_genes(files[public.GENES])
    assert [gene.ensembl_id for gene in genes] == sorted(gene.ensembl_id for gene in genes)
    (kras,) = [gene for gene in genes if gene.symbol == "KRAS"]
    assert kras == gene_caches.Gene(
        "ENSG00000133703", "KRAS", "12", 25205246, 25205246 + 45690, "KRAS proto-oncogene, GTPase"
    )


def test_a_pointer_shares_the_family_that_it_names(files: dict) -> None:
    families, family_of = gene_caches.read_paralogs(files[public.PARALOGS])
    p53, p63, p73 = (f"ENSG{number:011d}" for number in (141510, 73282, 78900))
    assert families[family_of[p53]] == {p53, p63, p73}
    assert family_of[p53] == family_of[p63] == family_of[p73] != family_of["ENSG00000000005"]


def test_a_pointer_to_an_unknown_gene_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.gz").write_bytes(gzip.compress(b"TP63\t73282\t_TP53\t141510\n"))
    with pytest.raises(DataError, match=r"p\.gz is not the gene cache expected .*KeyError.*make data"):
        gene_caches.read_paralogs(tmp_path / "p.gz")


def test_zeros_that_the_tissue_cache_leaves_out_are_put_back(files: dict) -> None:
    assert gene_caches.read_tissues(files[public.TISSUES]) == [("Liver", 226), ("Whole Blood", 755)]
    first, second, third, fourth, *_ = gene_caches.read_expression(files[public.TISSUES])
    assert first == gene_caches.Expression("ALB", 0, 2128.0, 15467.5, 25200.0, 37800.0, 99050.0)
    assert second == gene_caches.Expression("ALB", 1, 0, 0, 0.17, 0.32, 1.22)  # minimum and q1 left out
    assert third == gene_caches.Expression("KRAS", 1, 1, 2, 3, 4, 5)
    assert fourth == gene_caches.Expression("KRAS", 0, 0, 0, 0.02, 0.03, 0.3)  # minimum left out, q1 blank


@given(st.lists(st.floats(0, 1e6), min_size=5, max_size=5), st.integers(0, 5))
def test_a_summary_is_read_back_whatever_zeros_are_dropped(numbers: list[float], dropped: int) -> None:
    box = [0.0] * dropped + sorted(numbers)[dropped:]
    entry = ";".join(["7", *map(repr, box[dropped:]), *["1"] * gene_caches.HISTOGRAM_BINS])
    assert gene_caches._summary(entry) == (7, *box)


def test_variant_codes_are_spelled_out_and_absent_values_stay_absent(files: dict) -> None:
    sickle, *_, mitochondrial = gene_caches.read_variants(files[public.VARIANTS])
    assert (sickle.chromosome, sickle.position, sickle.rsid, sickle.allele_frequency) == ("11", 5227002, 334, 0.00438)
    assert sickle.significance == "Pathogenic" and sickle.review_status.endswith("no_conflicts")
    assert (mitochondrial.rsid, mitochondrial.allele_frequency) == (0, None)
    assert mitochondrial.significance == "Likely_pathogenic"
    assert mitochondrial.review_status == "reviewed_by_expert_panel"


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"17\tseven\t1\t2\tA\tb\n"), gzip.compress(b"17\t1\n")])
def test_another_file_is_no_gene_cache(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cache.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"cache\.gz is not the gene cache expected .*make data"):
        gene_caches.read_genes(tmp_path / "cache.gz")


def test_a_trait_without_a_curated_name_has_the_studys(tmp_path: Path) -> None:
    curated = association(1, "ENSG1", "High", standard_trait_name="Height", reported_trait_name="tall", ontology=["E"])
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join([curated, association(2, "ENSG2", "Low", reported_trait_name="tall")]))
    first, second = gold_files.read_gold_standards(path)
    assert (first.trait, first.reported_trait, first.ontology) == ("Height", "tall", ("E",))
    assert (second.trait, second.position, second.confidence, second.curators) == ("tall", 2, "Low", ("Ada",))
    assert second.set_label == "toy" and second.rsid == ""


def test_a_malformed_record_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(association(1, "ENSG1", "High") + "\n{}\n")
    with pytest.raises(DataError, match=r"gold\.jsonl line 2 is malformed .*KeyError.*make data"):
        gold_files.read_gold_standards(path)


def test_columns_have_their_types_and_empty_fields_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\tc\td\nx\t1\t0.5\tTRUE\n\t\t\t\n")
    columns = {"a": str, "b": int, "c": float, "d": bool}
    assert [tuple(row.values()) for row in gold_files.read_table(path, columns)] == [
        ("x", 1, 0.5, True),
        ("", None, None, None),
    ]
    with pytest.raises(DataError, match=r"t\.tsv line 2 is malformed \(KeyError: 'e'\)"):
        gold_files.read_table(path, {"e": str})
    path.write_text("d\nYES\n")
    with pytest.raises(DataError, match="line 2"):
        gold_files.read_table(path, {"d": bool})


def test_screens_skip_whatever_header_they_have(tmp_path: Path) -> None:
    path = tmp_path / "screen.csv"
    path.write_text("0,1\nA1BG,8.5\nA1CF,-1e-3\n")
    assert list(gold_files.read_screen(path)) == [("A1BG", 8.5), ("A1CF", -0.001)]
    path.write_text("Gene,Score\nA1BG,high\n")
    with pytest.raises(DataError, match=r"screen\.csv line 2"):
        list(gold_files.read_screen(path))


def test_a_question_states_task_and_measurement(tmp_path: Path) -> None:
    path = tmp_path / "question.json"
    path.write_text(json.dumps({"Task": "find it ", "Measurement": "change"}))
    assert gold_files.read_question(path) == ("find it", "change")
    path.write_text("[]")
    with pytest.raises(DataError, match=r"question\.json"):
        gold_files.read_question(path)


def test_a_patient_has_findings_disease_gene_and_paper(files: dict) -> None:
    first, second = phenopackets.read_patients(files[public.PHENOPACKETS])
    assert first == phenopackets.Patient(
        id="a",
        cohort="FBN1",
        omim=154700,
        disease="Marfan syndrome",
        gene_hgnc="HGNC:3603",
        gene_symbol="FBN1",
        pmid="PMID:1",
        sex="FEMALE",
        present=("HP:0000000", "HP:0000001", "HP:0000002"),
        excluded=("HP:0000900",),
    )
    assert (second.gene_hgnc, second.gene_symbol) == ("", "")


def test_the_cases_count_not_the_archive_that_holds_them(tmp_path: Path) -> None:
    one, two = phenopacket("a"), phenopacket("b")
    release = write_archive(tmp_path / "r.zip", {"0.1/FBN1/a.json": one, "0.1/FBN1/b.json": two})
    repository = {"x-1/notebooks/FBN1/phenopackets/b.json": two, "x-1/notebooks/FBN1/phenopackets/a.json": one}
    packed = write_archive(tmp_path / "p.zip", repository | {"x-1/docs/other.json": {}})
    assert phenopackets.members_sha256(release) == phenopackets.members_sha256(packed)
    assert phenopackets.read_patients(release) == phenopackets.read_patients(packed)
    other = write_archive(tmp_path / "o.zip", {"0.1/FBN1/a.json": one, "0.1/FBN1/b.json": phenopacket("c")})
    assert phenopackets.members_sha256(release) != phenopackets.members_sha256(other)


def test_a_malformed_case_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"phenopacket v/C/a\.json .*malformed .*KeyError"):
        phenopackets.read_patients(write_archive(tmp_path / "a.zip", {"v/C/a.json": {"id": "a"}}))
    (tmp_path / "b.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"b\.zip is not an archive of phenopackets"):
        phenopackets.members_sha256(tmp_path / "b.zip")


def test_traits_are_those_with_one_id_and_a_name() -> None:
    def standard(trait: str, reported: str, study: str, *ontology: str) -> gold_files.GoldStandard:
        return gold_files.GoldStandard(
            "1", 1, "A", "G", "", trait, reported, ontology, study, "", "ENSG", "High", "set", ()
        )

    read = gold_files.traits_of(
        [
            standard("gout", "Gout", "S2", "EFO_2"),
            standard("gout", "gouty arthritis", "S2", "EFO_2"),
            standard("arthritis", "", "S3", "EFO_2"),
            standard("asthma", "Asthma", "S1", "EFO_1"),
            standard("", "", "S4", "EFO_3"),
            standard("two", "Two", "S5", "EFO_4", "EFO_5"),
        ]
    )
    assert read == [
        gold_files.Trait("EFO_1", "asthma", ("Asthma",), 1),
        gold_files.Trait("EFO_2", "gout", ("Gout", "gouty arthritis"), 2),
    ]
