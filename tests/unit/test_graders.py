"""The graders: every right form of ids is accepted, every wrong one rejected, and no input of any task raises."""

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import ConfigError
from biomni_lib.tasks import grade, ids_given
from biomni_lib.tasks.grading import gold_answer

DISEASE, GENE = "rare_disease_diagnosis", "patient_gene_detection"
GOLD = json.dumps({"OMIM_ID": "154700", "disease_name": "Marfan syndrome"})
A, B, C, D = (f"ENSG0000000000{number}" for number in range(1, 5))

RIGHT_DISEASE = [
    '{"disease_name": "Marfan syndrome", "OMIM_ID": "154700"}',
    '{"OMIM_ID": 154700}',
    '{"OMIM_ID": 154700.0}',
    '{"OMIM_ID": "OMIM:154700"}',
    '{"OMIM_ID": "omim: 154700 "}',
    '{"OMIM_ID": "MIM154700"}',
    '{"OMIM_ID": "#154700"}',
    "{'disease_name': 'Marfan', 'OMIM_ID': '154700'}",
    "{'OMIM_ID': 154700}",
    '  \n{"OMIM_ID": "154700"}\n',
    '```json\n{"OMIM_ID": "154700"}\n```',
    '{"OMIM_ID": "154700", "confidence": NaN}',
]
WRONG_DISEASE = [
    None,
    "",
    "154700",
    "OMIM:154700",
    '{"OMIM_ID": "154701"}',
    '{"OMIM_ID": null}',
    '{"OMIM_ID": true}',
    '{"OMIM_ID": 154700.5}',
    '{"OMIM_ID": -154700}',
    '{"OMIM_ID": "0154700"}',
    '{"OMIM_ID": "1547001"}',
    '{"OMIM_ID": "154700 or 154701"}',
    '{"OMIM_ID": ["154700"]}',
    '{"OMIM_ID": {"154700": 1}}',
    '{"OMIM_ID": "١٥٤٧٠٠"}',
    '{"disease_name": "Marfan syndrome"}',
    '{"disease_name": "154700", "OMIM_ID": ""}',
    '[{"OMIM_ID": "154700"}]',
    '{"OMIM_ID": "154701", "OMIM_ID": "154700"}',
    "{'OMIM_ID': 154701, 'OMIM_ID': 154700}",
    '{"OMIM_ID": "154700"',
    '{"OMIM_ID": "154700"} {"OMIM_ID": "154701"}',
    "{'OMIM_ID': str(154700)}",
    "{**{'OMIM_ID': 154700}}",
    "NaN",
]


@pytest.mark.parametrize("answer", RIGHT_DISEASE)
def test_right_disease(answer: str) -> None:
    assert grade(DISEASE, answer, GOLD) == grade(DISEASE, answer, GOLD, strict=True) == 1.0


@pytest.mark.parametrize("answer", WRONG_DISEASE)
def test_wrong_disease(answer: str | None) -> None:
    assert grade(DISEASE, answer, GOLD) == 0.0


@pytest.mark.parametrize("gold", ['{"OMIM_ID": 154700}', '{"OMIM_ID": "OMIM:154700"}', "{'OMIM_ID': '154700'}"])
def test_gold_may_be_written_in_any_form(gold: str) -> None:
    assert grade(DISEASE, '{"OMIM_ID": "154700"}', gold) == 1.0


def test_gold_without_an_id_is_matched_by_nothing() -> None:
    assert grade(DISEASE, '{"OMIM_ID": null}', '{"OMIM_ID": null}') == grade(DISEASE, "{}", "{}") == 0.0
    assert grade(GENE, '{"causal_gene": []}', "") == grade(GENE, '{"causal_gene": [""]}', ",") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (f'{{"causal_gene": ["{A}"]}}', A),
        (f'{{"causal_gene": "{A}"}}', A),
        (f"{{'causal_gene': ['{A}']}}", A),
        (f"{{'causal_gene': ('{A}',)}}", A),
        (f'{{"causal_gene": [" {A.lower()} "]}}', A),
        (f'{{"causal_gene": ["{A}.12"]}}', A),
        (f'{{"causal_gene": ["{A}", "{A}"]}}', A),
        (f'{{"causal_gene": ["{B}"]}}', f"{A}, {B}"),
        (f'{{"causal_gene": ["{A}", "{B}"]}}', f"{A},{B}"),
    ],
)
def test_right_gene(answer: str, gold: str) -> None:
    assert grade(GENE, answer, gold) == grade(GENE, answer, gold, strict=True) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        None,
        A,
        f'["{A}"]',
        f'{{"causal_gene": ["{B}"]}}',
        f'{{"causal_gene": [["{A}"]]}}',
        f'{{"causal_gene": {{"{A}": 1}}}}',
        f'{{"gene": ["{A}"]}}',
        f'{{"causal_gene": ["{A}{B}"]}}',
        f'{{"causal_gene": ["{B}", "{C}", "{A}", "{D}"]}}',
        f'{{"causal_gene": "{A}, {B}, {C}"}}',
        f'{{"causal_gene": ["{A}", 1, 2.5, {{}}]}}',
        '{"causal_gene": null}',
        '{"causal_gene": []}',
    ],
)
def test_wrong_gene(answer: str | None) -> None:
    assert grade(GENE, answer, A) == 0.0


