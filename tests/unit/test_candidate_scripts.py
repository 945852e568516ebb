"""The scripted teacher among candidates, on a toy genome whose right answers are known by construction."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import RolloutSettings
from biomni_lib.config import AgentConfig, DataConfig, SandboxConfig
from biomni_lib.engines.scripted import Conversation
from biomni_lib.lake import Lake
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.rejection import sample_teacher
from biomni_lib.sft.teacher import STRATEGIES, strategy_script
from biomni_lib.tasks import PUBLIC_TASKS, Instance, get_task
from biomni_lib.tools import domains_for, tool_names
from tests.acting_toy import tokenizer
from tests.toy_gwas import build_toy

OPEN_TARGETS, *_ = PUBLIC_TASKS
DATA = DataConfig(train_instances=5)
WELL_FORMED = sorted(set(STRATEGIES) - {"malformed"})
pytestmark = pytest.mark.timeout(300)  # the first test may have to build the lake
in_module_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def toy_dir(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(lake_dir, folder / "lake")
    build_toy(folder / "lake", folder / "files")
    return folder / "lake"


@pytest.fixture(scope="module")
def instances(toy_dir: Path) -> list[Instance]:
    lake = Lake.open(toy_dir)
    return [one for name in PUBLIC_TASKS for one in get_task(name, lake, DATA, 0).instances("train")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rolled(toy_dir: Path, instances: list[Instance]) -> dict[str, list[Trajectory]]:
    settings = RolloutSettings(AgentConfig(max_tokens=8000), system_prompts("names"), 10)
    chat, found = ChatRenderer(tokenizer()), {}
    async with await Sandbox.start(SandboxConfig(sessions_max=8), toy_dir) as sandbox:
        for strategy in (*STRATEGIES, "blind"):
            asked = instances if strategy != "blind" else [dataclasses.replace(i, gold="-", meta={}) for i in instances]
            mix = {strategy if strategy != "blind" else "verified": 1.0}
            found[strategy] = await sample_teacher(
                asked, sandbox, chat, settings, samples=1, seed=0, concurrency=8, mix=mix
            )
    return found


@in_module_loop
@pytest.mark.parametrize("strategy", WELL_FORMED)
async def test_every_strategy_answers_a_candidate_that_its_code_printed(rolled, instances, strategy: str) -> None:
    for instance, one in zip(instances, rolled[strategy], strict=True):
        candidates = instance.meta["candidates"]
        assert (one.format, one.ending) == (1.0, "solved") and one.answer in candidates
        assert all(turn.observation in candidates for turn in one.turns[:-1])
        assert strategy == "lucky_guess" or one.answer == one.turns[-2].observation
    assert {one.format for one in rolled["malformed"]} == {0.0}


@in_module_loop
async def test_strategies_differ_in_depth_and_the_nearest_gene_is_found(rolled, instances) -> None:
    turns = {name: {len(one.turns) for one in rolled[name]} for name in WELL_FORMED}
    assert turns == {"lucky_guess": {1}, "one_finding": {2}, "all_findings": {2}, "verified": {3}, "one_by_one": {4}}
    for name in ("all_findings", "verified"):  # no phenotype knows the toy's genes, all are enzymes: the place decides
        scores = [t.correctness for t in rolled[name] if t.task == OPEN_TARGETS]
        assert scores == [1.0] * DATA.train_instances


@in_module_loop
async def test_only_the_prompt_and_the_seed_decide(rolled) -> None:
    first, blind = ([t.token_ids.tolist() for t in rolled[name]] for name in ("verified", "blind"))
    assert first == blind and {t.correctness for t in rolled["blind"]} == {0.0}


@in_module_loop
async def test_the_code_calls_no_tool_that_the_prompt_does_not_list(rolled) -> None:
    every = set(tool_names([*domains_for(OPEN_TARGETS), "sequences"]))
    for one in (one for many in rolled.values() for one in many):
        named = {word for turn in one.turns for word in re.findall(r"\w+", turn.code)}
        assert named & every <= set(tool_names(domains_for(one.task)))


def test_other_observations_give_other_answers(instances: list[Instance]) -> None:
    one = instances[0]
    for printed in (*one.meta["candidates"], "Traceback"):
        seen = Conversation(one.prompt, ("first",), (printed,))
        turn = strategy_script("all_findings")(seen, np.random.default_rng(3))
        given = turn.partition("<solution>\n")[2].partition("\n")[0]
        assert given == printed if printed != "Traceback" else given in one.meta["candidates"]
