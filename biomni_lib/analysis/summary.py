"""The table of tasks against models that a run is judged by.

`all` is the mean over the instances of all tasks (each instance counts once, so a task with more instances weighs
more), given only for models that were evaluated on every task.
"""

from typing import Any

import pandas as pd

from biomni_lib.analysis.bootstrap import INSTANCE, bootstrap_mean
from biomni_lib.analysis.passes import pass_at_k, samples_each
from biomni_lib.analysis.tables import require
from biomni_lib.config import RunConfig
from biomni_lib.provenance import STAGE_SETTINGS, code_hash, read_manifest

TAKEN = {"tool_calls": "mean_tool_calls", "tool_seconds": "mean_tool_seconds", "usd": "mean_usd"}
"""What an answer took beside tokens and turns: the rows' column, and its mean's name."""
SCORED = [*INSTANCE, "model", "seed", "score", "format", "tokens", "turns"]


def with_all(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, and once more as task `all` for each model that has every task; `own_task` keeps the task."""
    rows = rows.assign(own_task=rows["task"])
    complete = rows.groupby("model")["task"].nunique() == rows["task"].nunique()
    return pd.concat([rows[rows["model"].map(complete)].assign(task="all"), rows], ignore_index=True)


def score_table(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Score with its interval, format, length, by task and model.

    Args:
        rows: evaluated trajectories and baselines of one or more seeds.
        draws, seed: of the bootstrap.
    Returns: task, model, score, ci_low, ci_high, format (null where a model writes no tags), n (instances), seeds,
        samples (rows), mean_tokens, mean_turns; in the order of the rows, task `all` first.
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, SCORED, "evaluated rows")
    found = []
    for (task, model), part in with_all(rows).groupby(["task", "model"], sort=False):
        estimate = bootstrap_mean(part.assign(task=part["own_task"]), "score", draws=draws, seed=seed)
        found.append(
            {
                "task": task,
                "model": model,
                "score": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "format": part["format"].mean(),
                "n": part[["own_task", "instance_id"]].drop_duplicates().shape[0],
                "seeds": part["seed"].nunique(),
                "samples": len(part),
                "mean_tokens": part["tokens"].mean(),
                "mean_turns": part["turns"].mean(),
            }
        )
    return pd.DataFrame(found)


def evaluation_table(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """`score_table`, and behind it pass@k with its interval, tool calls, tool seconds and USD an answer.

    Args:
        rows: evaluated trajectories and baselines of one or more seeds.
        draws, seed: of the bootstrap.
    Returns: the columns of `score_table`, then k (samples that every instance of the model has), pass_at_k, pass_low,
        pass_high, mean_tool_calls, mean_tool_seconds, mean_usd (null where the rows do not say).
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, [*SCORED, *TAKEN], "evaluated rows")
    table = score_table(rows, draws=draws, seed=seed)
    more = []
    for _, part in with_all(rows).groupby(["task", "model"], sort=False):
        of_task = part.assign(task=part["own_task"])
        k = samples_each(of_task)
        passed = pass_at_k(of_task, k, draws=draws, seed=seed)
        means = {name: part[column].mean() for column, name in TAKEN.items()}
        more.append({"k": k, "pass_at_k": passed.mean, "pass_low": passed.low, "pass_high": passed.high, **means})
    return pd.concat([table, pd.DataFrame(more)], axis=1)


def summarize(rows: pd.DataFrame, config: RunConfig) -> dict[str, Any]:
    """The run's results as one JSON-ready object.

    Args:
        rows: evaluated trajectories and baselines of one or more seeds.
    Returns: {"preset", "code" (sha256 of the library's sources that evaluated), "tasks": {task: {model: {"score",
        "ci_low", "ci_high", "format", "n", "seeds", "mean_tokens", "mean_turns"}}}, "seconds": {stage: seconds of its
        manifest}}.
    Raises: DataError when rows are empty or a column is missing.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for row in score_table(rows, draws=config.evaluate.bootstrap, seed=config.seed).to_dict("records"):
        tasks.setdefault(row["task"], {})[row["model"]] = {
            "score": _rounded(row["score"]),
            "ci_low": _rounded(row["ci_low"]),
            "ci_high": _rounded(row["ci_high"]),
            "format": _rounded(row["format"]),
            "n": int(row["n"]),
            "seeds": int(row["seeds"]),
            "mean_tokens": _rounded(row["mean_tokens"], 1),
            "mean_turns": _rounded(row["mean_turns"], 2),
        }
    manifests = {stage: read_manifest(config, stage) for stage in STAGE_SETTINGS}
    seconds = {stage: manifest.seconds for stage, manifest in manifests.items() if manifest is not None}
    evaluated = manifests["evaluate"]
    code = code_hash() if evaluated is None else evaluated.code_hash
    return {"preset": config.preset, "code": code, "tasks": tasks, "seconds": seconds}


def _rounded(value: float, digits: int = 4) -> float | None:
    return None if pd.isna(value) else round(float(value), digits)
