"""Tools over genes and sequences: their examples, their answers on known molecules, their behaviour on nonsense."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.agent.prompt import system_prompt
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.lake import Lake, read_lake_manifest
from biomni_lib.lake.manifest import genome_dir
from biomni_lib.tasks import task_names
from biomni_lib.tools import DOMAINS, domains_for, tool_docs, tool_functions, tool_names, tool_signatures

NEW = tool_names(("genes", "sequences", "traits"))
DNA = st.text("ACGT", min_size=1, max_size=200)
BLA_START = "ATGAGTATTCAACATTTCCGTGTCGCCCTTATTCCCTTTTTTGCGGCATTTTGCCTTCCTGTTTTTGCT"
"""The first 69 bases of beta-lactamase as in pUC19; they encode MSIQHFRVALIPFFAAFCLPVFA."""


@pytest.fixture(scope="module")
def tools(public_lake: Lake) -> dict:
    return tool_functions(public_lake)


def test_there_are_about_thirty_tools_and_no_name_twice(tools: dict) -> None:
    names = [tool.__name__ for domain in DOMAINS.values() for tool in domain]
    assert len(names) == len(set(names)) == len(tools) >= 30


@pytest.mark.parametrize("name", NEW)
def test_examples_in_the_documentation_are_true(tools: dict, name: str) -> None:
    example = re.search(r"Example: (.+) -> (.+)", inspect.getdoc(tools[name]) or "")
    assert example is not None
    assert eval(example[1], dict(tools)) == eval(example[2])  # noqa: S307 - text of this package


@pytest.mark.parametrize("name", NEW)
def test_documentation_names_every_argument_and_not_the_lake(tools: dict, name: str) -> None:
    signature, docs = inspect.signature(tools[name]), tool_docs([name])
    assert list(signature.parameters) and "lake" not in signature.parameters
    assert "Returns:" in docs
    assert all(re.search(rf"\b{parameter}\b.*:", docs) for parameter in signature.parameters)


def test_the_prompt_of_the_phenotype_tasks_lists_the_twelve_as_before() -> None:
    for task in ("rare_disease_diagnosis", "patient_gene_detection"):
        assert tool_names(domains_for(task)) == tool_names()
        assert system_prompt("docs", domains_for(task)) == system_prompt("docs")
    assert len(tool_names()) == 12 and not set(tool_names()) & set(NEW)
    assert tool_signatures() == tool_signatures(tool_names()) and tool_docs() == tool_docs(tool_names())


def test_other_tasks_list_what_suits_them() -> None:
    prompt = system_prompt("names", domains_for("lab_bench_seqqa"))
    assert "digest" in prompt and "gene_info" not in prompt and "disease_profile" not in prompt
    assert {"nearest_genes", "diseases_of_gene"} <= set(tool_names(domains_for("gwas_causal_gene_opentargets")))
    with pytest.raises(ConfigError, match="unknown domain of tools 'chemistry'; the domains are phenotypes"):
        tool_names(["chemistry"])


def test_traits_have_names_and_nothing_of_what_was_found(tools: dict, public_lake: Lake) -> None:
    assert tools["search_traits"]("STANDING")[0] == ("EFO_0004339", "body height")  # the study's own word
    assert tools["search_traits"]("standing weight") == []
    found = tools["trait_info"]("Body height")
    assert found == {"id": "EFO_0004339", "name": "body height", "phenotype": "", "studies": 1}
    assert set(read_lake_manifest(genome_dir(public_lake.lake_dir)).tables["gwas_traits"].columns) == set(found) - {
        "phenotype"
    } | {"reported"}


def test_only_tasks_on_associations_list_the_tools_on_traits() -> None:
    listed = {task for task in task_names() if "traits" in domains_for(task)}
    assert listed == {task for task in task_names() if task.startswith("gwas_")} and len(listed) == 4


def test_without_the_public_tier_gene_tools_say_so_and_sequence_tools_work(lake: Lake) -> None:
    tools = tool_functions(lake)
    with pytest.raises(DataError, match="run `make data`"):
        tools["gene_info"]("TP53")
    with pytest.raises(DataError, match="run `make data`"):
        tools["search_traits"]("height")
    assert tools["reverse_complement"]("AAC") == "GTT"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gene_info", ("NOTAGENE",)),
        ("gene_info", ("ENSG00000000000",)),
        ("gene_info", (["TP53", "FBN1"],)),
        ("synonyms_of", (None,)),
        ("search_genes", (" ",)),
        ("search_traits", (" ",)),
        ("search_traits", ("height", 0)),
        ("trait_info", ("EFO_1",)),
        ("trait_info", (None,)),
        ("genes_in_region", ("15", 10, 5)),
        ("genes_in_region", ("99", 1, 5)),
        ("genes_in_region", ("15", 1, 2_000_002)),
        ("genes_in_region", ("15", "1", 5)),
        ("nearest_genes", ("15", 0)),
        ("nearest_genes", ("15", 5, 0)),
        ("distance_to_gene", ("FBN1", "15", -3)),
        ("expression_in_tissue", ("ALB", "Antenna")),
        ("variant_info", ("rsX",)),
        ("variant_info", ("0",)),
        ("variant_info", ("9" * 30,)),
        ("reverse_complement", ("ACGJ",)),
        ("reverse_complement", ("",)),
        ("reverse_complement", (7,)),
        ("translate", ("ATG", 4)),
        ("melting_temperature", ("ACG",)),
        ("melting_temperature", ("ACGTNACGTN",)),
        ("restriction_sites", ("ACGT", "EcoR99")),
        ("digest", ("ACGT", [])),
        ("digest", ("ACGT", None)),
        ("pcr_product", ("ACGT" * 10, "ACG", "ACGTACGT")),
        ("amplify", ("ACGT" * 10, "ACG", "ACGTACGT")),
    ],
)
def test_nonsense_is_refused_in_one_short_line(tools: dict, name: str, arguments: tuple) -> None:
    with pytest.raises(ValueError) as caught:
        tools[name](*arguments)
    assert len(str(caught.value)) < 140 and "\n" not in str(caught.value)


def test_a_place_is_told_from_another_chromosomes(tools: dict) -> None:
    assert tools["distance_to_gene"]("FBN1", "15", 48408313) == 0
    assert tools["distance_to_gene"]("FBN1", "15", 48645722) == 1  # the gene ends at 48645721
    assert tools["distance_to_gene"]("FBN1", "17", 48408313) is None
    assert [symbol for _, symbol, _ in tools["nearest_genes"]("15", 48645722)] == ["FBN1", "FBN1-DT"]


def test_paralogs_outside_the_table_have_no_symbol(tools: dict, public_lake: Lake) -> None:
    assert tools["paralogs_of"]("ALB") == []
    assert public_lake.genome.symbol_of(6) == ""


def test_expression_outside_the_ten_tissues_is_none(tools: dict) -> None:
    assert tools["expression_in_tissue"]("HBB", "liver") is None
    liver = tools["expression_in_tissue"]("ALB", "liver")
    assert (liver["q1"], liver["maximum"], liver["samples"]) == (15467.5, 99050.0, 226)


def test_unknown_variants_are_none_and_absent_values_say_so(tools: dict) -> None:
    assert tools["variant_info"]("rs1") == []
    (sickle,) = tools["variant_info"]("15333")
    assert sickle["variant"] == "11:5227002:T:A" and sickle["frequency"] == 0.00438 and sickle["rsid"] == "rs334"
    (mitochondrial,) = tools["variant_info"]("9570")
    assert (mitochondrial["rsid"], mitochondrial["frequency"]) == ("", None)


@given(dna=DNA)
def test_the_other_strand_of_the_other_strand_is_the_first(tools: dict, dna: str) -> None:
    other = tools["reverse_complement"](dna)
    share = 100 * (dna.count("G") + dna.count("C")) / len(dna)
    assert tools["reverse_complement"](other) == dna
    assert tools["gc_content"](other) == tools["gc_content"](dna) == pytest.approx(share, abs=0.006)
    assert tools["translate"](other, 1) == tools["translate"](dna, -1)


def test_translation_of_a_known_gene(tools: dict) -> None:
    assert tools["translate"](BLA_START.lower()) == "MSIQHFRVALIPFFAAFCLPVFA"
    assert tools["translate"]("C" + BLA_START, 2) == tools["translate"](BLA_START)
    assert tools["translate"]("ATGNNNTAA") == "MX*"


@given(dna=DNA)
def test_an_open_frame_reads_from_start_to_stop(tools: dict, dna: str) -> None:
    for first, last, frame, length in tools["find_orfs"](dna, min_length=1):
        part = dna[first - 1 : last]
        protein = tools["translate"](part if frame > 0 else tools["reverse_complement"](part))
        assert protein[0] == "M" and protein.index("*") == len(protein) - 1 == length
        assert last - first + 1 == 3 * (length + 1) and protein in tools["translate"](dna, frame)


def test_frames_of_both_strands_are_found_longest_first(tools: dict) -> None:
    forward, backward = "ATGGCCAAATAA", "ATGGCCTAA"
    dna = "C" + forward + "C" + tools["reverse_complement"](backward)
    assert tools["find_orfs"](dna, min_length=2) == [(2, 13, 2, 3), (15, 23, -1, 2)]


def test_motifs_are_found_on_both_strands_with_ambiguous_letters(tools: dict) -> None:
    assert tools["find_motif"]("AAAAA", "AA") == [(at, "+") for at in (1, 2, 3, 4)]
    assert tools["find_motif"]("GGTTCC", "GGAA") == [(3, "-")]
    assert tools["find_motif"]("GACTC GAATC", "GANTC") == [(1, "+"), (6, "+")]


def test_how_enzymes_cut(tools: dict) -> None:
    assert tools["enzyme_info"]("EcoRI") == {
        "enzyme": "EcoRI",
        "site": "G^AATT_C",
        "overhang": "5'",
        "overhang_length": 4,
    }
    assert tools["enzyme_info"]("KpnI")["overhang"] == "3'"
    assert tools["enzyme_info"]("SmaI") | {"site": ""} == {
        "enzyme": "SmaI",
        "site": "",
        "overhang": "blunt",
        "overhang_length": 0,
    }


@given(left=DNA, right=DNA, circular=st.booleans())
def test_fragments_add_up_to_the_whole(tools: dict, left: str, right: str, circular: bool) -> None:
    dna = left + "GAATTC" + right
    fragments, cuts = tools["digest"](dna, ["EcoRI", "HindIII"], circular), tools["restriction_sites"](dna, "EcoRI")
    assert sum(fragments) == len(dna) and fragments == sorted(fragments, reverse=True)
    assert len(left) + 2 in cuts
    both = set(cuts) | set(tools["restriction_sites"](dna, "HindIII"))
    assert circular or len(fragments) == len(both) + 1


def test_a_plasmid_is_opened_by_its_first_cut_and_whole_without_one(tools: dict) -> None:
    plasmid = "A" * 10 + "GAATTC" + "A" * 10
    assert tools["digest"](plasmid, "EcoRI", circular=True) == [26]
    assert tools["digest"](plasmid, "HindIII", circular=True) == tools["digest"](plasmid, "HindIII") == [26]
    over_the_origin = plasmid[13:] + plasmid[:13]
    assert tools["restriction_sites"](over_the_origin, "EcoRI") == []
    assert tools["digest"](over_the_origin, "EcoRI", circular=True) == [26]
    assert len(tools["restriction_sites"](over_the_origin, "EcoRI", circular=True)) == 1


def test_a_product_spans_both_primers(tools: dict) -> None:
    forward, reverse = "ACGTTGCAAG", "CCATGGTTAC"
    template = "TTTT" + forward + "T" * 30 + tools["reverse_complement"](reverse) + "TTT"
    assert tools["pcr_product"](template, forward, reverse) == [(5, 54, 50)]
    turned = template[20:] + template[:20]
    assert tools["pcr_product"](turned, forward, reverse) == []
    ((first, last, length),) = tools["pcr_product"](turned, forward, reverse, circular=True)
    assert length == 50 and (turned + turned)[first - 1 : first - 1 + length] == template[4:54] and last < first


def test_tails_of_primers_are_amplified_from_either_strand(tools: dict) -> None:
    forward, reverse = "ACGTTGCAAG", "CCATGGTTAC"
    template = "TTTT" + forward + "T" * 30 + tools["reverse_complement"](reverse) + "TTT"
    made = "GAATTC" + template[4:54] + tools["reverse_complement"]("GGATCC")
    tailed = "GAATTC" + forward, "GGATCC" + reverse
    assert tools["amplify"](template, *tailed, min_match=10) == [made]
    assert tools["amplify"](tools["reverse_complement"](template), *tailed, min_match=10) == [made]
    assert tools["amplify"](template, *tailed[::-1], min_match=10) == [tools["reverse_complement"](made)]
    turned = template[20:] + template[:20]
    assert tools["amplify"](turned, *tailed, min_match=10, circular=True) == [made]
    assert tools["amplify"](turned, *tailed, min_match=10) == tools["amplify"](template, *tailed) == []
    with pytest.raises(ValueError, match="min_match must be a whole number"):
        tools["amplify"](template, *tailed, min_match=0)
    with pytest.raises(ValueError, match="at least 8 bases"):
        tools["amplify"](template, *tailed, min_match=7)


def test_salt_and_gc_raise_the_melting_temperature(tools: dict) -> None:
    primer = "GTAAAACGACGGCCAGT"
    assert tools["melting_temperature"](primer, sodium_mm=100.0) > tools["melting_temperature"](primer)
    assert tools["melting_temperature"]("GC" * 8) > tools["melting_temperature"]("AT" * 8)
