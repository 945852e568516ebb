"""The experiment of notebook 05: the trained models answer held-out questions again, told at a budget to answer now.

Questions, seeds and engine are those of the evaluation, whose rows stand for the answers without a budget: up to the
notice an answer is the same, token by token. The tiny models never saw the notice in training.
"""

import asyncio
import functools
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib import evaluate
from biomni_lib.agent.ledger import Trajectory, load_trajectories
from biomni_lib.agent.rollout import ANSWER_NOW, Budget
from biomni_lib.analysis.budgets import FREE
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.provenance import atomic_path
from biomni_lib.sandbox import Environment, start_environment
from biomni_lib.stages.build_data import first_of_each
from biomni_lib.stages.evaluate import OpenModel, evaluate_part, evaluated_rows, model_key, open_heldout
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun, made_under
from biomni_lib.tasks import Instance

MODELS = ("sft", "rl")


def doses(config: RunConfig) -> dict[tuple[str, int], Budget]:
    """The budgets of the settings by unit and size."""
    turns = {("turns", size): Budget(turns=size) for size in config.length.turns}
    return turns | {("tokens", size): Budget(tokens=size) for size in config.length.tokens}


def asked(config: RunConfig) -> list[Instance]:
    """The held-out instances that are answered again. Raises: DataError when the data are not there."""
    return first_of_each(open_heldout(config), config.length.instances)


async def answer_under_budgets(run: StageRun, sandbox: Environment) -> pd.DataFrame:
    """Both models under every budget, but for what is there under the same weights, settings and questions.

    Returns: `budget_rows`, which then lie in the run's folder `length`.
    Raises: DataError when a model is missing, or was evaluated with other weights or settings than it has now.
    """
    instances, here = asked(run.config), run.paths
    for model, folder in {"sft": here.sft_model, "rl": here.rl_model}.items():
        key = model_key(run.config, model, folder)
        if not made_under(evaluate.rows_file(here.evaluate, model), key):
            raise DataError(f"{here.evaluate}: {model} was not evaluated as it is now; run notebook 04_evaluate again")
        opened = OpenModel(run.config, folder, sandbox)
        try:
            for (unit, size), budget in doses(run.config).items():
                run.say(f"length: {model} with {size} {unit}")
                part = _folder(here.length, unit, size)
                rollout = functools.partial(opened.rollout, budget=budget)
                await evaluate_part(run, model, rollout, instances, f"{key}{budget}{ANSWER_NOW}", part)
        finally:
            await opened.close()
    rows = _collected(run.config)
    with atomic_path(budgets_file(run.config)) as temporary:
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), temporary, compression="zstd")
    return rows


def answer(run: StageRun) -> pd.DataFrame:
    """`answer_under_budgets` for callers outside an event loop, with a sandbox of its own."""

    async def all_of_them() -> pd.DataFrame:
        async with await start_environment(run.config, run.config.lake_dir) as sandbox:
            return await answer_under_budgets(run, sandbox)

    return asyncio.run(all_of_them())


def budget_rows(config: RunConfig) -> pd.DataFrame:
    """Every answer under a budget and, with unit `none`, the same questions' answers of the evaluation.

    Returns: the columns of `evaluate.ROWS` with `unit`, `budget` (null without one), `told` (whether the agent met it).
    Raises: DataError when the models have not answered, or under other budgets than the settings name.
    """
    path = budgets_file(config)
    try:
        rows = pd.read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}); run notebook 05_length_vs_score") from None
    given = set(zip(rows["unit"], rows["budget"], strict=True)) if {"unit", "budget"} <= set(rows) else set()
    if {dose for dose in given if dose[0] != FREE} != set(doses(config)):
        raise DataError(f"{path}: answers under other budgets than length.turns and length.tokens; run notebook 05")
    return rows


def budgets_file(config: RunConfig) -> Path:
    """Where all answers under budgets lie."""
    return paths(config).length / "budgets.parquet"


def same_until_told(rows: pd.DataFrame) -> bool:
    """Whether every answer that never met its budget is word for word the one without a budget."""
    keys = ["model", "task", "instance_id", "sample"]
    free = rows[rows["unit"] == FREE].set_index(keys)
    unmet = rows[(rows["unit"] != FREE) & ~rows["told"]].set_index(keys)
    own = free.loc[unmet.index]
    return all(unmet[name].fillna("").eq(own[name].fillna("")).all() for name in ("answer", "ending", "tokens"))


def _collected(config: RunConfig) -> pd.DataFrame:
    parts = []
    for (unit, size), model in [(dose, model) for dose in doses(config) for model in MODELS]:
        folder = _folder(paths(config).length, unit, size)
        told = [_was_told(t) for t in load_trajectories(evaluate.trajectories_file(folder, model))]
        rows = evaluate.read_rows(evaluate.rows_file(folder, model))
        parts.append(rows.assign(unit=unit, budget=float(size), told=told))
    names = pd.DataFrame({"task": one.task, "instance_id": one.id} for one in asked(config))
    free = evaluated_rows(config).query("model in @MODELS").merge(names, on=["task", "instance_id"])
    return pd.concat([*parts, free.assign(unit=FREE, budget=float("nan"), told=False)], ignore_index=True)


def _was_told(trajectory: Trajectory) -> bool:
    return any(turn.observation.startswith(ANSWER_NOW) for turn in trajectory.turns)


def _folder(length: Path, unit: str, size: int) -> Path:
    return length / f"{unit}-{size}"