def test_hedging_earns_nothing_in_training() -> None:
    both = json.dumps({"causal_gene": [A, B]})
    assert grade(GENE, both, A) == 1.0
    assert grade(GENE, both, A, strict=True) == 0.0
    assert grade(GENE, json.dumps({"causal_gene": [A, B, C]}), f"{A},{B}", strict=True) == 0.0


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown task 'riddle'"):
        grade("riddle", "", "")


HOSTILE = [
    "[" * 100_000,
    "{" * 19_000,
    '{"OMIM_ID":' * 1_500,
    "{'a':" + "-" * 18_000 + "1}",
    "{'a':" + "(" * 500 + ")" * 500 + "}",
    "{'a':" + "1+" * 9_000 + "1}",
    '{"OMIM_ID": 1' + "0" * 15_000 + "}",
    '{"OMIM_ID": 1e999}',
    '{"OMIM_ID": -Infinity}',
    "{'OMIM_ID': '\\ud800'}",
    '{"OMIM_ID": "\\ud800"}',
    "{'a': b'\\xff', 'OMIM_ID': 154700j}",
    "{[]: 1}",
    "\x00{}",
    "{'\x00': 1}",
    "\ufeff{}",
    "x" * 10_000_000,
    "\u202e007451",
    "```" + "\n" * 19_000,
    '{"OMIM_ID": "MIM' + " " * 19_000 + 'x"}',  # blanks that a pattern could share out in 10^12 ways
    GOLD + " " * 20_000 + "and more",
    json.dumps({"causal_gene": [A]}) + " " * 20_000 + "and more",
    "{'OMIM_ID': __import__('os').getpid() or 154700}",
    "<solution>b</solution>",
]
GOLDS = {
    DISEASE: GOLD,
    GENE: A,
    "crispr_delivery": "b",
    "gwas_causal_gene_gwas_catalog": "PCSK9",
    "gwas_causal_gene_opentargets": "PCSK9",
    "gwas_causal_gene_pharmaprojects": "PCSK9",
    "gwas_variant_prioritization": "rs4253311",
    "lab_bench_dbqa": "B",
    "lab_bench_seqqa": "B",
    "screen_gene_retrieval": "PCSK9",
    "hle": "B",
}
"""A gold of every task."""


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_scores_nothing(number: int) -> None:
    for task, gold in GOLDS.items():
        assert grade(task, HOSTILE[number], gold) == 0.0
        assert grade(task, gold_answer(task, gold), HOSTILE[number]) == 0.0
        assert ids_given(task, HOSTILE[number]) >= 0


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from([A, "154700"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["OMIM_ID", "causal_gene"]), inner),
    max_leaves=12,
)
ANYTHING = st.text() | st.none() | st.binary() | st.integers() | st.floats() | JSON_VALUES.map(json.dumps) | JSON_VALUES


@given(ANYTHING, ANYTHING)
def test_total_and_deterministic(answer: object, gold: object) -> None:
    for task in GOLDS:
        score, strict = (grade(task, answer, gold, strict=flag) for flag in (False, True))  # type: ignore[arg-type]
        assert score in (0.0, 1.0) and strict <= score
        assert score == grade(task, answer, gold)  # type: ignore[arg-type]
        assert ids_given(task, answer) >= (1 if score else 0)  # type: ignore[arg-type]


@given(ANYTHING)
def test_noise_scores_nothing(noise: object) -> None:
    for task, gold in GOLDS.items():
        parsed = str(noise).strip().lower()
        assert grade(task, noise, gold) == 0.0 or gold.lower() in parsed or "154700" in parsed  # type: ignore[arg-type]


