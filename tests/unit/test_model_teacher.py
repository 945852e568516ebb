"""A paid teacher's sampling: stopped at the cap or by a failure it goes on, and pays for nothing twice."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.rollout import ToolEnvironment
from biomni_lib.config import RunConfig, load_config
from biomni_lib.engines.api_budget import Journal, SpendingCapError
from biomni_lib.errors import DataError, EngineError
from biomni_lib.sandbox.observation import Observation
from biomni_lib.sft.model_teacher import sample_model
from biomni_lib.sft.rejection import accept, acceptance_table
from biomni_lib.sft.train import to_example
from biomni_lib.stages import endpoint as stage
from biomni_lib.stages import sft
from biomni_lib.stages.evaluate import evaluation_settings
from biomni_lib.stages.loadtest.rollouts import InstantTools
from biomni_lib.stages.stage import StageRun
from biomni_lib.tasks import Instance
from tests.acting_toy import model, renderer
from tests.chat_endpoints import Messages, serving

RUN = "<think>\nx\n</think>\n<execute>\nprint(1)\n</execute>"
TASK = "gwas_variant_prioritization"
INSTANCES = [Instance(f"Which of the variants? {n}", f"rs{n}", TASK, f"train-{n}", "train") for n in range(6)]
TOOLS = InstantTools(Observation("1", ok=True, seconds=0.0, truncated=False))
PRICES = "[m]\ninput = 1.0\noutput = 1000000.0\n"  # one USD a written token


async def knows(messages: Messages, max_tokens: int) -> str:
    """Runs code, then answers with the number in its question."""
    if messages[-1]["content"].startswith("<observation>"):
        return f"<think>\nx\n</think>\n<solution>rs{messages[1]['content'].split()[-1]}</solution>"
    return RUN


WRITTEN = len(RUN.split()) - 1 + 4
"""Words that it writes on an instance; the stop string's is not billed."""


def settings(root: Path, url: str, **api: Any) -> RunConfig:
    (root / "prices.toml").write_text(PRICES)
    api = {"url": url, "prices": str(root / "prices.toml"), "concurrency": 2, "retries": 0, **api}
    teacher = {"engine": "openai", "model": "m", "samples_per_instance": 2}
    agent = {"max_turn_tokens": 30, "max_tokens": 1000}
    return load_config("smoke", runs_root=root / "runs", api=api, teacher=teacher, agent=agent)


def opened(config: RunConfig) -> StageRun:
    run = StageRun(config, "sft")
    if not run.paths.base.is_dir():
        model().save_pretrained(run.paths.base)
        renderer().tokenizer.save_pretrained(run.paths.base)
    return run


async def sample(config: RunConfig, tools: ToolEnvironment = TOOLS) -> list[Trajectory]:
    return await sft.sample(opened(config), INSTANCES, tools, renderer())


async def test_a_teacher_behind_an_endpoint_is_sampled_graded_and_learned_from(tmp_path: Path) -> None:
    async with serving(knows) as endpoint:
        config = settings(tmp_path, endpoint.url, spend_max_usd=10_000)
        sampled = await sample(config)
        asked = len(endpoint.asked)
        again = await sample(config)
    assert [(t.instance_id, t.sample) for t in sampled] == [(i.id, n) for i in INSTANCES for n in range(2)]
    assert all((t.correctness, t.format, t.strategy, t.ending) == (1, 1, "m", "solved") for t in sampled)
    assert {int(v) for t in sampled for v in t.policy_versions} == {-1}
    kept = accept(sampled, cap=2)
    assert len(kept) == len(INSTANCES)  # the two samples say the same
    learned = to_example(kept[0])
    assert renderer().decode(learned.ids[learned.mask]) == "".join(kept[0].assistant_turns)
    assert acceptance_table(sampled, kept)[["strategy", "accepted"]].to_numpy().tolist() == [["m", 1.0]]
    assert asked == len(endpoint.asked) == 2 * len(sampled)
    assert [t.token_ids.tolist() for t in again] == [t.token_ids.tolist() for t in sampled]
    assert not (StageRun(config, "sft").paths.sft / "teacher-finished").exists()


