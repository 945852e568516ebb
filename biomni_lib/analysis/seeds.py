"""What repeats over seeds of training: means, spread, and the gain of one model over another, seed by seed.

With three seeds the t interval over seeds is wide and says so; the pooled row's interval resamples seeds and instances.
"""

import numpy as np
import pandas as pd
from scipy import stats

from biomni_lib.analysis.bootstrap import paired_difference
from biomni_lib.analysis.summary import with_all
from biomni_lib.analysis.tables import require


def seed_table(rows: pd.DataFrame, column: str = "score") -> pd.DataFrame:
    """Mean of a column over seeds, by task and model.

    Args:
        rows: evaluated trajectories of one or more seeds, with `seed`.
    Returns: task, model, seeds, mean, sd (over seeds, NaN for one), ci_low, ci_high (t interval, NaN for one), low,
        high (the worst and the best seed).
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, ["task", "model", "seed", column], "rows of the seeds")
    means = with_all(rows).groupby(["task", "model", "seed"], sort=False)[column].mean().reset_index()
    table = means.groupby(["task", "model"], sort=False)[column].apply(_over_seeds).unstack().reset_index()
    return table.astype({"seeds": int})


def difference_by_seed(
    rows: pd.DataFrame,
    model: str = "rl",
    reference: str = "sft",
    column: str = "score",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The gain of `model` over `reference` for each seed and pooled, by task and over all tasks.

    Args:
        rows: evaluated trajectories of both models, with `seed`.
    Returns: task, seed ("0", "1", …, "pooled"), then the columns of `paired_difference`.
    Raises: DataError when a model is missing from a seed, or the two were not evaluated on the same instances.
    """
    require(rows, ["task", "model", "seed", column], "rows of the seeds")
    found = []
    for task, part in with_all(rows).groupby("task", sort=False):
        part = part.assign(task=part["own_task"])
        parts = {**{str(key): of_seed for key, of_seed in part.groupby("seed")}, "pooled": part}
        for name, of_seed in parts.items():
            gain = paired_difference(of_seed, model, reference, column, draws=draws, seed=seed)
            found.append({"task": task, "seed": name, **gain})
    return pd.DataFrame(found)


def _over_seeds(means: pd.Series) -> pd.Series:
    count, mean = len(means), means.mean()
    sd = means.std(ddof=1) if count > 1 else np.nan
    half = stats.t.ppf(0.975, count - 1) * sd / np.sqrt(count) if count > 1 else np.nan
    return pd.Series(
        {
            "seeds": count,
            "mean": mean,
            "sd": sd,
            "ci_low": mean - half,
            "ci_high": mean + half,
            "low": means.min(),
            "high": means.max(),
        }
    )
