"""Conversations in a notebook: escaped, without a script, and refused by name when there are none or too many."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import DataError
from biomni_lib.viewer import show
from biomni_lib.viewer.notebook import HIDDEN, SHOWN_MAX, escape
from tests.toy_trajectories import HOSTILE, SOLVED, question, rolled

ALLOWED = {"div", "style", "section", "h4", "h5", "h6", "p", "pre", "span", "mark"}


@pytest.mark.parametrize("place", ["turn", "code", "answer", "observation", "prompt", "model"])
def test_hostile_text_stays_text(place):
    texts = {
        "turn": (HOSTILE, SOLVED),
        "code": (f"<think>a</think><execute>{HOSTILE}</execute>", SOLVED),
        "answer": (f"<think>a</think><solution>{HOSTILE}</solution>",),
    }.get(place, ("<think>a</think><execute>1</execute>", SOLVED))
    made = rolled(
        0, HOSTILE if place == "model" else "rl", texts=texts, observation=HOSTILE if place == "observation" else "2"
    )
    shown = show(made, [question(0, prompt=HOSTILE if place == "prompt" else "Which?")])._repr_html_()
    assert "window.hacked" in re.sub(r"<[^>]*>", "", shown)
    assert set(re.findall(r"</?([a-z0-9]+)", shown)) <= ALLOWED
    assert not re.search(r"<[^>]*\son\w+=", shown)
    assert not HIDDEN.search(shown)


@given(text=st.text())
def test_escaped_text_reads_the_same(text):
    marks = re.findall(r"<mark>U\+([0-9A-F]+)</mark>", escape(text))
    assert [chr(int(mark, 16)) for mark in marks] == HIDDEN.findall(text)
    assert html.unescape(re.sub("<mark>.*?</mark>", "", escape(text))) == HIDDEN.sub("", text)


def test_two_on_one_question_stand_in_one_section():
    pair = show([rolled(0, "sft", correctness=0.0), rolled(0, "rl"), rolled(1, "rl")], [question(0)])
    shown = pair._repr_html_()
    assert shown.count("<section>") == 2
    assert shown.count("Which gene?") == 1 and shown.count("Wanted") == 2
    assert shown.index("SFT") < shown.index(">RL<")


def test_long_conversations_stay_small_and_say_what_is_left_out():
    words, code = "a very long thought " * 20_000, "print(1)\n" * 50_000
    texts = (*[f"<think>{words}</think><execute>{code}</execute>"] * 40, SOLVED)
    pair = show(
        [rolled(0, model, texts=texts, observation=words) for model in ("sft", "rl")], [question(0, prompt=words)]
    )
    shown = pair._repr_html_()
    assert len(shown) < 500_000 and len(repr(pair)) < 100_000
    assert shown.count("[33 turns left out; the page of make viewer has them]") == 2
    assert "characters cut]" in shown and "Turn 41" in shown and "Turn 20 " not in shown


def test_numbers_code_and_observation_are_there():
    shown = show(rolled(0, version=3), [question(0)])._repr_html_()
    text = re.sub(r"<[^>]*>", "", shown)
    for told in (
        "10 tokens",
        "2 turns",
        "correctness 1",
        "reward 2",
        "solved",
        "policy 3",
        "print(1 + 1)",
        "Sees, after 0.25 s",
    ):
        assert told in text
    assert re.search(r'<span class="b-\w+">print</span>', shown)


def test_plain_text_for_terminals():
    shown = repr(show(rolled(0, texts=(f"<think>{HOSTILE}</think>", SOLVED))))
    assert "rl on toy-heldout-0, solved" in shown
    assert not HIDDEN.search(shown) and "U+202E" in shown


def test_none_and_too_many_are_refused():
    with pytest.raises(DataError, match="no trajectory was given"):
        show([])
    with pytest.raises(DataError, match=f"{SHOWN_MAX + 1} trajectories, at most {SHOWN_MAX}"):
        show([rolled(n) for n in range(SHOWN_MAX + 1)])
