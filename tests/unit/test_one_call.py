"""The one-call baseline: what a prompt states, which calls that permits, how often the first result is the answer."""

import json
from typing import Any

import pytest

from biomni_lib.config import DataConfig
from biomni_lib.lake import Lake
from biomni_lib.tasks import BUNDLED_TASKS, Instance, get_task
from biomni_lib.tasks.one_call import EASY_ABOVE, LOOKUPS, calls, is_too_easy, one_call_rates, parts, read_facts
from biomni_lib.tools import tool_functions, tool_names

CONFIG = DataConfig(heldout_instances=8)
PATIENT = (
    "Task: who?\nPhenotypes: HP:0001166, HP:0001083\nExcluded phenotypes: none\n"
    "Candidate genes: ENSG00000166147, ENSG00000157764\nOutput format: {...}"
)
DIGEST = (
    "Task: how long are the fragments of a complete digest of the circular DNA?\nEnzymes: EcoRI and SmaI\n"
    "Sequence: AAGAATTCTTAAAACCCGGGTT\nOptions:\na: 11, 11\nb: 14, 8\nc: 22\nOutput format: one letter"
)


class Fixed:
    """A task of one made-up question, graded by the letter or symbol."""

    def __init__(self, name: str) -> None:
        self.name = name

    def grade(self, instance: Instance, answer: str | None, *, strict: bool = False) -> float:
        return float(answer == instance.gold)


def best(task: Any, lake: Lake, instance: Instance) -> dict[str, tuple[float, float]]:
    return {rate.tool: (rate.rate, rate.offered) for rate in one_call_rates(task, lake, [instance]) if rate.offered}


def test_facts_are_read_by_line() -> None:
    facts = read_facts(PATIENT)
    assert facts["term"] == {"Phenotypes": ["HP:0001166", "HP:0001083"]}
    assert facts["ensg"] == {"Candidate genes": ["ENSG00000166147", "ENSG00000157764"]}
    locus = read_facts(
        "Task: t\nTrait: body height\nLocus: chromosome X, position 500 (GRCh38)\nCandidate genes: HLA-A, TTN\n"
    )
    assert locus["gene"] == {"Candidate genes": ["HLA-A", "TTN"]}
    assert locus["place"] == {"Locus": [{"chromosome": "X", "position": 500}]}
    assert locus["text"]["Trait"] == ["body height"] and locus["word"]["Trait"] == ["body", "height"]
    assert "Candidate genes" not in locus["text"]
    variants = read_facts("Variants: rs1 (7:10), rs22 (8:20)")
    assert variants["variant"] == {"Variants": ["rs1", "rs22"]}
    assert [place["position"] for place in variants["place"]["Variants"]] == [10, 20]
    for stretch in ("chromosome 2, 100 to 900 (GRCh38)", "chr2:100-900"):
        assert read_facts(f"Stretch: {stretch}")["region"]["Stretch"] == [{"chromosome": "2", "start": 100, "end": 900}]
    assert read_facts("Position: chrX:51")["place"] == {"Position": [{"chromosome": "X", "position": 51}]}
    assert not {"text", "word"} & read_facts("Gene: ENSG00000166147").keys()


def test_calls_take_single_entries_and_whole_lines(lake: Lake) -> None:
    tools = tool_functions(lake)
    made = {(call.tool, call.source): call.arguments for call in calls(PATIENT, tools)}
    assert made["genes_for_terms", "Phenotypes"] == [{"ids": ["HP:0001166", "HP:0001083"], "top": 100}]
    assert [one["ids"] for one in made["genes_for_terms", "each entry of Phenotypes"]] == ["HP:0001166", "HP:0001083"]
    assert len(made["diseases_of_gene", "each entry of Candidate genes"]) == 2
    pairs = made["match_score", "Phenotypes, each entry of Candidate genes"]
    assert [one["entity"] for one in pairs] == ["ENSG00000166147", "ENSG00000157764"]
    assert not any(tool == "expression_in_tissue" for tool, _ in made)  # no fact is a tissue


