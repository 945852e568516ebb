"""The teacher's code on questions about sequences: it finds the one right option of every kind, by the tools alone."""

import collections
import contextlib
import io
import re

import numpy as np
import pytest

from biomni_lib.agent.protocol import parse_turn
from biomni_lib.config import DataConfig
from biomni_lib.engines.scripted import Conversation
from biomni_lib.sft.question_scripts import Question
from biomni_lib.sft.sequence_questions import KINDS as CODE
from biomni_lib.sft.teacher import strategy_script
from biomni_lib.tasks.seqqa import KINDS, LabBenchSeqQA
from biomni_lib.tools.sequences import TOOLS

EACH = 6


def test_every_kind_is_answered_by_its_only_right_option() -> None:
    task = LabBenchSeqQA(None, DataConfig(train_instances=EACH * len(KINDS)), 0)
    asked, used = collections.Counter[str](), set[str]()
    for one in task.instances("train"):
        names = {tool.__name__: tool for tool in TOOLS}
        question = Question(one.prompt)
        exec(question.setup() + "b = [k for k in o if f(k) == max(map(f, o))]", names)  # our own script's code
        assert names["b"] == [one.gold], one.id
        asked[one.meta["kind"]] += 1
        used.add(question.score)
    assert set(asked.values()) == {EACH} and len(asked) == len(KINDS) == 15
    assert used == {score for _, score in CODE.values()}


@pytest.mark.parametrize("strategy", ["one_finding", "one_by_one", "all_findings", "verified"])
def test_every_turn_of_every_kind_prints_a_letter(strategy: str) -> None:
    for one in LabBenchSeqQA(None, DataConfig(train_instances=len(KINDS)), 1).instances("train"):
        names, turns, printed = {tool.__name__: tool for tool in TOOLS}, tuple[str, ...](), tuple[str, ...]()
        while "<solution>" not in (turns or ("",))[-1]:
            seen = Conversation(one.prompt, turns, printed)
            turns += (strategy_script(strategy)(seen, np.random.default_rng(2)),)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(parse_turn(turns[-1]).content if "<execute>" in turns[-1] else "", names)  # our own script's code
            printed += (output.getvalue().strip(),)
        assert all(re.fullmatch("[a-f]", text) for text in printed[:-1]) and len(printed) >= 2
        assert parse_turn(turns[-1]).content == printed[-2]


@pytest.mark.parametrize(("printed", "given"), [("c", "c"), ("b e", "be"), ("Traceback a", "abcdef"), ("", "abcdef")])
def test_of_several_equal_options_one_is_answered(printed: str, given: str) -> None:
    (one,) = LabBenchSeqQA(None, DataConfig(train_instances=1), 0).instances("train")
    first = strategy_script("verified")(Conversation(one.prompt, (), ()), np.random.default_rng(0))
    seen = Conversation(one.prompt, (first, "again"), ("a", printed))
    said = {strategy_script("verified")(seen, np.random.default_rng(seed)) for seed in range(40)}
    assert {turn.partition("<solution>\n")[2][0] for turn in said} == set(given)
