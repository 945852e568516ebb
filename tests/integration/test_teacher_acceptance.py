"""What becomes of the scripted teacher's samples on all ten tasks, by task and strategy, in the real sandbox.

Tasks of the public tier are asked where BIOMNI_DATA_MIRROR names its files, and skipped by name elsewhere.
"""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import pytest_asyncio

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import RolloutSettings
from biomni_lib.config import AgentConfig, DataConfig, SandboxConfig
from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import build_public
from biomni_lib.lake.public import MIRROR
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.rejection import accept, acceptance_table, sample_teacher
from biomni_lib.sft.teacher import STRATEGIES
from biomni_lib.tasks import data_lacking, get_task, task_names
from tests.acting_toy import tokenizer

EACH = 15
"""Instances a task: every kind of question on sequences once."""
FLOORS = {
    "rare_disease_diagnosis": 0.7,
    "patient_gene_detection": 0.7,
    "lab_bench_dbqa": 0.7,
    "lab_bench_seqqa": 1.0,
    "crispr_delivery": 0.7,
    "gwas_causal_gene_opentargets": 0.3,
    "gwas_causal_gene_pharmaprojects": 0.2,
    "gwas_causal_gene_gwas_catalog": 0.25,
    "gwas_variant_prioritization": 0.2,
    "screen_gene_retrieval": 0.2,
}
"""Least share of samples accepted when all evidence is used: all where it can be computed, above chance elsewhere."""
WELL_FORMED = sorted(set(STRATEGIES) - {"malformed"})
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]
each_task = pytest.mark.parametrize("name", task_names())


@pytest.fixture(scope="module")
def here(lake_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled lake, with the real public tier beside it where it can be had."""
    folder = tmp_path_factory.mktemp("accepted")
    shutil.copytree(lake_dir, folder / "lake")  # a link would lead the sandbox to where no public tier is
    if os.environ.get(MIRROR):
        build_public(folder / "lake", folder / "downloads", download=False)
    return folder / "lake"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def table(here: Path) -> pd.DataFrame:
    """One row a task whose data are here and strategy."""
    lake, data = Lake.open(here), DataConfig(train_instances=EACH)
    names = [name for name in task_names() if not data_lacking(here).get(name)]
    asked = [one for name in names for one in get_task(name, lake, data, 0).instances("train")]
    settings = RolloutSettings(AgentConfig(max_tokens=20_000), system_prompts("names"), 10)
    sampled = []
    async with await Sandbox.start(SandboxConfig(sessions_max=8), here) as sandbox:
        for strategy in STRATEGIES:
            sampled += await sample_teacher(
                asked,
                sandbox,
                ChatRenderer(tokenizer()),
                settings,
                samples=1,
                seed=0,
                concurrency=8,
                mix={strategy: 1.0},
            )
    runs = [turn for one in sampled if one.format == 1 for turn in one.turns[:-1]]
    assert not [turn.observation for turn in runs if "Error" in turn.observation]
    made = acceptance_table(sampled, accept(sampled, cap=len(STRATEGIES))).set_index(["task", "strategy"])
    print(made.to_string())
    return made


@pytest.fixture
def rows(here: Path, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A task's rows by strategy."""
    if why := data_lacking(here).get(name):
        pytest.skip(f"{name}: {why}")
    return table.loc[name]


@each_task
async def test_the_format_is_kept_and_every_strategy_has_its_samples(rows: pd.DataFrame, name: str) -> None:
    assert set(rows.index) == set(STRATEGIES) and rows["sampled"].eq(EACH).all()
    assert rows.loc[WELL_FORMED, "well_formed"].eq(1.0).all() and rows.loc["malformed", "well_formed"] == 0.0


@each_task
async def test_all_evidence_is_accepted_often_enough(rows: pd.DataFrame, name: str) -> None:
    assert rows.loc[["all_findings", "verified"], "accepted"].min() >= FLOORS[name]


@each_task
async def test_no_strategy_is_without_acceptances_but_the_malformed(rows: pd.DataFrame, name: str) -> None:
    """A guess is right by chance alone: of ten tasks it may find none in one."""
    looking = [strategy for strategy in WELL_FORMED if strategy != "lucky_guess"]
    assert rows.loc[looking, "accepted"].gt(0).all() and rows.loc["malformed", "accepted"] == 0.0
    assert rows.loc[looking, "kept"].gt(0).any()


@each_task
async def test_evidence_pays_and_costs_tokens(rows: pd.DataFrame, name: str) -> None:
    assert rows.loc["verified", "accepted"] > rows.loc["lucky_guess", "accepted"]
    assert rows.loc["verified", "tokens"] >= rows.loc["lucky_guess", "tokens"]
