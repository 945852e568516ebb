"""Does a longer response go with a better score? Four readings that can disagree, each with its interval.

Within a task (`association`), over and within strata such as tasks or strategies (`across_strata`, where Simpson's
paradox would show), within an instance (`within_instance`: the same question, its right and its wrong answers) and
along training (`over_training`).
All are associations. A response cut off by a limit is long and wrong by construction: run each reading again without
the endings in `TRUNCATED`. On the `cpu` preset they also carry the design of the scripted teacher that the model
learned from.
"""

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from biomni_lib.analysis.bootstrap import INSTANCE, bootstrap_mean, sign_flip_p
from biomni_lib.analysis.rank import MEASURES, bootstrap_measures
from biomni_lib.analysis.tables import require
from biomni_lib.errors import DataError

TRUNCATED = ("turn_limit", "token_limit", "timeout")
"""Endings of trajectories that a limit cut off."""
LENGTHS = ("tokens", "turns")
STEPS_MIN = 4
LEVEL_MAX = 3


def association(
    rows: pd.DataFrame,
    length: str = "tokens",
    outcome: str = "correctness",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlation of length and outcome within each task and model, instances resampled.

    Args:
        rows: evaluated trajectories.
        length: column with the length, such as those in `LENGTHS`.
        outcome: column with a few levels, 0 and 1 as a rule.
    Returns: one row a task, model and measure (Spearman, Kendall's tau-b, point-biserial): task, model, length,
        measure, estimate, ci_low, ci_high, instances, samples; NaN where length or outcome is the same throughout.
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, [*INSTANCE, "model", length, outcome], "rows for length against score")
    found = []
    for (task, model), part in rows.groupby(["task", "model"], sort=False):
        part = part.dropna(subset=[length, outcome])
        values, spread = bootstrap_measures(part, length, outcome, draws=draws, seed=seed)
        for position, measure in enumerate(MEASURES):
            low, high = _interval(spread[:, position])
            found.append(
                {
                    "task": task,
                    "model": model,
                    "length": length,
                    "measure": measure,
                    "estimate": values[position],
                    "ci_low": low,
                    "ci_high": high,
                    "instances": part["instance_id"].nunique(),
                    "samples": len(part),
                }
            )
    return pd.DataFrame(found)


def across_strata(
    rows: pd.DataFrame,
    length: str = "tokens",
    outcome: str = "correctness",
    *,
    by: str = "task",
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's correlation over all rows together beside the mean of those within strata, by model.

    Args:
        rows: evaluated trajectories.
        by: column whose values are the strata: task, strategy, turns. A stratum where length or outcome is the same
            throughout has no correlation and drops out of the mean.
    Returns: two rows a model (`reading` pooled, and within: the strata's correlations weighted by their samples):
        model, length, by, reading, estimate, ci_low, ci_high, strata (those that count), samples (in them, or in
        all), `reverses` (the two have opposite signs and neither interval holds 0: Simpson's paradox).
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, [*INSTANCE, "model", length, outcome, by], "rows for length against score")
    found = []
    for model, part in rows.dropna(subset=[length, outcome, by]).groupby("model", sort=False):
        pooled, pooled_spread = bootstrap_measures(part, length, outcome, draws=draws, seed=seed)
        within, strata = _mean_within(part, length, outcome, by, draws, seed)
        readings = {"pooled": (pooled[0], *_interval(pooled_spread[:, 0])), "within": within}
        reverses = all(low * high > 0 for _, low, high in readings.values()) and pooled[0] * within[0] < 0
        for reading, (estimate, low, high) in readings.items():
            found.append(
                {
                    "model": model,
                    "length": length,
                    "by": by,
                    "reading": reading,
                    "estimate": estimate,
                    "ci_low": low,
                    "ci_high": high,
                    "strata": len(strata),
                    "samples": len(part) if reading == "pooled" else sum(strata),
                    "reverses": reverses,
                }
            )
    return pd.DataFrame(found)


def _mean_within(
    rows: pd.DataFrame, length: str, outcome: str, by: str, draws: int, seed: int
) -> tuple[tuple[float, float, float], list[int]]:
    """Mean correlation over the strata that have one, with its interval; and the sizes of those strata."""
    parts = [part for _, part in rows.groupby(by, sort=True) if part[length].nunique() > 1 < part[outcome].nunique()]
    if not parts:
        return (np.nan, np.nan, np.nan), []
    sizes = np.array([len(part) for part in parts])
    drawn = [bootstrap_measures(part, length, outcome, draws=draws, seed=seed) for part in parts]
    spread = np.stack([replicates[:, 0] for _, replicates in drawn], axis=1)
    counted = np.isfinite(spread) * sizes
    total = counted.sum(axis=1)
    means = np.where(total > 0, (np.nan_to_num(spread) * counted).sum(axis=1) / np.maximum(total, 1), np.nan)
    estimate = float(np.average([values[0] for values, _ in drawn], weights=sizes))
    return (estimate, *_interval(means)), sizes.tolist()


def within_instance(
    rows: pd.DataFrame, length: str = "tokens", outcome: str = "correctness", *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How much longer the right answers to a question are than the wrong answers to the same question.

    Only instances with at least one right (outcome 1) and one wrong (below 1) sample say anything; the rest drop out.

    Args:
        rows: evaluated trajectories with several samples an instance.
    Returns: one row a task and model that has such instances: task, model, length, difference (mean length of right
        minus wrong), ci_low, ci_high, p (sign-flip test), mean_length, instances.
    Raises: DataError when no instance has both; rows empty; a column missing.
    """
    require(rows, [*INSTANCE, "model", length, outcome], "rows for length against score")
    right = rows[outcome].eq(1).map({True: "right", False: "wrong"})
    keys = ["model", *INSTANCE]
    means = rows.assign(right=right).groupby([*keys, "right"], sort=False)[length].mean().unstack("right")
    if not {"right", "wrong"} <= set(means.columns) or means.dropna().empty:
        raise DataError(
            "length within an instance: no instance has a right and a wrong sample; evaluate with more samples"
        )
    pairs = means.dropna().reset_index().assign(difference=lambda t: t["right"] - t["wrong"])
    found = []
    for (task, model), part in pairs.groupby(["task", "model"], sort=False):
        estimate = bootstrap_mean(part, "difference", draws=draws, seed=seed)
        found.append(
            {
                "task": task,
                "model": model,
                "length": length,
                "difference": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "p": sign_flip_p(part["difference"].to_numpy(), draws=draws, seed=seed),
                "mean_length": part[["right", "wrong"]].to_numpy().mean(),
                "instances": len(part),
            }
        )
    return pd.DataFrame(found)


def over_training(metrics: pd.DataFrame, length: str, outcome: str, *, step: str = "step") -> pd.DataFrame:
    """Do length and outcome rise together while training, and do they move together from step to step?

    Two series that both rise are correlated whatever the cause, so the correlation of levels proves little; that of the
    changes from one step to the next is free of a common trend. The steps are not independent: no interval is
    given for levels, and that of changes (Fisher's z) is approximate.

    Args:
        metrics: one row a step (and seed, where there are several): step, length, outcome.
    Returns: one row a seed and reading (`length over steps`, `outcome over steps`, `levels`, `changes`): seed, reading,
        spearman, ci_low, ci_high, steps; NaN for fewer than `STEPS_MIN` steps, of which nothing can be said.
    Raises: DataError when there are no steps, or a column is missing.
    """
    require(metrics, [step, length, outcome], "training metrics")
    metrics = metrics if "seed" in metrics else metrics.assign(seed=0)
    found = []
    for seed, part in metrics.dropna(subset=[length, outcome]).sort_values(step).groupby("seed"):
        steps, lengths, outcomes = (part[name].to_numpy(dtype=float) for name in (step, length, outcome))
        readings = {
            "length over steps": (steps, lengths),
            "outcome over steps": (steps, outcomes),
            "levels": (lengths, outcomes),
            "changes": (np.diff(lengths), np.diff(outcomes)),
        }
        for reading, (x, y) in readings.items():
            rho = _spearman(x, y) if len(part) >= STEPS_MIN else np.nan
            low, high = _fisher(rho, len(x)) if reading == "changes" else (np.nan, np.nan)
            found.append(
                {"seed": seed, "reading": reading, "spearman": rho, "ci_low": low, "ci_high": high, "steps": len(part)}
            )
    return pd.DataFrame(found)


def binned_curve(
    rows: pd.DataFrame,
    length: str = "tokens",
    outcome: str = "correctness",
    *,
    bins: int = 5,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean outcome in bins of equal counts of length, by task and model, with intervals clustered by instance.

    Args:
        bins: at most so many; equal lengths are never split, so there may be fewer.
    Returns: task, model, length, bin, length_low, length_high, length_mean, outcome, ci_low, ci_high, truncated (share
        cut off by a limit, NaN without a column `ending`), instances, samples, seeds.
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, [*INSTANCE, "model", length, outcome], "rows for length against score")
    rows = rows.assign(seed=rows.get("seed", 0))
    found = []
    for (task, model), part in rows.dropna(subset=[length, outcome]).groupby(["task", "model"], sort=False):
        for number, (_, of_bin) in enumerate(part.groupby(_equal_bins(part[length], bins))):
            estimate = bootstrap_mean(of_bin, outcome, draws=draws, seed=seed)
            found.append(
                {
                    "task": task,
                    "model": model,
                    "length": length,
                    "bin": number,
                    "length_low": of_bin[length].min(),
                    "length_high": of_bin[length].max(),
                    "length_mean": of_bin[length].mean(),
                    "outcome": estimate.mean,
                    "ci_low": estimate.low,
                    "ci_high": estimate.high,
                    "truncated": of_bin["ending"].isin(TRUNCATED).mean() if "ending" in of_bin else np.nan,
                    "instances": of_bin["instance_id"].nunique(),
                    "samples": len(of_bin),
                    "seeds": of_bin["seed"].nunique(),
                }
            )
    return pd.DataFrame(found)


def outcome_by_level(
    rows: pd.DataFrame, features: Iterable[str], outcome: str = "correctness", *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean outcome of answers that have none, one, two, … of a feature, by model, with intervals over instances.

    Args:
        features: columns with counts; `LEVEL_MAX` and more are one level.
    Returns: model, feature, level (text), outcome, ci_low, ci_high, instances, samples.
    Raises: DataError when rows are empty or a column is missing.
    """
    names = list(features)
    require(rows, [*INSTANCE, "model", outcome, *names], "rows for the structure of answers")
    found = []
    for name, (model, part) in itertools.product(names, rows.groupby("model", sort=False)):
        for level, of_level in part.groupby(part[name].clip(upper=LEVEL_MAX)):
            estimate = bootstrap_mean(of_level, outcome, draws=draws, seed=seed)
            found.append(
                {
                    "model": model,
                    "feature": name,
                    "level": f"{level}{' or more' if level == LEVEL_MAX else ''}",
                    "outcome": estimate.mean,
                    "ci_low": estimate.low,
                    "ci_high": estimate.high,
                    "instances": len(of_level[INSTANCE].drop_duplicates()),
                    "samples": len(of_level),
                }
            )
    return pd.DataFrame(found)


def _equal_bins(lengths: pd.Series, bins: int) -> pd.Series:
    ranks = lengths.rank(method="average", pct=True)
    return np.ceil(ranks * bins).clip(1, bins)


def _interval(replicates: np.ndarray) -> tuple[float, float]:
    known = replicates[np.isfinite(replicates)]
    if len(known) < len(replicates) / 2:
        return np.nan, np.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(stats.spearmanr(x, y).statistic)


def _fisher(rho: float, count: int) -> tuple[float, float]:
    if not np.isfinite(rho) or abs(rho) >= 1 or count < 4:
        return np.nan, np.nan
    half = stats.norm.ppf(0.975) * 1.03 / np.sqrt(count - 3)
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half))