@pytest.mark.parametrize("task", GOLDS)
def test_the_gold_answer_scores_one_and_gives_one_id(task: str) -> None:
    answer = gold_answer(task, GOLDS[task])
    assert grade(task, answer, GOLDS[task]) == grade(task, answer, GOLDS[task], strict=True) == 1.0
    assert ids_given(task, answer) == 1


@pytest.mark.parametrize("task", GOLDS)
def test_the_answer_to_another_kind_of_task_scores_nothing(task: str) -> None:
    others = [gold_answer(other, gold) for other, gold in GOLDS.items() if gold.lower() != GOLDS[task].lower()]
    assert all(grade(task, answer, GOLDS[task]) == 0.0 for answer in others)


def at_depth(frames: int, call: Callable[[], float]) -> float:
    """What a call gives that is made so many frames further down."""
    return call() if frames == 0 else at_depth(frames - 1, call)


@pytest.mark.parametrize("brackets", [1, 50, 97, 98, 200, 400])
def test_what_is_left_of_the_stack_decides_nothing(brackets: int) -> None:
    answer = f'{{"OMIM_ID": 154700, "causal_gene": ["{A}"], "more": {"[" * brackets}{"]" * brackets}}}'
    for task, gold in ((DISEASE, GOLD), (GENE, A)):
        scores = [at_depth(frames, lambda task=task, gold=gold: grade(task, answer, gold)) for frames in (0, 300, 600)]
        assert scores == [float(brackets <= 98)] * 3


@given(JSON_VALUES.map(repr))
def test_total_for_python_literals(answer: str) -> None:
    assert grade(DISEASE, answer, GOLD) in (0.0, 1.0) and grade(GENE, answer, A) in (0.0, 1.0)


@given(st.integers(100_000, 999_999), st.integers(100_000, 999_999), st.sampled_from(["{}", '"{}"', '"OMIM:{}"']))
def test_disease_is_right_exactly_when_numbers_agree(answer: int, gold: int, form: str) -> None:
    given_answer = f'{{"OMIM_ID": {form.format(answer)}}}'
    assert grade(DISEASE, given_answer, json.dumps({"OMIM_ID": str(gold)})) == float(answer == gold)
    assert grade(DISEASE, given_answer, json.dumps({"OMIM_ID": answer})) == 1.0


@given(st.sets(st.integers(0, 30), min_size=1, max_size=4), st.sets(st.integers(0, 30), min_size=1, max_size=6))
def test_genes_are_right_by_the_rule(gold: set[int], answer: set[int]) -> None:
    gold_text, answer_text = (
        ",".join(f"ENSG{n:011d}" for n in gold),
        json.dumps({"causal_gene": [f"ENSG{n:011d}" for n in answer]}),
    )
    shared = len(gold & answer)
    assert grade(GENE, answer_text, gold_text) == float(shared > 0 and shared * 2 >= len(answer))
    assert grade(GENE, answer_text, gold_text, strict=True) == float(
        shared > 0 and shared * 2 >= len(answer) and len(answer) <= len(gold)
    )


@given(st.lists(st.integers(100_000, 999_999), min_size=1, max_size=5), st.randoms())
def test_ids_of_diseases_and_genes_are_counted_once_in_any_form(numbers: list[int], rng: random.Random) -> None:
    forms = [str, int, "OMIM:{}".format, " mim #{} ".format]
    omims = [rng.choice(forms)(number) for number in numbers]
    genes = [f"ENSG{number:011d}{rng.choice(['', '.3'])}" for number in numbers]
    assert ids_given(DISEASE, json.dumps({"OMIM_ID": omims})) == len(set(numbers))
    assert ids_given(GENE, json.dumps({"causal_gene": genes})) == len(set(numbers))
    assert ids_given(GENE, repr({"causal_gene": ", ".join(genes).lower()})) == len(set(numbers))


@pytest.mark.parametrize("answer", [None, "", "{}", '{"OMIM_ID": null, "causal_gene": []}', "no object", '["ENSG1"]'])
def test_no_id_is_none(answer: str | None) -> None:
    assert ids_given(DISEASE, answer) == ids_given(GENE, answer) == 0


def test_unknown_tasks_have_no_ids() -> None:
    with pytest.raises(ConfigError, match="unknown task 'riddle'"):
        ids_given("riddle", "x")
