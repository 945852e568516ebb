"""Stage 4: every heuristic, the teacher and every model on the held-out instances, which no earlier stage opens.

All are asked the same questions under the same seeds. Heuristics and the scripted teacher repeat exactly; a model's
answers repeat on one machine and its scores stay within their interval elsewhere.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biomni_lib import evaluate, figures
from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import Budget, RolloutSettings, rollout
from biomni_lib.analysis import difference_by_seed, failure_endings, score_table, summarize
from biomni_lib.config import RunConfig
from biomni_lib.engines.base import over_losses
from biomni_lib.engines.scripted import ScriptedEngine
from biomni_lib.errors import DataError, RunError
from biomni_lib.provenance import Manifest, code_hash, config_hash, read_manifest
from biomni_lib.sandbox import Environment, start_environment
from biomni_lib.sft import teacher
from biomni_lib.sft.rejection import draw_strategy
from biomni_lib.stages.build_data import first_of_each, load_instances, open_lake, open_tasks
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import pooled_rows, published_seeds
from biomni_lib.stages.stage import StageRun, key_of
from biomni_lib.tasks import Instance, Task
from biomni_lib.tracking import Tracker

STAGE = "evaluate"
IN_TRAINING = ("base", "sft", "rl")
SETTINGS = ("seed", "prompt", "agent", "sandbox", "evaluate")
"""Settings that decide a rollout's outcome beside the weights."""


def open_heldout(config: RunConfig) -> list[Instance]:
    """The first `evaluate.instances` held-out instances of every task; all of a task that has fewer.

    Raises: DataError when the data are not there.
    """
    return first_of_each(load_instances(config, "heldout"), config.evaluate.instances)


def evaluate_heuristics(run: StageRun, tasks: Mapping[str, Task], instances: Sequence[Instance]) -> pd.DataFrame:
    """Grade every heuristic on every instance, unless the same code did; rows as in `biomni_lib.evaluate.ROWS`."""
    run.say("evaluate heuristics")
    part, key = evaluate.rows_file(run.paths.evaluate, "baselines"), _key(run.config, [], code_hash())
    if run.has(part, key):
        return evaluate.read_rows(part)
    with run.making(part, key):
        return evaluate.evaluate_baselines(tasks, instances, run.config, run.paths.evaluate)


async def evaluate_teacher(
    run: StageRun, model: str, mix: Mapping[str, float], instances: Sequence[Instance], sandbox: Environment
) -> pd.DataFrame:
    """Roll the scripted teacher out.

    Args:
        model: its name in the rows. mix: how often each strategy is followed.
    Returns: rows, with the strategy of each.
    """
    renderer = ChatRenderer.load(run.paths.sft_model)
    engines = {strategy: ScriptedEngine(teacher.strategy_script(strategy), renderer) for strategy in mix}
    settings = evaluation_settings(run.config)

    async def one(instance: Instance, sample: int, seed: int) -> Trajectory:
        strategy = draw_strategy(mix, np.random.default_rng(seed))
        trajectory = await rollout(
            instance, engines[strategy], sandbox, renderer, settings, seed=seed, sample=sample, model=model
        )
        trajectory.strategy = strategy
        return trajectory

    decides = [*teacher.SOURCES, run.paths.sft_model / "tokenizer.json"]
    return await evaluate_part(run, model, one, instances, _key(run.config, decides, str(dict(mix))))


async def evaluate_model(
    run: StageRun, model: str, model_dir: Path, instances: Sequence[Instance], sandbox: Environment
) -> pd.DataFrame:
    """Load a model into an engine, roll it out, and close the engine.

    Args:
        model: its name in the rows. model_dir: its folder, with its tokenizer.
    Raises: DataError when the folder has no model.
    """
    opened = OpenModel(run.config, model_dir, sandbox)
    try:
        return await evaluate_part(run, model, opened.rollout, instances, model_key(run.config, model, model_dir))
    finally:
        await opened.close()


def model_key(config: RunConfig, model: str, model_dir: Path) -> str:
    """What decides a model's answers: settings, instances, weights. Raises: DataError when the folder has no model."""
    if not (model_dir / "config.json").is_file():
        raise DataError(f"{model_dir}: no model {model}; run the notebooks before this one (make notebooks)")
    return _key(config, [model_dir])


def finish(run: StageRun, rows: pd.DataFrame) -> Manifest:
    """Record the stage, its headline numbers among the results and as metrics: eval/TASK/{score, ci_low, ci_high} of
    the models in the order of training, a step each."""
    p = run.paths
    results = {"tasks": summarize(rows, run.config)["tasks"]}
    with Tracker(p.run_dir, STAGE, run.config) as tracker:
        for step, model in enumerate(IN_TRAINING):
            tracker.log(step, eval_metrics(results["tasks"], model))
    models = [p.base, p.sft_model, p.rl_model, *([p.sft_best] if p.sft_best.is_dir() else [])]
    seeds = published_seeds(run.config)
    read = [p.instances("heldout"), *models, *([seeds] if seeds else [])]
    return run.finish(inputs=read, outputs=[p.evaluate], results=results)


def eval_metrics(tasks: Mapping[str, Any], model: str) -> dict[str, float]:
    """A model's scores and intervals by the names that dashboards use, from the part `tasks` of a summary."""
    return {
        f"eval/{task}/{name}": models[model][name]
        for task, models in tasks.items()
        if model in models
        for name in ("score", "ci_low", "ci_high")
    }


