"""pass@k: how often at least one of k answers to a question is right, without bias from the answers that there are.

Of n samples of an instance with c right ones, 1 - C(n-c, k) / C(n, k) is the share of all choices of k samples that
hold a right one. 1 - (1 - c/n)^k, the plain way, is biased downwards and is not used.

Source: Chen et al. 2021 (arXiv:2107.03374), equation 1.
"""

import math

import pandas as pd

from biomni_lib.analysis.bootstrap import INSTANCE, Estimate, bootstrap_mean
from biomni_lib.analysis.tables import require
from biomni_lib.errors import DataError

RIGHT = 1.0
"""The score of a right answer."""


def pass_probability(samples: int, right: int, k: int) -> float:
    """Share of the choices of k among an instance's samples that hold a right one.

    Raises: DataError unless 1 <= k <= samples and 0 <= right <= samples.
    """
    if not (1 <= k <= samples and 0 <= right <= samples):
        raise DataError(f"pass@{k} of {samples} samples, {right} right: k must be 1 to the samples of every instance")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_at_k(rows: pd.DataFrame, k: int, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """pass@k of one model over instances (and seeds), each counted once, with a 95% interval clustered by instance.

    Args:
        rows: of one model, k samples or more of every instance.
        k: answers allowed. draws, seed: of the bootstrap.
    Raises: DataError when rows are empty, a column is missing, or an instance has fewer than k samples.
    """
    rows = require(rows, [*INSTANCE, "score"], f"rows for pass@{k}")
    rows = rows if "seed" in rows else rows.assign(seed=0)
    scores = rows.groupby(["seed", *INSTANCE], sort=True)["score"]
    passed = scores.agg(lambda found: pass_probability(len(found), int((found >= RIGHT).sum()), k))
    return bootstrap_mean(passed.rename("passed").reset_index(), "passed", draws=draws, seed=seed)


def samples_each(rows: pd.DataFrame) -> int:
    """Samples that every instance (of every seed) has at least: the largest k that pass@k can be told for."""
    return int(rows.groupby([*(["seed"] if "seed" in rows else []), *INSTANCE]).size().min())
