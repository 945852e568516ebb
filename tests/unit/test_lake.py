"""The lake: what the readers accept, what the tables hold, and how a broken lake is refused."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import DataError
from biomni_lib.lake import Lake, build_lake, read_lake_manifest
from biomni_lib.lake.genes import GENE_TABLE, derive_gene_table, read_gene_table
from biomni_lib.lake.hpo import Annotation, Term, parse_frequency, read_terms
from biomni_lib.lake.sources import ANNOTATIONS, GENES, ONTOLOGY, source_path
from biomni_lib.lake.tables import lake_tables

MARFAN, FBN1, ARACHNODACTYLY, SEIZURE = "154700", "ENSG00000166147", "HP:0001166", "HP:0001250"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, -1, -1)),
        ("3/4", (0.75, 3, 4)),
        ("0/7", (0.0, 0, 7)),
        ("12.5%", (0.125, -1, -1)),
        ("100%", (1.0, -1, -1)),
        ("HP:0040280", (1.0, -1, -1)),
        ("HP:0040285", (0.0, -1, -1)),
    ],
)
def test_frequency_forms(text: str, expected: tuple) -> None:
    assert parse_frequency(text) == expected


@pytest.mark.parametrize("text", ["5/0", "4/3", "101%", "often", "HP:0001250", "-1/2", "1/2/3"])
def test_frequency_nonsense_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="frequency"):
        parse_frequency(text)


@given(st.integers(1, 10_000), st.integers(0, 10_000))
def test_counted_frequency_is_its_ratio(examined: int, affected: int) -> None:
    affected = min(affected, examined)
    assert parse_frequency(f"{affected}/{examined}") == (affected / examined, affected, examined)


def toy_tables() -> dict:
    """Root 118 > 10 > {20, 30}; disease 1 shows 20 (3/4 and 1/4 pooled) and lacks 30; disease 2 shows 30, unknown."""
    ids = ["HP:0000010", "HP:0000020", "HP:0000030", "HP:0000118"]
    parents = {ids[0]: (ids[3],), ids[1]: (ids[0],), ids[2]: (ids[0],), ids[3]: ()}
    terms = [Term(one, one, "", (), parents[one], ("HP:0000099",) if one == ids[1] else ()) for one in ids]

    def row(omim: int, term: str, affected: int, examined: int) -> Annotation:
        frequency = affected / examined if examined > 0 else None
        return Annotation(omim, f"d{omim}", term, frequency, affected, examined, frequency == 0, "P", "")

    annotations = [row(1, ids[1], 3, 4), row(1, "HP:0000099", 1, 4), row(1, ids[2], 0, 5), row(2, ids[2], -1, -1)]
    genes = [
        dict(zip(("symbol", "ensembl_id", "start"), (s, f"ENSG{n:011d}", "1"), strict=True)) for n, s in ((1, "A"),)
    ]
    return {
        name: table.to_pylist()
        for name, (table, _) in lake_tables(terms, annotations, genes, [("A", 1), ("B", 2)]).items()
    }


def test_profiles_pool_counts_and_resolve_retired_ids() -> None:
    rows = {(r["disease"], r["term"]): r["frequency"] for r in toy_tables()["disease_profiles"]}
    assert rows[0, 1] == pytest.approx((3 + 1) / (4 + 4))
    assert rows[0, 2] == 0
    assert np.isnan(rows[1, 2])


def test_closure_lifts_shown_findings_only() -> None:
    rows = {(r["disease"], r["term"]): r["frequency"] for r in toy_tables()["disease_closure"]}
    assert rows[0, 0] == rows[0, 3] == pytest.approx(0.5)
    assert rows[0, 2] == 0
    assert {term for disease, term in rows if disease == 1} == {0, 2, 3}


def test_information_content_counts_diseases() -> None:
    content = [row["information_content"] for row in toy_tables()["terms"]]
    assert content == pytest.approx([0, np.log(2), np.log(2), 0])


def test_a_gene_without_position_is_left_out() -> None:
    assert toy_tables()["gene_disease"] == [{"gene": 0, "disease": 0}]


def test_terms_are_living_and_rooted() -> None:
    terms = {term.id: term for term in read_terms(source_path(ONTOLOGY))}
    assert terms[SEIZURE].name == "Seizure"
    assert "HP:0000118" in terms and "HP:0000057" not in terms
    assert all(parent in terms for term in terms.values() for parent in term.parents)


def test_ancestors_agree_with_parents(lake: Lake) -> None:
    """A term's ancestors are itself and its parents' ancestors."""
    for row in np.random.default_rng(0).choice(len(lake.term_ids), 200):
        expected = {int(row)}.union(*(lake.ancestors[parent].tolist() for parent in lake.parents[row]))
        assert set(lake.ancestors[row].tolist()) == expected


def test_information_grows_downwards(lake: Lake) -> None:
    for row in np.flatnonzero(lake.annotated > 0)[::50]:
        assert (lake.ic[lake.ancestors[row]] <= lake.ic[row] + 1e-6).all()


def test_known_facts(lake: Lake) -> None:
    disease, gene = lake.disease_row(MARFAN), lake.gene_row(FBN1)
    assert lake.disease_names[disease] == "Marfan syndrome"
    assert lake.symbols[gene] == "FBN1" and lake.chromosomes[gene] == "15"
    assert disease in lake.diseases_of[gene] and gene in lake.genes_of[disease]
    assert lake.term_row(ARACHNODACTYLY) in lake.disease_profiles.terms[disease]


def test_ids_go_there_and_back(lake: Lake) -> None:
    assert lake.term_id(lake.term_row(SEIZURE)) == SEIZURE
    assert lake.omim(lake.disease_row("OMIM:154700")) == lake.omim(lake.disease_row(154700)) == MARFAN  # type: ignore
    assert lake.ensembl_id(lake.gene_row(FBN1)) == FBN1


@given(st.text() | st.integers() | st.none() | st.floats())
def test_unknown_ids_are_refused_shortly(lake: Lake, value: object) -> None:
    for find in (lake.term_row, lake.gene_row):
        with pytest.raises(ValueError, match="unknown") as caught:
            find(value)  # type: ignore[operator]
        assert len(str(caught.value)) < 120


def test_every_table_says_where_it_comes_from(lake_dir: Path) -> None:
    manifest = read_lake_manifest(lake_dir)
    assert manifest.sources["phenotype.hpoa"] == ANNOTATIONS.sha256
    for entry in manifest.tables.values():
        assert entry.rows == pq.ParquetFile(lake_dir / entry.file).metadata.num_rows > 0
        assert entry.source and entry.url and entry.version and entry.licence and len(entry.sha256) == 64


def test_arrays_repeat_the_tables(lake: Lake) -> None:
    profiles = lake.table("disease_profiles")
    np.testing.assert_array_equal(lake.disease_profiles.terms.values, profiles["term"].to_numpy())
    np.testing.assert_array_equal(lake.disease_profiles.frequencies.values, profiles["frequency"].to_numpy())


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(lake_dir: Path, tmp_path: Path) -> None:
    assert build_lake(tmp_path / "lake") == read_lake_manifest(lake_dir)


def test_unknown_table(lake: Lake) -> None:
    with pytest.raises(DataError, match="no table 'patients'"):
        lake.table("patients")


@pytest.fixture
def copy(lake_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lake_dir, tmp_path / "lake"))


def test_missing_lake_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no lake at .*make data"):
        Lake.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["terms.parquet", "arrays.npz"])
def test_altered_or_missing_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} has sha256 .*make data"):
        Lake.open(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing.*make data"):
        Lake.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"tables": {"a": 1}}'])
def test_broken_manifest(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest .* is broken .*make data"):
        Lake.open(copy)


def test_other_format_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(DataError, match="format 0"):
        Lake.open(copy)


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="thesis.txt"):
        build_lake(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_wrong_source_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biomni_lib.lake.sources._folder", lambda source: tmp_path)
    (tmp_path / "hp.obo").write_text("format-version: 1.2")
    with pytest.raises(DataError, match=r"hp.obo has sha256 .*make setup"):
        build_lake(tmp_path / "lake")
    assert [path.name for path in tmp_path.iterdir()] == ["hp.obo"]


def test_gene_table_is_the_committed_one() -> None:
    rows = read_gene_table(source_path(GENES))
    assert len(rows) == len({row["symbol"] for row in rows}) == len({row["ensembl_id"] for row in rows})
    assert rows == sorted(rows, key=lambda row: row["ensembl_id"])


def test_gene_table_is_derived_deterministically(tmp_path: Path) -> None:
    cache = tmp_path / "cache.tsv.gz"
    rows = [
        "# chr\tstart",
        "X\t5\t10\t22\tTWO\ton X%2C first\t\t",
        "Y\t5\t10\t33\tTWO\ton Y\t\t",
        "1\t1\t2\t7\tGONE\t\t\t",
    ]
    cache.write_bytes(gzip.compress("\n".join(rows).encode()))
    made = derive_gene_table(cache, ["TWO", "ABSENT"])
    assert made == derive_gene_table(cache, ["ABSENT", "TWO"])
    assert gzip.decompress(made).decode().splitlines()[1:] == ["TWO\tENSG00000000022\tX\t5\t10\ton X, first"]
    assert GENE_TABLE.stat().st_size < 200_000


def test_gene_table_refuses_another_file(tmp_path: Path) -> None:
    (tmp_path / "cache.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="ideogram"):
        derive_gene_table(tmp_path / "cache.gz", ["A"])
