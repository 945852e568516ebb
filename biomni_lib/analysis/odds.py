"""Logistic models of correctness on the logarithm of length, by what is held fixed.

`across tasks` compares all answers of a model, `within task` those of the same task (an intercept a task), `within
instance` those to the same question: conditional logistic regression, in which everything that a question brings along
cancels, known or not. Each is fitted plainly and `adjusted` for the confounders that are made with length: an answer
that a limit cut off, and one that breaks the protocol.

Departure from the textbook: where all answers with a confounder have one outcome (no truncated answer is right), its
coefficient is infinite. They then say nothing more of length and are left out, which is the limit of the likelihood; so
are tasks whose answers are all right or all wrong.
A logistic mixed model, with an intercept drawn for each question, was tried beside the conditional one and is left out:
it takes the intercepts to be independent of length, so that differences between questions count as if they were within
one. On the published rows it says the same of the teacher and of SFT; of RL, whose questions are nearly all answered
alike, it is surer, and no longer is once the mean length of a question is held fixed.

Intervals are Wald's, clustered by instance. A model that separates, or cannot be told apart from one, has none.

Source: Chamberlain 1980 (conditional likelihood); Liang and Zeger 1986 (clustered variance).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biomni_lib.analysis.bootstrap import INSTANCE
from biomni_lib.analysis.length import TRUNCATED
from biomni_lib.analysis.tables import require

READINGS = ("across tasks", "within task", "within instance")
CONFOUNDERS = ("truncated", "malformed")
PER = 1.1
"""The odds ratio is that of an answer so many times as long."""
COEFFICIENT_MAX = 10.0
"""Largest coefficient, and largest standard error, of one standard deviation of log length; beyond it is separation."""
Z_95 = 1.959963984540054


def length_odds(rows: pd.DataFrame, length: str = "tokens") -> pd.DataFrame:
    """How the odds of a right answer change with its length, by model and reading, without and with confounders.

    Args:
        rows: evaluated trajectories with `ending` and `format` (0 or 1); an answer is right at correctness 1. Answers
            of length 0 are left out: they have no logarithm.
    Returns: a row a model, reading of `READINGS` and `adjusted`: model, length, reading, adjusted, odds_ratio (an
        answer `PER` times as long), ci_low, ci_high, instances, samples and seeds (those that count: within an
        instance, of questions answered both right and wrong), why (empty, or why there is no estimate).
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, [*INSTANCE, "model", "ending", "format", "correctness", length], "rows for models of length")
    rows = rows[rows[length] > 0].assign(
        right=rows["correctness"].eq(1).astype(float),
        truncated=rows["ending"].isin(TRUNCATED).astype(float),
        malformed=rows["format"].lt(1).astype(float),
        unit=rows.groupby(INSTANCE).ngroup(),
        seed=rows.get("seed", 0),
    )
    found = [
        {"model": model, "length": length, "reading": reading, "adjusted": adjusted} | _fitted(*chosen, length, reading)
        for model, part in rows.groupby("model", sort=False)
        for reading in READINGS
        for adjusted in (False, True)
        for chosen in [_told_apart(part, CONFOUNDERS if adjusted else ())]
    ]
    return pd.DataFrame(found)


def _told_apart(rows: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Rows without those of a confounder that has one outcome alone, and the confounders that are left to fit."""
    for name in names:
        outcomes = rows.groupby(name)["right"].transform("nunique")
        rows = rows[(outcomes > 1) | (rows[name] == 0)]
    return rows, [name for name in names if rows[name].nunique() > 1]


def _fitted(rows: pd.DataFrame, held: list[str], length: str, reading: str) -> dict[str, object]:
    if reading != "across tasks":
        rows = rows[rows.groupby("unit" if reading == "within instance" else "task")["right"].transform("nunique") > 1]
    counts = {"instances": rows["unit"].nunique(), "samples": len(rows), "seeds": rows["seed"].nunique()}
    log_length = np.log(rows[length].to_numpy(dtype=float))
    if rows["right"].nunique() < 2:
        return _missing(f"no right beside a wrong answer {reading}") | counts
    if counts["instances"] < 2 or len(rows) <= 1 + len(held) + rows["task"].nunique():
        return _missing("too few questions or answers for an interval") | counts
    spread = log_length.std()
    if spread < 1e-9:
        return _missing("all answers are equally long") | counts
    x = np.column_stack([(log_length - log_length.mean()) / spread, rows[held].to_numpy(dtype=float)])
    estimate, error = _conditional(rows, x) if reading == "within instance" else _plain(rows, x, reading)
    if not np.isfinite([estimate, error]).all() or max(abs(estimate), error) > COEFFICIENT_MAX:
        return _missing("right and wrong are separated, or the sample is too small") | counts
    bounds = np.array([estimate, estimate - Z_95 * error, estimate + Z_95 * error]) * np.log(PER) / spread
    return dict(zip(("odds_ratio", "ci_low", "ci_high"), np.exp(bounds), strict=True)) | counts | {"why": ""}


def _plain(rows: pd.DataFrame, x: np.ndarray, reading: str) -> tuple[float, float]:
    """Coefficient of length and its error, of a model with one intercept or one a task."""
    from statsmodels.discrete.discrete_model import Logit

    tasks = pd.get_dummies(rows["task"], dtype=float).to_numpy()
    intercepts = tasks if reading == "within task" else np.ones((len(rows), 1))
    options = {"disp": 0, "cov_type": "cluster", "cov_kwds": {"groups": rows["unit"].to_numpy()}}
    return _first(lambda: Logit(rows["right"].to_numpy(), np.column_stack([x, intercepts])).fit(**options))


def _conditional(rows: pd.DataFrame, x: np.ndarray) -> tuple[float, float]:
    """The same of the conditional model; a confounder that never varies within a question is left out of it."""
    from statsmodels.discrete.conditional_models import ConditionalLogit

    varies = pd.DataFrame(x).groupby(rows["unit"].to_numpy()).transform("std").gt(0).any().to_numpy()
    if not varies[0]:
        return np.nan, np.nan
    model = ConditionalLogit(rows["right"].to_numpy(), x[:, varies], groups=rows["unit"].to_numpy())
    return _first(lambda: model.fit(disp=0))


def _first(fit: Callable[[], Any]) -> tuple[float, float]:
    """First coefficient and its error; NaN where the fit breaks down, as it does under separation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflow and no convergence: seen in the error, which is then too large
            fitted = fit()
        return float(fitted.params[0]), float(fitted.bse[0])
    except (np.linalg.LinAlgError, ValueError):  # statsmodels' words for a Hessian that cannot be inverted
        return np.nan, np.nan


def _missing(why: str) -> dict[str, object]:
    return {"odds_ratio": np.nan, "ci_low": np.nan, "ci_high": np.nan, "why": why}
