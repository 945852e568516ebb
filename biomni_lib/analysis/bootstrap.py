"""Intervals of means and of paired differences, with the instance as the unit of chance.

Resampling draws whole instances. Where several seeds of training are pooled, seeds are drawn too, independently of
instances (the pigeonhole bootstrap for crossed factors), so that the interval speaks of a new seed on new instances.
Intervals are percentiles. They do not cover the choice of task, of prompt or of model size.

Source: Davison and Hinkley 1997, chapter 3 (clustered resampling); Owen 2007 (pigeonhole bootstrap).
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from biomni_lib.analysis.tables import require, select
from biomni_lib.errors import DataError

INSTANCE = ["task", "instance_id"]
EXACT_SIGN_FLIPS = 14
"""With at most this many differences that are not 0, all sign patterns are tried; beyond, a seeded draw of them."""


class Estimate(NamedTuple):
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(rows: pd.DataFrame, column: str, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Mean of a column over all rows, with a 95% interval clustered by instance.

    A column that is the same everywhere at 0 or at 1 has no spread to resample; its interval is the exact binomial
    one for as many trials as there are instances.

    Args:
        rows: with `task`, `instance_id`, `column`, and optionally `seed`; nulls are left out.
        draws: bootstrap replicates.
        seed: of the resampling.
    Returns: mean and bounds; all NaN when every value is null.
    Raises: DataError when rows are empty or a column is missing.
    """
    rows = require(rows, [*INSTANCE, column], "rows for an interval").dropna(subset=[column])
    if rows.empty:
        return Estimate(np.nan, np.nan, np.nan)
    sums, counts = _cells(rows, column)
    mean = float(sums.sum() / counts.sum())
    if mean in (0.0, 1.0) and np.all(sums == mean * counts):
        return Estimate(mean, *_exact_bounds(mean, counts.shape[1]))
    low, high = np.quantile(_replicates(sums, counts, draws, seed), [0.025, 0.975])
    return Estimate(mean, float(low), float(high))


def paired_difference(
    rows: pd.DataFrame, model: str, reference: str, column: str = "score", *, draws: int = 2000, seed: int = 0
) -> pd.Series:
    """How much higher `column` is for `model` than for `reference` on the same instances (and seeds).

    Where nothing differs in a column of shares, the interval is the exact binomial bound on the share of instances that
    might, to both sides.
    The p-value is that of the sign-flip permutation test over instances, two-sided: exact where few differ, otherwise
    from `draws` random flips. It is conditional on the seeds; the interval is not.

    Args:
        rows: of both models, one or more samples an instance.
    Returns: model, reference, difference, ci_low, ci_high, p, n (instances), seeds.
    Raises: DataError when a model is missing or the two were not evaluated on the same instances.
    """
    pairs = _pairs(rows, model, reference, column)
    estimate = bootstrap_mean(pairs, "difference", draws=draws, seed=seed)
    if not pairs["difference"].any():
        bound = estimate.high if rows[column].dropna().between(0, 1).all() else 0.0
        estimate = Estimate(0.0, -bound, bound)
    by_instance = pairs.groupby(INSTANCE)["difference"].mean().to_numpy()
    return pd.Series(
        {
            "model": model,
            "reference": reference,
            "difference": estimate.mean,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "p": sign_flip_p(by_instance, draws=draws, seed=seed),
            "n": len(by_instance),
            "seeds": pairs["seed"].nunique(),
        }
    )


def compare_models(
    rows: pd.DataFrame, pairs: Iterable[tuple[str, str]], column: str = "score", *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`paired_difference` of several pairs, in each task and over all, with p-values corrected by Holm's method.

    A pair is compared on the tasks that both were asked, which may be fewer than all where one of them is a rule.

    Args:
        pairs: (model, reference) names.
    Returns: one row a task and pair; `p_holm` counts every row of the table as one family.
    Raises: DataError as `paired_difference`.
    """
    from statsmodels.stats.multitest import multipletests

    require(rows, ["model", "task"], "rows to compare")
    found = [
        {"task": task, **paired_difference(part, *pair, column, draws=draws, seed=seed)}
        for pair in pairs
        for task, part in _shared_tasks(rows, *pair)
    ]
    table = require(pd.DataFrame(found), ["p"], "pairs to compare")
    return table.assign(p_holm=multipletests(table["p"], method="holm")[1])


def _shared_tasks(rows: pd.DataFrame, model: str, reference: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """What two models are compared on: a task's name, or "all", and its rows; all rows where one of them has none."""
    asked, others = (set(rows.loc[rows["model"] == name, "task"]) for name in (model, reference))
    shared = rows[rows["task"].isin(asked & others)] if asked & others else rows
    yield "all", shared
    for task, part in shared.groupby("task"):
        yield str(task), part


def sign_flip_p(differences: np.ndarray, *, draws: int = 2000, seed: int = 0) -> float:
    """Two-sided p that paired differences are symmetric about 0, by flipping their signs.

    Args:
        differences: (n,) one a pair.
    Returns: the share of sign patterns whose absolute sum is at least the one seen; 1 when nothing differs.
    """
    differences = differences[differences != 0]
    size = len(differences)
    if size == 0:
        return 1.0
    exact = size <= EXACT_SIGN_FLIPS
    if exact:
        signs = np.array(list(itertools.product((-1, 1), repeat=size)))
    else:
        signs = np.random.default_rng(np.random.SeedSequence([seed, size])).choice((-1, 1), size=(draws, size))
    hits = int(np.sum(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9))
    return hits / len(signs) if exact else (hits + 1) / (draws + 1)


def _pairs(rows: pd.DataFrame, model: str, reference: str, column: str) -> pd.DataFrame:
    rows = require(rows, [*INSTANCE, "model", column], "rows to compare")
    rows = rows if "seed" in rows else rows.assign(seed=0)
    keys = ["seed", *INSTANCE]
    means = [select(rows, "rows to compare", model=name).groupby(keys)[column].mean() for name in (model, reference)]
    apart = means[0].index.symmetric_difference(means[1].index)
    if len(apart):
        raise DataError(
            f"{model} and {reference}: {len(apart)} instances were evaluated for one alone, first {apart[0]}; "
            "evaluate both on the same instances and seeds"
        )
    return (means[0] - means[1]).rename("difference").reset_index()


def _cells(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of values by seed and instance: two arrays (seeds, instances)."""
    instances = rows.groupby(INSTANCE, sort=True).ngroup().to_numpy()
    seeds = pd.factorize(rows["seed"], sort=True)[0] if "seed" in rows else np.zeros(len(rows), dtype=int)
    shape = (int(seeds.max()) + 1, int(instances.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (seeds, instances), rows[column].to_numpy(dtype=float))
    np.add.at(counts, (seeds, instances), 1.0)
    return sums, counts


def _replicates(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means of resampled seeds and instances: (draws,), NaN-free."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, *sums.shape]))
    seeds, instances = sums.shape
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    chosen = rng.integers(instances, size=(draws, instances))
    totals = np.take_along_axis(weights @ sums, chosen, axis=1).sum(axis=1)
    numbers = np.take_along_axis(weights @ counts, chosen, axis=1).sum(axis=1)
    return totals[numbers > 0] / numbers[numbers > 0]


def _exact_bounds(mean: float, trials: int) -> tuple[float, float]:
    interval = stats.binomtest(int(mean * trials), trials).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)
