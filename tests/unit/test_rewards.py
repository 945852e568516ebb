"""Format by the recipe's rule, correctness by the task's strict grade."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.rewards import correctness, format_score, score
from biomni_lib.tasks import Instance, grade

THINK, RUN, END = "<think>a</think>", "<execute>b</execute>", "<solution>c</solution>"
LABELS = ("T", "/T", "E", "/E", "S", "/S", "text")
TAG_OF = dict(
    zip(LABELS[:6], ("<think>", "</think>", "<execute>", "</execute>", "<solution>", "</solution>"), strict=True)
)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([THINK + END], 1),
        ([THINK + RUN, THINK + END], 1),
        ([THINK + RUN, THINK + RUN, THINK + END], 1),
        (["Let me see. " + THINK + "\nThen:\n" + RUN + " done", "x" + THINK + "y" + END + "z"], 1),
        (["<think></think><solution></solution>"], 1),
        ([THINK + "\n" + END + "<|im_end|>"], 1),
        ([], 0),
        ([""], 0),
        ([END], 0),
        ([THINK], 0),
        ([THINK + RUN], 0),
        ([THINK + RUN, THINK + RUN], 0),
        ([THINK + END, THINK + END], 0),
        ([THINK + END, THINK + RUN], 0),
        ([THINK + RUN, END], 0),
        ([RUN, THINK + END], 0),
        ([THINK + THINK + END], 0),
        ([THINK + END + THINK], 0),
        ([END + THINK], 0),
        ([THINK + RUN + END], 0),
        ([THINK + END + END], 0),
        ([THINK + RUN + RUN, THINK + END], 0),
        (["<think>a" + END], 0),
        (["a</think>" + END], 0),
        ([THINK + "<solution>c"], 0),
        ([THINK + "c</solution>"], 0),
        (["<think>a<solution>c</solution></think>"], 0),
        (["<think>a<think>b</think></think>" + END], 0),
        (["<think>a<solution>b</think>c</solution>"], 0),
        ([THINK + "<solution><execute>b</execute></solution>"], 0),
    ],
)
def test_truth_table(turns: list[str], expected: int) -> None:
    assert format_score(turns) == expected


@given(
    st.lists(st.lists(st.sampled_from(LABELS), max_size=6), max_size=3)
    | st.lists(st.sampled_from([["T", "/T", "E", "/E"], ["T", "text", "/T", "S", "/S"]]), max_size=3)
)
def test_the_rule_as_a_machine_of_states(turns: list[list[str]]) -> None:
    """The rule once more, as open blocks: nothing opens inside a block, a block closes itself, thinking comes first."""

    def allowed(labels: list[str], block: str) -> bool:
        opened, closed = None, []
        for label in labels:
            if label == "text":
                continue
            name = label.removeprefix("/")
            if label.startswith("/") and opened == name:
                opened, closed = None, [*closed, name]
            elif not label.startswith("/") and opened is None:
                opened = name
            else:
                return False
        return opened is None and closed == ["T", block]

    expected = bool(turns) and all(allowed(turn, "ES"[number == len(turns) - 1]) for number, turn in enumerate(turns))
    assert format_score(["".join(TAG_OF.get(label, "words") for label in turn) for turn in turns]) == int(expected)


def graded(task: str, gold: str, answer: str | None, turns: list[str]) -> Trajectory:
    made = Trajectory(task, "1", answer=answer, turns=[Turn(0, 0, "none", text) for text in turns])
    return score(made, Instance("", gold, task, "1"))


GENE, OTHER = "ENSG00000157764", "ENSG00000139618"
RIGHT = {
    "patient_gene_detection": (GENE, json.dumps({"causal_gene": [GENE]})),
    "rare_disease_diagnosis": (json.dumps({"OMIM_ID": "154700"}), json.dumps({"disease_name": "?", "OMIM_ID": 154700})),
}


@pytest.mark.parametrize("task", RIGHT)
def test_the_total_is_correctness_plus_format(task: str) -> None:
    gold, right = RIGHT[task]
    for (answer, correct), (turns, form) in itertools.product(
        [(right, 1.0), ("{}", 0.0), (None, 0.0)], [([THINK + END], 1.0), ([END], 0.0), ([], 0.0)]
    ):
        made = graded(task, gold, answer, turns)
        assert (made.correctness, made.format, made.total) == (correct, form, correct + form)


def test_the_format_weighs_as_told() -> None:
    gold, right = RIGHT["patient_gene_detection"]
    made = Trajectory("patient_gene_detection", "1", answer=right, turns=[Turn(0, 0, "none", THINK + END)])
    instance = Instance("", gold, "patient_gene_detection", "1")
    assert [score(made, instance, format_weight=weight).total for weight in (0.0, 0.5, 1.0)] == [1.0, 1.5, 2.0]
    assert made.format == 1.0


def test_naming_more_genes_than_there_are_earns_nothing() -> None:
    hedged = json.dumps({"causal_gene": [GENE, OTHER]})
    assert graded("patient_gene_detection", GENE, hedged, [THINK + END]).correctness == 0.0
    assert graded("patient_gene_detection", f"{GENE},{OTHER}", hedged, [THINK + END]).correctness == 1.0


@given(answer=st.sampled_from("abcdefABCDEF") | st.text(max_size=3), gold=st.sampled_from("abcdef"))
def test_a_second_choice_earns_half_in_training_and_nothing_in_the_benchmark(answer: str, gold: str) -> None:
    seconds = [letter for letter in "be" if letter != gold]
    instance = Instance("", gold, "crispr_delivery", "1", {"acceptable": seconds})
    letter = answer.strip().lower()
    assert correctness(answer, instance) == (1.0 if letter == gold else 0.5 if letter in seconds else 0.0)
    assert grade("crispr_delivery", answer, gold) == float(letter == gold)
    made = score(Trajectory("crispr_delivery", "1", answer=answer, turns=[Turn(0, 0, "none", THINK + END)]), instance)
    assert made.total == correctness(answer, instance) + 1.0


def test_without_second_choices_there_are_no_halves() -> None:
    plain = Instance("", "b", "crispr_delivery", "1")
    assert [correctness(answer, plain) for answer in ("b", "e", None)] == [1.0, 0.0, 0.0]


def test_a_hedged_second_choice_earns_nothing() -> None:
    instance = Instance("", GENE, "patient_gene_detection", "1", {"acceptable": [OTHER]})
    one, both = (json.dumps({"causal_gene": genes}) for genes in ([OTHER], [OTHER, "ENSG00000000001"]))
    assert (correctness(one, instance), correctness(both, instance)) == (0.5, 0.0)
