"""The graders: every right form is accepted, every wrong one rejected, and no input raises."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import ConfigError
from biomni_lib.tasks import grade

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
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_scores_nothing(number: int) -> None:
    for task, gold in ((DISEASE, GOLD), (GENE, A)):
        assert grade(task, HOSTILE[number], gold) == 0.0
        assert grade(task, gold, HOSTILE[number]) == 0.0


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from([A, "154700"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["OMIM_ID", "causal_gene"]), inner),
    max_leaves=12,
)
ANYTHING = st.text() | st.none() | st.binary() | st.integers() | st.floats() | JSON_VALUES.map(json.dumps) | JSON_VALUES


@given(ANYTHING, ANYTHING)
def test_total(answer: object, gold: object) -> None:
    for task in (DISEASE, GENE):
        score, strict = (grade(task, answer, gold, strict=flag) for flag in (False, True))  # type: ignore[arg-type]
        assert score in (0.0, 1.0) and strict <= score


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