async def test_at_the_cap_the_sampling_stops_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    total = WRITTEN * 2 * len(INSTANCES)
    async with serving(knows) as endpoint:
        low = settings(tmp_path, endpoint.url, spend_max_usd=total / 2)
        with pytest.raises(SpendingCapError, match=r"api\.spend_max_usd"):
            await sample(low)
        paid, finished = len(endpoint.asked), list((StageRun(low, "sft").paths.sft).rglob("0*.parquet"))
        assert 0 < len(finished) < 12
        high = settings(tmp_path, endpoint.url, spend_max_usd=10 * total)
        sampled = await sample(high)
    assert len(endpoint.asked) == 2 * len(sampled) == 24 and 0 < paid < 24
    journal = Journal(stage.paid_requests(high))
    assert journal.spent_usd == pytest.approx(total, rel=1e-3)  # every turn was paid for once
    journal.close()


async def test_a_failure_loses_no_finished_trajectory_nor_a_paid_turn(tmp_path: Path) -> None:
    async with serving(knows) as endpoint:
        config = settings(tmp_path, endpoint.url, spend_max_usd=10_000, concurrency=1)
        reached = 0

        async def fails(messages: Messages, max_tokens: int) -> str:
            nonlocal reached
            reached += 1
            if reached == 6:  # the second turn of the third trajectory
                endpoint.faults.append(500)
            return await knows(messages, max_tokens)

        endpoint.speak = fails
        with pytest.raises(EngineError, match="InternalServerError"):
            await sample(config)
        finished = sorted(file.name for file in StageRun(config, "sft").paths.sft.rglob("0*.parquet"))
        assert finished == ["000000-000.parquet", "000000-001.parquet", "000001-000.parquet"]
        endpoint.speak = knows
        sampled = await sample(config)
    assert len(endpoint.asked) == 2 * len(sampled) + 1  # the one that failed


async def test_benchmarks_are_not_taught(tmp_path: Path) -> None:
    forbidden = [Instance("p", "g", TASK, "eval1/1", "heldout")]
    options = {"model": "m", "samples": 1, "seed": 0, "concurrency": 1}
    async with serving(knows) as endpoint:
        config = settings(tmp_path, endpoint.url)
        engine = stage.ApiEngine.open("openai", "m", config.api, renderer(), tmp_path / "paid.jsonl")
        try:
            with pytest.raises(DataError):
                await sample_model(
                    forbidden, engine, TOOLS, renderer(), evaluation_settings(config), tmp_path, **options
                )
        finally:
            await engine.close()
    assert not endpoint.asked


async def test_a_frontier_model_is_evaluated_like_any_other(tmp_path: Path) -> None:
    async def asked(config: RunConfig) -> pd.DataFrame:
        return await stage.evaluate_endpoint(config, "m", "openai", "org/m", INSTANCES, TOOLS, tmp_path / "out")

    async with serving(knows) as endpoint:
        config = settings(tmp_path, endpoint.url, spend_max_usd=10_000)
        with pytest.raises(DataError, match="no tokenizer to count with"):
            await asked(config)
        shutil.copytree(opened(config).paths.base, opened(config).paths.sft_model)
        (tmp_path / "prices.toml").write_text(PRICES.replace("[m]", '["org/m"]'))
        rows = await asked(config)
        requests = len(endpoint.asked)
        again = await asked(config)
        shutil.rmtree(tmp_path / "out")
        anew = await asked(config)
    assert (len(rows), rows["score"].mean(), rows["format"].mean(), set(rows["model"])) == (6, 1, 1, {"m"})
    assert len(endpoint.asked) == requests and again.equals(rows)
    read = 2 * 1e-6 * 10_000  # of two turns, at most: what was read costs next to nothing here
    assert rows["usd"].between(WRITTEN, WRITTEN + read).all()
    assert anew["usd"].tolist() == rows["usd"].tolist()  # what was paid then, although nothing is paid now
