"""Stage 5: does a longer response go with a better score? The tables behind notebook 05, from what is there already.

Nothing is rolled out here. Held-out answers give the reading within a task; the teacher's samples and the groups of
RL, which hold several answers to one question, the reading within an instance; the metrics of RL that over training.
Heuristics write no tokens and are left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomni_lib import figures
from biomni_lib.analysis import (
    TRUNCATED,
    across_strata,
    association,
    binned_curve,
    compare_models,
    over_training,
    within_instance,
)
from biomni_lib.analysis.length import LENGTHS
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.provenance import Manifest, atomic_write
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.evaluate import evaluated_rows
from biomni_lib.stages.paths import paths
from biomni_lib.stages.rl import metrics_table, trained_rows
from biomni_lib.stages.stage import StageRun

STAGE = "length_vs_score"
READINGS = (
    "within-task",
    "within-task-not-truncated",
    "over-tasks",
    "over-strategies",
    "over-turns",
    "within-instance",
    "rl-minus-sft",
    "over-training",
)
"""The stage's tables."""
READ = ["task", "instance_id", "sample", "strategy", "loss_mask", "turns", "ending", "correctness"]


def answered_rows(config: RunConfig) -> pd.DataFrame:
    """Held-out rows of everything that writes tokens: models and teacher, not heuristics.

    Raises: RunError when the evaluation has not finished.
    """
    rows = evaluated_rows(config)
    return rows[rows["format"].notna()].reset_index(drop=True)


def repeated_rows(config: RunConfig) -> pd.DataFrame:
    """Several answers to the same training questions: the teacher's samples, and the groups of RL.

    Returns: task, instance_id, sample, model (`teacher, sampling` and `rl, training`), tokens, turns, ending,
        correctness. In RL the policy moves, but the answers of one group come from nearly the same weights.
    Raises: DataError when a stage before has not run.
    """
    trained = trained_rows(config).assign(model="rl, training")
    sampled = teacher_rows(config)
    columns = ["task", "instance_id", "sample", "model", "tokens", "turns", "ending", "correctness"]
    return pd.concat([sampled[columns], trained[columns]], ignore_index=True)


def teacher_rows(config: RunConfig) -> pd.DataFrame:
    """Every trajectory that the teacher sampled, one row each, without its tokens.

    Returns: task, instance_id, sample, model (`teacher, sampling`), strategy, ending, correctness, tokens (that it
        wrote), turns.
    Raises: DataError when there are none.
    """
    path = paths(config).teacher
    try:
        table = pq.read_table(path, columns=READ)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); run notebook 02_rejection_sampled_sft"
        ) from None
    rows = table.drop(["loss_mask", "turns"]).to_pandas()
    turns = pc.list_value_length(table["turns"]).to_numpy()
    return rows.assign(model="teacher, sampling", tokens=_true_counts(table["loss_mask"]), turns=turns)


def without_truncated(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that no limit cut off."""
    return rows[~rows["ending"].isin(TRUNCATED)]


def within_task(rows: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """`association` of correctness with tokens and with turns, one below the other."""
    return pd.concat([association(rows, length, draws=draws, seed=seed) for length in LENGTHS], ignore_index=True)


def rl_minus_sft(rows: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """What RL changed on the same instances, in correctness and in length. Returns: `column`, then `compare_models`."""
    parts = [
        compare_models(rows, [("rl", "sft")], column, draws=draws, seed=seed).assign(column=column)
        for column in ("correctness", *LENGTHS)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["column", *[name for name in table if name != "column"]]]


def by_strategy(rows: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """The teacher's correlation over all its strategies beside the mean within them, by task.

    Args:
        rows: with `strategy`, of the teacher.
    Returns: task, then the columns of `across_strata`.
    """
    return _by_task(rows, "strategy", draws, seed)


def by_turns(rows: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """The same for models, which name no strategy: over all answers beside answers of equally many turns, by task.

    The number of turns is the shape that a strategy leaves; what is left within it is length of wording alone.
    """
    return _by_task(rows, "turns", draws, seed)


def tables(config: RunConfig) -> dict[str, pd.DataFrame]:
    """Every reading by name, as notebook 05 shows them one by one."""
    rows, repeated = answered_rows(config), repeated_rows(config)
    draws: dict[str, Any] = {"draws": config.evaluate.bootstrap, "seed": config.seed}
    return {
        "within-task": within_task(rows, **draws),
        "within-task-not-truncated": within_task(without_truncated(rows), **draws),
        "over-tasks": across_strata(rows, **draws),
        "over-strategies": by_strategy(teacher_rows(config), **draws),
        "over-turns": by_turns(rows, **draws),
        "within-instance": within_instance(repeated, **draws),
        "rl-minus-sft": rl_minus_sft(rows, **draws),
        "over-training": over_training(metrics_table(config), "response/tokens", "reward/correctness"),
    }


def finish(run: StageRun, found: Mapping[str, pd.DataFrame]) -> Manifest:
    """Save the readings and record the stage.

    Args:
        found: a table for each of `READINGS`, as `tables` gives them.
    Raises: DataError when a reading is missing.
    """
    p = run.paths
    if missing := set(READINGS) - set(found):
        raise DataError(f"length against score: no table {', '.join(sorted(missing))}; make it before finishing")
    for name, table in found.items():
        atomic_write(p.length / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    within = found["within-task"]
    chosen = within[(within["measure"] == "spearman") & within["model"].isin(["sft", "rl"])]
    results = {f"{row.length}, {row.model}, {row.task}": _or_none(row.estimate) for row in chosen.itertuples()}
    read = [p.evaluate, p.teacher, p.rl_metrics, p.rl / "trajectories"]
    return run.finish(inputs=read, outputs=[p.length], results={"spearman of length and correctness": results})


def run(config: RunConfig) -> dict[str, pd.DataFrame]:
    """What notebook 05 does, without its story. Returns: every reading by name."""
    stage = StageRun(config, STAGE)
    found = tables(config)
    draw(config)
    finish(stage, found)
    return found


def drawings(config: RunConfig) -> list[Drawing]:
    """The stage's figures, from the tables on disk."""
    curve = binned_curve(answered_rows(config), draws=config.evaluate.bootstrap, seed=config.seed)
    curve = curve[curve["model"].isin(["sft", "rl", "teacher"])]
    metrics = metrics_table(config)
    bins = "Bins of equal counts; truncated answers included"
    steps = "Each point is the mean over the batch of one learner step"
    return [
        Drawing.make("length-vs-score", figures.length_vs_score, curve, "Correctness by length of response", note=bins),
        Drawing.make("response-length", figures.response_length, metrics, "Response length during RL", note=steps),
    ]


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Draw the stage's figures again and save them; by name. Raises: RunError when nothing was evaluated."""
    return save_drawings(drawings(config), paths(config).figures)


def _by_task(rows: pd.DataFrame, by: str, draws: int, seed: int) -> pd.DataFrame:
    parts = [
        across_strata(of_task, by=by, draws=draws, seed=seed).assign(task=task)
        for task, of_task in rows.groupby("task", sort=False)
    ]
    if not parts:
        raise DataError(f"length against score by {by}: no rows; evaluate first")
    table = pd.concat(parts, ignore_index=True)
    return table[["task", *[name for name in table if name != "task"]]]


def _true_counts(masks: pa.ChunkedArray) -> np.ndarray:
    """How many entries of each list are true."""
    column = masks.combine_chunks()
    total = np.concatenate([[0], np.cumsum(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)])
    ends = np.cumsum(pc.list_value_length(column).to_numpy())
    return total[ends] - total[np.concatenate([[0], ends[:-1]])]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
