"""Answers of one word: the right one in any allowed spelling scores 1, every other one 0."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from biomni_lib.tasks import grade, ids_given

SYMBOL_TASKS = [
    "gwas_causal_gene_gwas_catalog",
    "gwas_causal_gene_opentargets",
    "gwas_causal_gene_pharmaprojects",
    "screen_gene_retrieval",
]
LETTER_TASKS = ["crispr_delivery", "lab_bench_dbqa", "lab_bench_seqqa", "hle"]
VARIANT = "gwas_variant_prioritization"

BLANKS = st.text(" \t\r\n\u00a0\u2003", max_size=4)
SYMBOLS = st.from_regex(r"[A-Z][A-Za-z0-9]{0,8}(-[A-Z0-9]{1,4})?", fullmatch=True)
VARIANTS = st.from_regex(r"rs[1-9][0-9]{0,8}", fullmatch=True) | st.from_regex(
    r"[1-9]:[0-9]{1,9}:[ACGT]:[ACGT]", fullmatch=True
)


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """A text with each ASCII letter in either case, between blanks."""
    cases = draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    mixed = "".join(c.upper() if up else c.lower() for c, up in zip(text, cases, strict=True))
    return draw(BLANKS) + mixed + draw(BLANKS)


@pytest.mark.parametrize("task", SYMBOL_TASKS)
@given(data=st.data(), gold=SYMBOLS, other=SYMBOLS)
def test_a_symbol_is_right_in_any_case_and_between_blanks(
    task: str, data: st.DataObject, gold: str, other: str
) -> None:
    answer = data.draw(spelled(gold))
    assert grade(task, answer, gold) == grade(task, answer, f" {gold}\n", strict=True) == 1.0
    assume(other.lower() != gold.lower())
    assert grade(task, data.draw(spelled(other)), gold) == 0.0


@pytest.mark.parametrize("task", LETTER_TASKS)
@given(data=st.data(), gold=st.sampled_from(string.ascii_letters))
def test_a_letter_is_right_in_either_case_and_alone(task: str, data: st.DataObject, gold: str) -> None:
    answer = data.draw(spelled(gold))
    assert grade(task, answer, gold) == grade(task, answer, gold, strict=True) == 1.0
    assert sum(grade(task, letter, gold) for letter in string.ascii_lowercase) == 1.0
    for wrong in (f"{gold}.", f"({gold})", f"{gold}, ", f"{gold}{gold}", f"answer {gold}", f"[ANSWER]{gold}[/ANSWER]"):
        assert grade(task, wrong, gold) == 0.0


@given(gold=VARIANTS, other=VARIANTS, before=BLANKS, after=BLANKS)
def test_a_variant_is_right_letter_by_letter(gold: str, other: str, before: str, after: str) -> None:
    assert grade(VARIANT, before + gold + after, gold) == grade(VARIANT, gold, before + gold, strict=True) == 1.0
    assert grade(VARIANT, other, gold) == float(other == gold)
    assert grade(VARIANT, gold.swapcase(), gold) == 0.0


@pytest.mark.parametrize("task", [*SYMBOL_TASKS, VARIANT])
@given(
    golds=st.sets(SYMBOLS, min_size=2, max_size=5), between=st.sampled_from([",", ", ", " ", "/", ";", "\n", " or "])
)
def test_a_list_is_no_answer(task: str, golds: set[str], between: str) -> None:
    listed = sorted(golds)
    assert all(grade(task, between.join(listed), gold) == 0.0 for gold in golds)


LOOK_ALIKES = {
    "K": "\u212a",  # the Kelvin sign, whose lower case is k
    "S": "\u017f",  # the long s, whose upper case is S
    "I": "\u0131",  # the dotless i, whose upper case is I
    "A": "\u0410",  # Cyrillic
    "B": "\u0392",  # Greek
    "C": "\uff23",  # of full width
    "1": "\u0661",  # an Arabic digit
    "N": "N\u200b",  # with a zero-width space
    "E": "E\u0301",  # with an accent that combines
    "F": "\ufb00",  # a ligature, whose upper case is FF
}


@pytest.mark.parametrize("letter", LOOK_ALIKES)
def test_look_alikes_are_other_names(letter: str) -> None:
    gold = f"X{letter}Y2"
    for task in (*SYMBOL_TASKS, VARIANT):
        assert grade(task, gold, gold) == 1.0
        assert grade(task, gold.replace(letter, LOOK_ALIKES[letter]), gold) == 0.0
        assert grade(task, gold, gold.replace(letter, LOOK_ALIKES[letter])) == 0.0
    for task in LETTER_TASKS:
        assert grade(task, LOOK_ALIKES[letter], letter) == grade(task, letter, LOOK_ALIKES[letter]) == 0.0


@pytest.mark.parametrize("gold", ["", " ", "\n"])
def test_an_empty_gold_is_matched_by_nothing(gold: str) -> None:
    assert all(grade(task, gold, gold) == 0.0 for task in (*SYMBOL_TASKS, *LETTER_TASKS, VARIANT))


@pytest.mark.parametrize("gold", ["bc", "1", "?", "b|d", "\u00e9"])
def test_a_gold_that_is_no_letter_is_matched_by_nothing(gold: str) -> None:
    assert all(grade(task, answer, gold) == 0.0 for task in LETTER_TASKS for answer in (gold, "b", "d"))


@given(words=st.lists(SYMBOLS, max_size=8), between=st.sampled_from([",", ", ", " ", " / ", ";", "|", "\n"]))
def test_different_words_are_counted(words: list[str], between: str) -> None:
    expected = len({word.lower() for word in words})
    for task in (*SYMBOL_TASKS, *LETTER_TASKS, VARIANT):
        assert ids_given(task, between.join(words)) == expected