def test_parts_of_a_result_are_ranked_columns() -> None:
    assert dict(parts([("A", 1), ("B", 2)])) == {"[i][0]": ["A", "B"], "[i][1]": [1, 2]}
    assert dict(parts({"a": 1, "b": [2, 3]})) == {"['a']": [1], "['b'][i]": [2, 3], "['b']": ["2, 3"]}
    assert dict(parts([260, 40])) == {"[i]": [260, 40], "all": ["260, 40"]}
    assert dict(parts(4.5)) == {"all": [4.5]} and dict(parts([])) == {"[i]": [], "all": [""]}


def test_a_first_result_counts_and_one_behind_it_is_only_offered(lake: Lake) -> None:
    """FBN1 is not the best gene of all for the findings here, but the better of the two."""
    tools, gene = tool_functions(lake), "ENSG00000166147"
    ranked = [id for id, _ in tools["genes_for_terms"](["HP:0001166", "HP:0001083"], top=100)]
    assert gene in ranked and "ENSG00000157764" not in ranked[: ranked.index(gene)]
    instance = Instance(PATIENT, json.dumps({"causal_gene": [gene]}), "patient_gene_detection", "x")
    found = best(Fixed("patient_gene_detection"), lake, instance)
    assert found["genes_for_terms"] == (float(ranked[0] == gene), 1.0)
    assert found["gene_profile"] == (
        0.5,
        0.5,
    )  # either candidate's profile repeats it: half are right


def test_sequences_enzymes_and_topology_are_arguments(lake: Lake) -> None:
    """Cut at 4 and 17 of 22 bases of a circle: 13 and 9; of the line: 13, 6 and 3."""
    digest = tool_functions(lake)["digest"]
    sizes = digest("AAGAATTCTTAAAACCCGGGTT", ["EcoRI", "SmaI"], circular=True)
    prompt = DIGEST.replace("14, 8", ", ".join(map(str, sizes)))
    found = best(Fixed("lab_bench_seqqa"), lake, Instance(prompt, "b", "lab_bench_seqqa", "x"))
    assert found["digest"] == (1.0, 1.0)


def test_a_rounded_number_is_its_option(lake: Lake) -> None:
    prompt = "Task: what percent?\nSequence: ACGTACGTAAA\nOptions:\na: 35\nb: 36\nc: 37\nOutput format: one letter"
    found = best(Fixed("lab_bench_seqqa"), lake, Instance(prompt, "b", "lab_bench_seqqa", "x"))
    assert found["gc_content"] == (1.0, 1.0)  # 4 of 11 bases are 36.36%


@pytest.mark.parametrize("name", BUNDLED_TASKS)
def test_no_bundled_task_is_solved_by_one_call(name: str, lake: Lake) -> None:
    task = get_task(name, lake, CONFIG, seed=0)
    rates = one_call_rates(task, lake, task.instances("heldout"))
    assert rates and all(0 <= rate.rate <= rate.offered <= 1 for rate in rates)
    assert [rate.rate for rate in rates] == sorted((rate.rate for rate in rates), reverse=True)
    assert len({rate.tool for rate in rates}) == len(rates) and rates[0].n == len(task.instances("heldout"))
    assert not is_too_easy(name, rates[0].rate)


def test_a_disease_looked_up_is_a_lookup(lake: Lake) -> None:
    """A question over the lake that one call answers is found to be one; its task is allowed to be."""
    task = get_task("lab_bench_dbqa", lake, CONFIG, seed=0)
    asked = [one for one in task.instances("heldout") if one.meta["kind"] == "gene_disease"]
    rates = {rate.tool: rate for rate in one_call_rates(task, lake, asked)}
    assert asked and rates["diseases_of_gene"].offered == 1.0
    assert is_too_easy("a_task", EASY_ABOVE + 0.01) and not is_too_easy("a_task", EASY_ABOVE)
    assert not any(is_too_easy(name, 1.0) for name in LOOKUPS)


def test_without_the_genome_its_tools_are_left_out(lake: Lake) -> None:
    task = get_task("crispr_delivery", lake, CONFIG, seed=0)
    tools = {rate.tool for rate in one_call_rates(task, lake, task.instances("heldout")[:2])}
    assert tools == set(tool_names(["sequences"]))
