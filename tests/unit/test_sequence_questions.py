"""The teacher's code on questions about sequences: it finds the one right option of every kind, by the tools alone."""

import collections

import numpy as np
import pytest

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


@pytest.mark.parametrize(("printed", "given"), [("c", "c"), ("b e", "be"), ("Traceback a", "abcdef"), ("", "abcdef")])
def test_of_several_equal_options_one_is_answered(printed: str, given: str) -> None:
    (one,) = LabBenchSeqQA(None, DataConfig(train_instances=1), 0).instances("train")
    first = strategy_script("verified")(Conversation(one.prompt, (), ()), np.random.default_rng(0))
    seen = Conversation(one.prompt, (first, "again"), ("a", printed))
    said = {strategy_script("verified")(seen, np.random.default_rng(seed)) for seed in range(40)}
    assert {turn.partition("<solution>\n")[2][0] for turn in said} == set(given)
