"""Stage 5: does a longer response go with a better score, and does it help? The tables behind notebook 05.

Held-out answers give the reading within a task; the teacher's samples and the groups of RL, which hold several answers
to one question, the reading within an instance; the metrics of RL that over training. The experiment on budgets
(`stages.budgets`) is the only part that rolls anything out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from biomni_lib import figures
from biomni_lib.agent.structure import FEATURES
from biomni_lib.analysis import (
    across_strata,
    association,
    binned_curve,
    budget_effects,
    compare_models,
    dose_response,
    length_odds,
    outcome_by_level,
    over_training,
    within_instance,
)
from biomni_lib.analysis.length import LENGTHS
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.provenance import Manifest, atomic_write
from biomni_lib.stages import budgets
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.length_drawings import dose_drawing, odds_drawing
from biomni_lib.stages.length_rows import (
    READ_FOR_LENGTH,
    answered_rows,
    modelled_rows,
    phase_rows,
    repeated_rows,
    structured_rows,
    teacher_rows,
    without_truncated,
)
from biomni_lib.stages.paths import paths
from biomni_lib.stages.rl import metrics_table
from biomni_lib.stages.stage import StageRun

STAGE = "length_vs_score"
COUNTED = FEATURES[1:]
"""The parts of an answer that are counted one by one."""
READINGS = (
    "within-task",
    "within-task-not-truncated",
    "over-tasks",
    "over-strategies",
    "over-turns",
    "within-instance",
    "length-odds",
    "over-phases",
    "structure",
    "structure-rank",
    "structure-within-instance",
    "rl-minus-sft",
    "over-training",
    "dose-response",
    "budget-effects",
)
"""The stage's tables."""


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


def over_phases(rows: pd.DataFrame) -> pd.DataFrame:
    """The odds of length within an instance, early and late in training; `rows` as `phase_rows` gives them."""
    odds = length_odds(rows)
    return odds[odds["reading"] == "within instance"].reset_index(drop=True)


def structure_rank(rows: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """Rank correlation of correctness with each of `FEATURES`, by task and model; rows as of `structured_rows`."""
    parts = [association(rows, feature, draws=draws, seed=seed) for feature in FEATURES]
    return pd.concat(parts, ignore_index=True).query("measure == 'spearman'").reset_index(drop=True)


def structure_within(rows: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """How many more evidence steps, verifications and repeated calls right answers have than wrong ones to the same."""
    parts = [within_instance(rows, feature, draws=draws, seed=seed) for feature in FEATURES[2:]]
    return pd.concat(parts, ignore_index=True)


def tables(config: RunConfig, budget_rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every reading by name, as notebook 05 shows them one by one.

    Args:
        budget_rows: as `budgets.budget_rows` gives them.
    """
    rows, repeated, taught = answered_rows(config), repeated_rows(config), teacher_rows(config)
    structured = structured_rows(config)
    draws: dict[str, Any] = {"draws": config.evaluate.bootstrap, "seed": config.seed}
    return {
        "within-task": within_task(rows, **draws),
        "within-task-not-truncated": within_task(without_truncated(rows), **draws),
        "over-tasks": across_strata(rows, **draws),
        "over-strategies": by_strategy(taught, **draws),
        "over-turns": by_turns(rows, **draws),
        "within-instance": within_instance(repeated, **draws),
        "length-odds": length_odds(modelled_rows(config)),
        "over-phases": over_phases(phase_rows(config)),
        "structure": outcome_by_level(structured, COUNTED, **draws),
        "structure-rank": structure_rank(structured, **draws),
        "structure-within-instance": structure_within(taught, **draws),
        "rl-minus-sft": rl_minus_sft(rows, **draws),
        "over-training": over_training(metrics_table(config), "response/tokens", "reward/correctness"),
        "dose-response": dose_response(budget_rows, **draws),
        "budget-effects": budget_effects(budget_rows, **draws),
    }


def finish(run: StageRun, found: Mapping[str, pd.DataFrame]) -> Manifest:
    """Save the readings and record the stage.

    Args:
        found: a table for each of `READINGS`, as `tables` gives them.
    Raises: DataError when a reading is missing.
    """
    p = run.paths
    save(run.config, found)
    within, effects = found["within-task"], found["budget-effects"]
    chosen = within[(within["measure"] == "spearman") & within["model"].isin(["sft", "rl"])]
    together = effects[effects["task"] == "all"]
    results = {
        "spearman of length and correctness": {
            f"{row.length}, {row.model}, {row.task}": _or_none(row.estimate) for row in chosen.itertuples()
        },
        "right answers under a budget minus without": {
            f"{row.model}, {row.budget:g} {row.unit}": _or_none(row.difference) for row in together.itertuples()
        },
    }
    models = [p.instances("heldout"), p.sft_model, p.rl_model]
    read = [p.evaluate, p.teacher, p.rl_metrics, p.rl / "trajectories", *models]
    return run.finish(inputs=read, outputs=[p.length], results=results)


def save(config: RunConfig, found: Mapping[str, pd.DataFrame]) -> None:
    """Write the readings as CSV, one each. Raises: DataError when one of `READINGS` is missing."""
    if missing := set(READINGS) - set(found):
        raise DataError(f"length against score: no table {', '.join(sorted(missing))}; make it before finishing")
    for name, table in found.items():
        text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        atomic_write(paths(config).length / f"{name}.csv", text)


def read(config: RunConfig, name: str) -> pd.DataFrame:
    """A saved reading. Raises: DataError when it is not there."""
    path = paths(config).length / f"{name}.csv"
    if name not in READINGS or not path.is_file():
        raise DataError(f"{path}: no such reading was saved; run notebook 05_length_vs_score")
    return pd.read_csv(path)


def run(config: RunConfig) -> dict[str, pd.DataFrame]:
    """What notebook 05 does, without its story. Returns: every reading by name."""
    stage = StageRun(config, STAGE)
    found = tables(config, budgets.answer(stage))
    save(config, found)
    draw(config)
    finish(stage, found)
    return found


def drawings(config: RunConfig) -> list[Drawing]:
    """The stage's figures, from the tables on disk."""
    return [
        curve_drawing(config),
        odds_drawing(read(config, "length-odds")),
        training_drawing(config),
        dose_drawing(read(config, "dose-response")),
    ]


def curve_drawing(config: RunConfig) -> Drawing:
    """Correctness in bins of length, of the held-out answers. Raises: RunError when nothing was evaluated."""
    curve = binned_curve(answered_rows(config), draws=config.evaluate.bootstrap, seed=config.seed)
    curve = curve[curve["model"].isin(READ_FOR_LENGTH)]
    bins = "Bins of equal counts; truncated answers included"
    return Drawing.make(
        "length-vs-score", figures.length_vs_score, curve, "Correctness by length of response", note=bins
    )


def training_drawing(config: RunConfig) -> Drawing:
    """Length over the steps of RL. Raises: DataError when RL has not run."""
    steps = "Each point is the mean over the batch of one learner step"
    table = metrics_table(config)
    return Drawing.make("response-length", figures.response_length, table, "Response length during RL", note=steps)


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Draw the stage's figures again and save them; by name.

    Raises: RunError when nothing was evaluated; DataError when a reading was not saved.
    """
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


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
