"""What the viewer keeps of a trajectory: all of its text, its numbers, and its name; and what may be chosen of many."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import DataError
from biomni_lib.viewer.records import Entry, natural, record, row, segments, select
from tests.toy_trajectories import HOSTILE, PLAIN, SOLVED, rolled

TAGS = [f"<{slash}{name}>" for name in ("think", "execute", "solution", "observation") for slash in ("", "/")]


@given(pieces=st.lists(st.sampled_from(TAGS) | st.text(max_size=5), max_size=12))
def test_pieces_of_a_turn_give_its_text_again(pieces):
    text = "".join(pieces)
    again = [piece if kind == "text" else f"<{kind}>{piece}</{kind}>" for kind, piece in segments(text)]
    assert "".join(again) == text


def test_pieces_follow_the_tags():
    assert segments(PLAIN) == [
        ["think", "\nI look.\n"],
        ["text", "\n"],
        ["execute", "\nprint(1 + 1)  # sum\n"],
    ]
    assert segments("<think>open") == [["text", "<think>open"]]


def test_a_record_tells_each_turns_tokens_times_and_policy():
    first, second = record(Entry(rolled(0, version=7), "rl/step-00008"))["turns"]
    assert (first["written"], first["read"], first["versions"], first["logprob"]) == (5, 10, [7, 7], -0.5)
    assert (second["written"], second["read"], second["versions"]) == (5, 3, [8, 8])
    assert first["seconds"] == [1.0, 0.125, 0.25] and first["observation"] == "2"
    assert "observation" not in second


def test_a_script_has_no_policy_and_no_log_probs():
    turns = record(Entry(rolled(0, version=-1), "sft/teacher"))["turns"]
    assert not any("versions" in turn or "logprob" in turn for turn in turns)


def test_code_that_no_piece_shows_is_told_apart():
    """The protocol runs what lies before the first closing tag, which a nested tag can hide from the pieces."""
    tangled = "<execute>\na\n<execute>\nb\n</execute>"
    shown = record(Entry(rolled(0, texts=(tangled, SOLVED)), "x"))["turns"][0]
    assert shown["code"] == "b"
    assert "code" not in record(Entry(rolled(0), "x"))["turns"][0]


def test_a_last_block_that_was_not_run_has_no_observation():
    shown = record(Entry(rolled(0, texts=(PLAIN, PLAIN), ending="turn_limit"), "x"))
    assert ["observation" in turn for turn in shown["turns"]] == [True, False]
    assert shown["answer"] is None


def test_a_row_holds_what_is_filtered_and_no_nan():
    made = row(Entry(rolled(3, correctness=float("nan")), "rl/step-00029"))
    assert (made["tokens"], made["context"], made["turns"], made["calls"], made["step"]) == (10, 23, 2, 1, 29)
    assert made["seconds"] == 2.375
    assert made["score"] is None and made["correctness"] is None and made["reward"] is None
    assert made["id"] == "rl/step-00029/toy/toy-heldout-3/0"


@pytest.mark.parametrize("texts", [(), (HOSTILE,), ("",)])
def test_odd_trajectories_have_a_row_and_a_record(texts):
    entry = Entry(rolled(0, texts=texts, ending="gave_up"), "evaluate/rl")
    assert row(entry)["turns"] == len(record(entry)["turns"]) == len(texts)


def test_numbers_in_names_sort_as_numbers():
    names = ["a-10", "a-9", "a", "b-1", "a-9-2"]
    assert sorted(names, key=natural) == ["a", "a-9", "a-9-2", "a-10", "b-1"]
    assert not re.search(r"\D", "".join(str(number) for number, _ in natural("0012") if number >= 0))


MANY = [Entry(rolled(n, model), f"evaluate/{model}") for n in range(2) for model in ("sft", "rl")] + [
    Entry(rolled(0, "teacher"), "sft/teacher")
]


def test_a_choice_by_source_task_and_model():
    assert select(MANY) == MANY
    assert len(select(MANY, sources=["evaluate"])) == 4
    assert len(select(MANY, sources=["evaluate/rl", "sft"])) == 3
    assert [e.source for e in select(MANY, models=["teacher"], tasks=["toy"])] == ["sft/teacher"]


@pytest.mark.parametrize(
    "choice, said",
    [
        ({"models": ["qwen"]}, r"model = 'qwen': .* there are: rl, sft, teacher"),
        ({"tasks": ["gwas"]}, r"task = 'gwas': .* there are: toy"),
        ({"sources": ["evaluate/base"]}, r"source = 'evaluate/base': .* evaluate/rl"),
        ({"sources": ["sft"], "models": ["rl"]}, r"no recorded trajectory is of source sft, model rl"),
    ],
)
def test_a_choice_that_leaves_nothing_is_said_by_name(choice, said):
    with pytest.raises(DataError, match=said):
        select(MANY, **choice)
