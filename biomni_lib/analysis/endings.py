"""How answers fail: with a wrong answer, or without one for a reason that the ledger names."""

import pandas as pd

from biomni_lib.analysis.bootstrap import INSTANCE, bootstrap_mean
from biomni_lib.analysis.length import TRUNCATED
from biomni_lib.analysis.tables import require

WRONG = "wrong answer"


def failure_endings(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Share of every way to fail that occurs, by model, with intervals over instances.

    Args:
        rows: evaluated trajectories of one or more seeds; rules, which have no format, are left out.
    Returns: model, failure (`WRONG`, or the ending: what the model did itself first, limits last), share, ci_low,
        ci_high, n (instances), seeds, samples.
    Raises: DataError when rows are empty, a column is missing, or nothing but rules was evaluated.
    """
    require(rows, [*INSTANCE, "model", "seed", "ending", "correctness", "format"], "endings of answers")
    rows = require(rows[rows["format"].notna()], [], "endings of answers of models")
    failure = rows["ending"].where(rows["ending"] != "solved", WRONG).where(rows["correctness"] < 1)
    kinds = sorted(failure.dropna().unique(), key=lambda kind: (kind in TRUNCATED, kind != WRONG, kind))
    found = []
    for model, part in rows.assign(failure=failure).groupby("model", sort=False):
        counts = {
            "n": len(part[INSTANCE].drop_duplicates()),
            "seeds": part["seed"].nunique(),
            "samples": len(part),
        }
        for kind in kinds:
            failed = part.assign(failed=part["failure"].eq(kind).astype(float))
            share = bootstrap_mean(failed, "failed", draws=draws, seed=seed)
            known = {"share": share.mean, "ci_low": share.low, "ci_high": share.high}
            found.append({"model": model, "failure": kind, **known, **counts})
    columns = ["model", "failure", "share", "ci_low", "ci_high", "n", "seeds", "samples"]
    return pd.DataFrame(found, columns=columns)
