"""The teacher on real patients: it reads the prompt and the observations alone, and keeps or breaks the format."""

import ast
import collections
import dataclasses
import json
import re

import numpy as np
import pytest
import pytest_asyncio

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.protocol import parse_turn
from biomni_lib.agent.rollout import RolloutSettings
from biomni_lib.config import AgentConfig, DataConfig, SandboxConfig
from biomni_lib.engines.scripted import Conversation
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.rejection import sample_teacher
from biomni_lib.sft.teacher import SOURCES, STRATEGIES, strategy_script
from biomni_lib.tasks import Instance, get_task
from biomni_lib.tasks.phenotypes import PATIENT_TASKS
from biomni_lib.tools import tool_names
from tests.acting_toy import tokenizer

PER_TASK = 10
DATA = DataConfig(train_instances=PER_TASK, dev_instances=1, heldout_instances=1)
pytestmark = pytest.mark.timeout(300)  # the first test may have to build the lake
in_module_loop = pytest.mark.asyncio(loop_scope="module")
well_formed = pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"malformed"}))


@pytest.fixture(scope="module")
def instances(lake) -> list[Instance]:
    return [i for name in PATIENT_TASKS for i in get_task(name, lake, DATA, 0).instances("train")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(lake_dir):
    async with await Sandbox.start(SandboxConfig(sessions_max=8), lake_dir) as started:
        yield started


async def roll(sandbox: Sandbox, instances: list[Instance], strategy: str, seed: int = 0) -> list[Trajectory]:
    settings = RolloutSettings(AgentConfig(max_tokens=3000), system_prompts("names"), 10)
    chat = ChatRenderer(tokenizer())
    return await sample_teacher(
        instances, sandbox, chat, settings, samples=1, seed=seed, concurrency=8, mix={strategy: 1.0}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rolled(sandbox, instances) -> dict[str, list[Trajectory]]:
    return {strategy: await roll(sandbox, instances, strategy) for strategy in STRATEGIES}


@in_module_loop
@well_formed
async def test_every_well_formed_strategy_keeps_the_format_and_answers(rolled, strategy: str) -> None:
    for one in rolled[strategy]:
        assert (one.format, one.ending, one.strategy) == (1.0, "solved", strategy)
        assert isinstance(json.loads(one.answer), dict)
        assert all("Error" not in turn.observation and turn.observation for turn in one.turns[:-1])


@in_module_loop
async def test_malformed_turns_break_the_format_in_more_ways_than_one(rolled) -> None:
    assert {one.format for one in rolled["malformed"]} == {0.0}
    assert len({one.ending for one in rolled["malformed"]}) > 1


@in_module_loop
async def test_quality_and_length_are_crossed(rolled) -> None:
    correct = {name: np.mean([t.correctness for t in rolled[name]]) for name in STRATEGIES}
    turns = {name: np.mean([len(t.turns) for t in rolled[name]]) for name in STRATEGIES}
    assert correct["verified"] > correct["lucky_guess"] + 0.15  # chance is one candidate in six
    assert turns["one_by_one"] > turns["all_findings"]


@in_module_loop
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
async def test_only_the_prompt_and_the_seed_decide(sandbox, instances, rolled, strategy: str) -> None:
    some = instances[::5]
    blind = [dataclasses.replace(i, gold="nothing", meta={}) for i in some]
    first, again = await roll(sandbox, some, strategy), await roll(sandbox, blind, strategy)
    assert [t.token_ids.tolist() for t in first] == [t.token_ids.tolist() for t in again]
    assert {t.correctness for t in again} == {0.0}


@well_formed
def test_an_answer_is_what_the_code_printed(instances, strategy: str) -> None:
    """Other observations, other answers: what is answered was printed by the agent's code."""
    for instance in (instances[0], instances[-1]):
        for answer in ('{"disease_name": "Some name", "OMIM_ID": "123456"}', '{"causal_gene": ["ENSG00000999999"]}'):
            turns: tuple[str, ...] = ()
            while "<solution>" not in (turns or ("",))[-1]:
                seen = Conversation(instance.prompt, turns, (f"0.5 {answer}",) * len(turns))
                turns += (strategy_script(strategy)(seen, np.random.default_rng(3)),)
                assert len(turns) <= 6
            solution = parse_turn(turns[-1]).content
            assert json.loads(solution) == json.loads(answer)
            assert re.findall(r"\d{6,}", solution)[0] == re.findall(r"\d{6,}", answer)[0]


@in_module_loop
async def test_every_strategy_that_runs_code_names_the_facts_at_the_same_place(rolled) -> None:
    """The same words of thought, in number, before the same lines of code: models copy by distance."""
    for number in range(2 * PER_TASK):
        firsts = {name: rolled[name][number].turns[0] for name in set(STRATEGIES) - {"malformed"}}
        running = list(firsts.values())
        assert all(turn.code for turn in running)
        assert len({len(re.findall(r"\w+|\S", turn.text.partition("</think>")[0])) for turn in running}) == 1
        assert len({turn.code.partition("\nt, e, genes = ")[0] for turn in running}) == 1


@in_module_loop
async def test_every_answer_stands_at_one_distance_from_what_was_printed(rolled) -> None:
    """The id comes last in the observation and first in the answer, with the same thought between."""
    for name in set(STRATEGIES) - {"malformed"}:
        for one in rolled[name]:
            printed, turn = one.turns[-2].observation, one.turns[-1].text
            id_printed, id_answered = (list(re.finditer(r"\d{6,}", text)) for text in (printed, turn))
            assert id_printed[-1][0] == id_answered[0][0]
            assert len(printed) - id_printed[-1].end() <= 3
            assert turn[: id_answered[0].start()] in (
                '<think>\nI answer what my code has found.\n</think>\n<solution>\n{"OMIM_ID": "',
                '<think>\nI answer what my code has found.\n</think>\n<solution>\n{"causal_gene": ["ENSG',
            )


@in_module_loop
async def test_a_tool_that_fails_does_not_stop_the_teacher(sandbox) -> None:
    lines = "Phenotypes: {}\nExcluded phenotypes: none\nCandidate genes: {}\nOutput format: "
    prompt = lines.format("HP:9999999", "ENSG99999999999") + '{"disease_name": ..., "OMIM_ID": ...}'
    for strategy in STRATEGIES:
        (one,) = await roll(
            sandbox, [Instance(prompt, '{"OMIM_ID": "100000"}', "rare_disease_diagnosis", "x")], strategy
        )
        assert one.correctness == 0.0 and one.ending


@in_module_loop
async def test_the_code_composes_the_tools(rolled) -> None:
    code = " ".join(turn.code for many in rolled.values() for one in many for turn in one.turns)
    used = collections.Counter({name: code.count(f"{name}(") for name in tool_names()})
    assert sum(count > 0 for count in used.values()) >= 3


def test_the_sources_are_closed_under_the_imports_that_decide_what_is_written() -> None:
    """An evaluation of the teacher is made again when one of them changes: none may be forgotten."""
    imported = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("biomni_lib.sft"):
                named = node.module.removeprefix("biomni_lib.sft").removeprefix(".")
                imported |= {named} if named else {alias.name for alias in node.names}
    assert imported == {source.stem for source in SOURCES} - {"teacher"}
