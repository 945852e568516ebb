"""The scripted teacher on questions with options: what it writes, and how often it is right."""

import collections
import re

import numpy as np
import pytest
import pytest_asyncio

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import RolloutSettings
from biomni_lib.config import AgentConfig, DataConfig, SandboxConfig
from biomni_lib.engines.scripted import Conversation
from biomni_lib.errors import ConfigError
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.pretraining import ANSWERS, copy_documents
from biomni_lib.sft.question_scripts import KINDS, Question
from biomni_lib.sft.rejection import sample_teacher
from biomni_lib.sft.teacher import STRATEGIES, strategy_script
from biomni_lib.tasks import Instance, get_task
from biomni_lib.tasks.choices import read_options
from tests.acting_toy import tokenizer

TASKS = ("lab_bench_dbqa", "crispr_delivery")
DATA = DataConfig(train_instances=32, dev_instances=1, heldout_instances=1)
pytestmark = pytest.mark.timeout(300)  # the first test may have to build the lake
in_module_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def instances(lake) -> list[Instance]:
    return [i for name in TASKS for i in get_task(name, lake, DATA, 0).instances("train")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rolled(lake_dir, instances) -> dict[str, list[Trajectory]]:
    settings = RolloutSettings(AgentConfig(max_tokens=6000), system_prompts("names"), 10)
    chat, found = ChatRenderer(tokenizer()), {}
    async with await Sandbox.start(SandboxConfig(sessions_max=8), lake_dir) as sandbox:
        for strategy in STRATEGIES:
            found[strategy] = await sample_teacher(
                instances, sandbox, chat, settings, samples=1, seed=0, concurrency=8, mix={strategy: 1.0}
            )
    return found


@in_module_loop
@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"malformed"}))
async def test_every_well_formed_strategy_answers_a_letter(rolled, strategy: str) -> None:
    for one in rolled[strategy]:
        assert (one.format, one.ending) == (1.0, "solved")
        assert re.fullmatch("[a-f]", one.answer)
        assert all(re.fullmatch("[a-f]", turn.observation) for turn in one.turns[:-1])
    assert {one.format for one in rolled["malformed"]} == {0.0}


@in_module_loop
async def test_depth_pays_and_every_kind_can_be_answered(rolled, instances) -> None:
    right: dict[str, list[float]] = collections.defaultdict(list)
    for instance, one in zip(instances, rolled["verified"], strict=True):
        right[instance.meta.get("kind", "case")].append(one.correctness)
    assert len(right) == len(KINDS) + 1
    assert min(np.mean(scores) for scores in right.values()) >= 0.5
    means = {name: np.mean([t.correctness for t in rolled[name]]) for name in STRATEGIES}
    assert means["lucky_guess"] < means["one_finding"] < means["verified"]
    turns = {name: np.mean([len(t.turns) for t in rolled[name]]) for name in STRATEGIES}
    assert turns["lucky_guess"] < turns["all_findings"] < turns["one_by_one"]


def test_questions_that_name_things_can_be_answered_too(lake) -> None:
    config = DATA.model_copy(update={"names": True})
    for instance in get_task("lab_bench_dbqa", lake, config, 0).instances("train"):
        code = Question(instance.prompt).setup()
        namespace: dict[str, object] = {}
        exec("\n".join(code.split("\n")[:-2]), namespace)  # our own script's reading of the prompt, no tool
        ids = [text.rpartition("(")[2].removesuffix(")") for text in read_options(instance.prompt).values()]
        assert list(namespace["o"].values()) == ids


def test_a_question_of_another_task_is_refused_by_name() -> None:
    seen = Conversation("Task: which of the drugs is older?\nOptions:\na: one\nOutput format: one letter", (), ())
    with pytest.raises(ConfigError, match=r"cannot answer 'Task: .+ older\?'; take its task out of data\.tasks"):
        strategy_script("verified")(seen, np.random.default_rng(0))


def test_a_copy_document_of_a_question_repeats_it_with_other_digits(instances) -> None:
    chat = ChatRenderer(tokenizer())
    questions = [instance for instance in instances if instance.task == "lab_bench_dbqa"]
    documents = copy_documents(instances, chat, count=20, seed=0)
    for document in documents:
        text, copied = chat.decode(document.ids), chat.decode(document.ids[document.mask])
        told = text.partition("user\nTask: ")[2].partition("\n")[2].partition("\nOutput format")[0]
        assert read_options(told) and f'"""{told}"""' in copied
        answered = re.findall(r"<observation>\n(.)\n</observation>.*?<solution>\n(.)", text, re.DOTALL)
        assert len(answered) == ANSWERS and all(shown == given in set("abcdef") for shown, given in answered)
    ids = {id for question in questions for id in re.findall(r"ENSG\d+|OMIM:\d+|HP:\d+", question.prompt)}
    drawn = {id for d in documents for id in re.findall(r"ENSG\d+|OMIM:\d+|HP:\d+", chat.decode(d.ids))}
    assert len(drawn - ids) > 0.9 * len(drawn)
