"""What the stages ask of paid endpoints: the teacher's trajectories, and a frontier model's score as a baseline."""

import asyncio
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from biomni_lib import evaluate
from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout
from biomni_lib.analysis import score_table
from biomni_lib.config import RunConfig
from biomni_lib.engines.api_clients import KEYS, Provider
from biomni_lib.engines.api_engine import ApiEngine
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.provenance import run_lock
from biomni_lib.sandbox import start_environment
from biomni_lib.sft.model_teacher import sample_model
from biomni_lib.stages.evaluate import evaluation_settings, open_heldout
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun
from biomni_lib.tasks import Instance


def paid_requests(config: RunConfig) -> Path:
    """The journal of everything that a run has paid for."""
    return paths(config).run_dir / "endpoint.jsonl"


async def sample_teacher_model(
    run: StageRun,
    instances: Sequence[Instance],
    sandbox: ToolEnvironment,
    renderer: ChatRenderer,
    settings: RolloutSettings,
    key: str,
) -> list[Trajectory]:
    """The trajectories of the teacher that `teacher.engine` and `teacher.model` name, graded.

    Taken from the file where they are there under the same key; otherwise sampled, and gone on with after a stop.
    Raises: SpendingCapError at the cap; ConfigError without a key or prices.
    """
    config, target = run.config, run.paths.teacher
    if run.has(target, key):
        return load_trajectories(target)
    model, provider = config.teacher.model, config.teacher.engine
    if model is None or provider == "scripted":
        raise ConfigError(f"teacher.engine = {provider!r}: has no model to ask; name an endpoint's engine and model")
    folder = target.with_name("teacher-finished") / key[:16]
    engine = ApiEngine.open(provider, model, config.api, renderer, paid_requests(config))

    def tell(done: int, total: int) -> None:
        run.say(f"sft: {model} has finished {done} of {total} trajectories, {engine.spent_usd:.2f} USD spent")

    try:
        with run.making(target, key):
            sampled = await sample_model(
                instances,
                engine,
                sandbox,
                renderer,
                dataclasses.replace(settings, deadlines=False),  # an endpoint's pauses end no trajectory
                folder,
                model=model,
                samples=config.teacher.samples_per_instance,
                seed=config.seed,
                concurrency=config.api.concurrency,
                progress=tell,
            )
            save_trajectories(target, sampled)
    finally:
        await engine.close()
    shutil.rmtree(folder.parent)
    return sampled


def frontier(config: RunConfig, engine: str, model: str) -> pd.DataFrame:
    """Score, interval and length of an endpoint's model on the held-out instances, task by task.

    Raises: ConfigError for an engine that is no endpoint; RunError when the folder is in use.
    """
    if engine not in KEYS:
        raise ConfigError(f"engine = {engine!r}: is no endpoint; allowed: {', '.join(KEYS)}")
    with run_lock(config.run_dir):
        rows = asyncio.run(_frontier(config, engine, model))
    return score_table(rows, draws=config.evaluate.bootstrap, seed=config.seed)


async def _frontier(config: RunConfig, provider: Provider, model: str) -> pd.DataFrame:
    async with await start_environment(config, config.lake_dir) as sandbox:
        return await evaluate_endpoint(config, provider, model, open_heldout(config), sandbox)


async def evaluate_endpoint(
    config: RunConfig, provider: Provider, model: str, instances: Sequence[Instance], sandbox: ToolEnvironment
) -> pd.DataFrame:
    """Roll an endpoint's model out on instances as every model is evaluated.

    Rows and trajectories go to the run's folder `frontier`, beside the evaluation and not into it. Tokens are counted
    by the fine-tuned model's tokenizer, as those of the other models are.
    Returns: rows as in `biomni_lib.evaluate.ROWS`, `model` being PROVIDER-MODEL.
    Raises: DataError when no model has been fine-tuned; SpendingCapError at the cap.
    """
    if not paths(config).sft_model.is_dir():
        raise DataError(f"{paths(config).sft_model}: no tokenizer to count with; run notebook 02 first")
    renderer = ChatRenderer.load(paths(config).sft_model)
    settings = evaluation_settings(config)
    engine = ApiEngine.open(provider, model, config.api, renderer, paid_requests(config))

    async def one(instance: Instance, sample: int, seed: int) -> Trajectory:
        return await rollout(instance, engine, sandbox, renderer, settings, seed=seed, sample=sample)

    name = f"{provider}-{model.replace('/', '-')}"
    try:
        return await evaluate.evaluate(
            name, one, instances, config, paths(config).run_dir / "frontier", key=f"{provider}/{model}"
        )
    finally:
        await engine.close()
