"""What the stages ask of paid endpoints: the teacher's trajectories, and the evaluation of a model as a baseline."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from biomni_lib import evaluate
from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout
from biomni_lib.config import RunConfig
from biomni_lib.engines.api_clients import Provider
from biomni_lib.engines.api_engine import ApiEngine
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.sft.model_teacher import sample_model
from biomni_lib.stages.evaluate import evaluation_settings
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


async def evaluate_endpoint(
    config: RunConfig,
    name: str,
    provider: Provider,
    model: str,
    instances: Sequence[Instance],
    sandbox: ToolEnvironment,
    folder: Path,
) -> pd.DataFrame:
    """Roll an endpoint's model out on instances as every model is evaluated.

    Tokens are counted by the fine-tuned model's tokenizer, as those of the other models are; `usd` is what the replies
    cost when they were paid for, also where the journal gives them now.

    Args:
        name: of the model in the rows. provider, model: what is asked. folder: gets rows and trajectories.
    Returns: rows as in `biomni_lib.evaluate.ROWS`.
    Raises: DataError when no model has been fine-tuned; SpendingCapError at the cap.
    """
    if not paths(config).sft_model.is_dir():
        raise DataError(f"{paths(config).sft_model}: no tokenizer to count with; run notebook 02 first")
    renderer = ChatRenderer.load(paths(config).sft_model)
    settings = evaluation_settings(config)
    engine = ApiEngine.open(provider, model, config.api, renderer, paid_requests(config))

    async def one(instance: Instance, sample: int, seed: int) -> Trajectory:
        return await rollout(instance, engine, sandbox, renderer, settings, seed=seed, sample=sample)

    decides = f"{provider}/{model} at {config.api.url or 'its own endpoint'}"
    try:
        return await evaluate.evaluate(
            name, one, instances, config, folder, key=decides, at_once=config.api.concurrency
        )
    finally:
        await engine.close()
