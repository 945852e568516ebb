"""Near-duplicates: what is one, what is not, and how far the threshold lies from either."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.tasks.crispr_cases import load_cases
from biomni_lib.tasks.leaks.texts import FEWEST, NEAR, near_duplicates, normalised, shingles, without_form

CASES = [case.text for case in load_cases()]


def alike(one: str, other: str) -> bool:
    return near_duplicates([shingles(one)], [shingles(other)]) == [(0, 0)]


@pytest.mark.parametrize("text", CASES[::6])
def test_case_spaces_and_punctuation_do_not_matter(text: str) -> None:
    changed = text.upper().replace(" ", "  ").replace(".  ", " . \n")
    assert normalised(changed) == normalised(text) and alike(text, changed)


@pytest.mark.parametrize("text", CASES[::6])
def test_a_text_with_every_fifteenth_word_replaced_is_still_near(text: str) -> None:
    words = text.split()
    assert alike(text, " ".join(f"another{at}" if at % 15 == 7 else word for at, word in enumerate(words)))


def test_no_two_written_cases_are_near() -> None:
    pairs = near_duplicates([shingles(text) for text in CASES], [shingles(text) for text in CASES], near=NEAR / 2)
    assert pairs == [(at, at) for at in range(len(CASES))]


def test_the_order_of_a_list_does_not_matter_and_an_added_item_does_little() -> None:
    items = [f"HP:{number:07d}" for number in range(12)]
    mixed = random.Random(0).sample(items, len(items))
    assert alike(", ".join(items), ", ".join([*mixed, "HP:0000099"]))
    assert not alike(", ".join(items), ", ".join([*items[:4], *(f"HP:{number:07d}" for number in range(50, 58))]))


def test_short_texts_and_bare_numbers_are_never_near() -> None:
    few = ", ".join(f"word{n}" for n in range(FEWEST - 1))
    assert not alike(few, few) and not alike("", "")
    assert shingles("1, 2, 3\na, b") == set()


def test_what_many_questions_repeat_is_their_form() -> None:
    form = "choose the best of the following six ways to deliver the tool"
    questions = [shingles(f"{form}. question {n} has a body of its own number{n}") for n in range(40)]
    left = without_form(questions)
    assert all(text.isdisjoint(shingles(form)) for text in left) and all(left)
    assert without_form(questions[:2]) == questions[:2]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8), max_size=6))
def test_pairs_are_those_of_a_plain_comparison(texts: list[list[str]]) -> None:
    sets = [set(text) for text in texts]
    expected = [
        (here, there)
        for here, one in enumerate(sets)
        for there, other in enumerate(sets)
        if min(len(one), len(other)) >= FEWEST and len(one & other) >= NEAR * min(len(one), len(other))
    ]
    assert near_duplicates(sets, sets) == expected