async def run_all(config: RunConfig) -> pd.DataFrame:
    """What notebook 04 does, without its story: evaluate everything, draw, record. Returns all rows."""
    run = StageRun(config, STAGE)
    instances = open_heldout(config)
    evaluate_heuristics(run, open_tasks(config, open_lake(config)), instances)
    models = {"base": run.paths.base, "sft": run.paths.sft_model, "rl": run.paths.rl_model}
    if run.paths.sft_best.is_dir():
        models["sft_best"] = run.paths.sft_best
    async with await start_environment(config, config.lake_dir) as sandbox:
        await evaluate_teacher(run, "teacher", teacher.STRATEGIES, instances, sandbox)
        await evaluate_teacher(run, "teacher_best", teacher.BEST_STRATEGY, instances, sandbox)
        for model, folder in models.items():
            await evaluate_model(run, model, folder, instances, sandbox)
    rows = evaluate.load_rows([run.paths.evaluate])
    draw(config)
    finish(run, rows)
    return rows


def run(config: RunConfig) -> pd.DataFrame:
    """`run_all` for callers outside an event loop."""
    return asyncio.run(run_all(config))


def evaluated_rows(config: RunConfig) -> pd.DataFrame:
    """The rows of a finished evaluation.

    Raises: RunError when the stage has not finished, or finished with other settings.
    """
    manifest = read_manifest(config, STAGE)
    if manifest is None or manifest.config_hash != config_hash(config, STAGE):
        why = "has not finished" if manifest is None else "was made with other settings"
        raise RunError(f"{paths(config).run_dir}: stage evaluate {why}; run `make reproduce PRESET={config.preset}`")
    return evaluate.load_rows([paths(config).evaluate])


def drawings(config: RunConfig) -> list[Drawing]:
    """The stage's figures, from the tables on disk."""
    draws: dict[str, Any] = {"draws": config.evaluate.bootstrap, "seed": config.seed}
    rows = evaluate.load_rows([paths(config).evaluate])
    scores, failed = score_table(rows, **draws), failure_endings(rows, **draws)
    gains = difference_by_seed(pooled_rows(config), **draws)
    together = scores[scores["task"] == "all"]
    return [
        Drawing.make("headline", figures.headline, together, "Score on held-out patients, all tasks"),
        Drawing.make("score-by-task", figures.score_by_task, scores, "Score on held-out patients by task and model"),
        Drawing.make("seeds", figures.seed_differences, gains, "Gain of RL over SFT, seed by seed and pooled"),
        *([endings_drawing(failed)] if len(failed) else []),
    ]


def endings_drawing(table: pd.DataFrame) -> Drawing:
    """How answers failed. Args: table, as `analysis.failure_endings` gives it, with a row at least."""
    said = "How answers on held-out instances failed: with a wrong answer, or without one"
    return Drawing.make("endings", figures.failure_endings, table, said, note="Ways that did not occur are not drawn")


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Draw the stage's figures again and save them; by name. Raises: DataError when nothing was evaluated."""
    return save_drawings(drawings(config), paths(config).figures)


class OpenModel:
    """A model in an engine, opened when rollouts are first asked for: rows that are there already cost nothing."""

    def __init__(self, config: RunConfig, model_dir: Path, sandbox: Environment) -> None:
        self.config, self.model_dir, self.sandbox = config, model_dir, sandbox
        self.engine: Any = None

    async def rollout(self, instance: Instance, sample: int, seed: int, budget: Budget | None = None) -> Trajectory:
        """One trajectory, as `biomni_lib.evaluate.RolloutFn`; under a budget if one is given."""
        if self.engine is None:
            self.engine = self._open()
        settings = dataclasses.replace(evaluation_settings(self.config), budget=budget)
        renderer = self.engine.renderer
        return await over_losses(
            lambda: rollout(instance, self.engine, self.sandbox, renderer, settings, seed=seed, sample=sample)
        )

    async def close(self) -> None:
        """Close the engine, where one was opened."""
        if self.engine is not None:
            await self.engine.close()

    def _open(self) -> Any:
        import torch

        from biomni_lib.engines.local import load_engine

        torch.set_num_threads(self.config.engine.threads)
        return load_engine(self.config, self.model_dir)


async def evaluate_part(
    run: StageRun,
    model: str,
    rollout_fn: evaluate.RolloutFn,
    instances: Sequence[Instance],
    key: str,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Rows of a model: those that are there under the same key, or new ones.

    Args:
        folder: where they lie; the run's evaluation when None.
    """
    folder = folder or run.paths.evaluate
    part = evaluate.rows_file(folder, model)
    if run.has(part, key):
        return evaluate.read_rows(part)
    with run.making(part, key):
        return await evaluate.evaluate(
            model,
            rollout_fn,
            instances,
            run.config,
            folder,
            key=key,
            progress=lambda name, done, total: run.say(f"evaluate {name}: {done}/{total} rollouts"),
        )


def _key(config: RunConfig, files: Sequence[Path], extra: str = "") -> str:
    """What decides the answers: settings, the instances, files such as the weights, and anything else as text."""
    return key_of(config, *SETTINGS, files=[paths(config).instances("heldout"), *files]) + extra


def evaluation_settings(config: RunConfig) -> RolloutSettings:
    """No clock decides an outcome here: turns, tokens and tool time are limited, trajectories not."""
    return RolloutSettings(
        agent=config.agent,
        system_prompt=system_prompts(config.prompt.tools, config.prompt.biomni_tools),
        execute_timeout_s=config.sandbox.execute_timeout_s,
        temperature=config.evaluate.temperature,
        deadlines=False,
    )
