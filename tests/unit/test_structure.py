"""What answers are made of, on code written down by hand, on the scripted teacher, and on a trajectory's own tokens."""

import numpy as np
import pytest

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.agent.protocol import parse_turn
from biomni_lib.agent.structure import Call, count_structure, thinking_tokens, tool_calls_in
from biomni_lib.engines.scripted import Conversation
from biomni_lib.sft.teacher import strategy_script
from tests.acting_toy import renderer

PROMPT = (
    "Task: diagnose.\nPhenotypes: HP:0001250, HP:0004322, HP:0000407\nExcluded phenotypes: HP:0001369\n"
    'Candidate genes: ENSG00000157764, ENSG00000141510\nOutput format: {"disease_name": ..., "OMIM_ID": ...}'
)


def blocks(*codes: str) -> list[Turn]:
    return [Turn(0, 0, "execute", "", code=code) for code in codes]


def counts(*codes: str, ending: str = "solved") -> tuple[int, int, int]:
    """Evidence steps, verifications, repeated calls."""
    found = count_structure(blocks(*codes), ending)
    return found["evidence_steps"], found["verifications"], found["repeated_calls"]


def test_calls_are_those_of_tools_by_name_in_the_order_of_the_text():
    code = "x = match_score(t, max(o))\nprint(len(x))\nfor d in diseases_of_gene('G'): contradictions(e, d)"
    assert tool_calls_in(code) == [
        Call("match_score", "match_score(t, max(o))"),
        Call("diseases_of_gene", "diseases_of_gene('G')"),
        Call("contradictions", "contradictions(e, d)"),
    ]
    for nothing in (
        "print(1)",
        "lake.match_score(t)",
        "# match_score(t, o)",
        "'match_score(t, o)'",
        "def broken(:",
        "",
    ):
        assert tool_calls_in(nothing) == []
    assert tool_calls_in("#!BASH\nls | wc -l") == []


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], (0, 0, 0)),
        (["print(1)"], (0, 0, 0)),
        (["match_score(t, o)"], (1, 0, 0)),
        (["match_score(t[0], o)", "match_score(t[1], o)"], (2, 0, 0)),  # more of the same is no verification
        (["match_score(t, o)", "print(2)", "match_score(t, o)"], (2, 0, 1)),
        (["match_score(t, o)", "match_score(t,  o) - contradictions(e, o)"], (2, 1, 1)),  # spaces do not matter
        (["diseases_of_gene(x)", "match_score(t, o)"], (2, 0, 0)),  # another tool alone: the next step
        (["match_score(t, o) + match_score(t, o)"], (1, 0, 0)),  # within one block nothing is repeated
    ],
)
def test_evidence_verification_and_repetition(codes, expected):
    assert counts(*codes) == expected


def test_the_block_of_a_last_turn_too_many_was_not_run():
    codes = ("match_score(t, o)", "match_score(t, o) - contradictions(e, o)")
    assert counts(*codes) == (2, 1, 1)
    assert counts(*codes, ending="turn_limit") == (1, 0, 0)
    assert counts(ending="turn_limit") == (0, 0, 0)


@pytest.mark.parametrize(
    ("strategy", "evidence", "verifications"),
    [("one_finding", 1, 0), ("all_findings", 1, 0), ("one_by_one", 3, 0), ("verified", 2, 1)],
)
def test_the_strategies_of_the_teacher_are_told_apart(strategy, evidence, verifications):
    script, turns, observations = strategy_script(strategy), [], []
    while not turns or turns[-1].kind == "execute":
        said = Conversation(PROMPT, tuple(turn.text for turn in turns), tuple(observations))
        text = script(said, np.random.default_rng(0))
        parsed = parse_turn(text)
        turns.append(Turn(0, 0, parsed.kind, text, code=parsed.content if parsed.kind == "execute" else ""))
        observations.append("1.0 {}")
    found = count_structure(turns, "solved")
    assert (found["evidence_steps"], found["verifications"]) == (evidence, verifications)


@pytest.mark.parametrize(
    ("texts", "thoughts"),
    [
        (["<think>\nI look it up.\n</think>\n<solution>4</solution>"], ["\nI look it up.\n"]),
        (["<think>\na\n</think>\n<execute>\nprint(1)\n</execute>", "<think>\nb c\n</think>\n"], ["\na\n", "\nb c\n"]),
        (["No thought.</think> <solution>4</solution>"], []),
        (["<think>\nI never end"], ["\nI never end"]),
    ],
)
def test_thinking_tokens_are_those_between_the_tags(texts, thoughts):
    chat, made = renderer(), Trajectory("t", "one")
    for text in texts:
        start, ids = len(made.token_ids), chat.assistant(text)
        made.append(ids, sampled=True)
        made.turns.append(Turn(start, start + len(ids), "none", text))
        made.append(chat.observation("<think>\nnot mine\n</think>"), sampled=False)
    assert thinking_tokens(made, chat) == sum(len(chat.plain(thought)) for thought in thoughts)
