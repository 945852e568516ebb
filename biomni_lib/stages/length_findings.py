"""What the readings of notebook 05 say, by rule: a claim, whether it holds, and on how much.

A claim holds where its interval lies on its side, fails where it lies on the other, and is open where it holds zero or
is not known. One interval decides one claim; they are not corrected for their number.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from biomni_lib.analysis.tables import require

HOLDS, FAILS, OPEN = "holds", "the opposite holds", "open"
COLUMNS = ["claim", "of", "verdict", "estimate", "ci_low", "ci_high", "instances", "seeds"]


def findings(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The claims of the notebook against its readings.

    Args:
        found: the readings by name: length-odds, over-phases, over-tasks, structure-within-instance, budget-effects.
    Returns: the columns of `COLUMNS`; estimates are odds ratios (claims on odds, against 1) or differences (against 0);
        a reading that does not speak of seeds stands on the run's own.
    Raises: DataError when a reading is empty or lacks a column.
    """
    claims = [*_odds(found["length-odds"]), *_odds(found["over-phases"]), *_simpson(found["over-tasks"])]
    claims += [*_structure(found["structure-within-instance"]), *_budgets(found["budget-effects"])]
    return pd.DataFrame(claims).reindex(columns=COLUMNS).fillna({"seeds": 1}).astype({"seeds": int})


def verdict(low: float, high: float, zero: float = 0.0) -> str:
    """Whether an interval lies above `zero`, below it, or neither."""
    return HOLDS if low > zero else FAILS if high < zero else OPEN


def _odds(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    require(table, ["model", "reading", "adjusted", "odds_ratio", "ci_low", "ci_high"], "odds ratios of length")
    for row in table[table["adjusted"]].to_dict("records"):
        claim = f"Longer answers are right more often, {row['reading']}"
        yield _claim(claim, row, row["model"], row["odds_ratio"], zero=1.0)


def _simpson(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    require(table, ["model", "reading", "estimate", "reverses"], "correlations over tasks")
    for model, part in table.groupby("model", sort=False):
        seen = OPEN if part["estimate"].isna().any() else HOLDS if part["reverses"].any() else "not seen"
        yield {"claim": "Pooling tasks turns the sign (Simpson's paradox)", "of": model, "verdict": seen}


def _structure(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    require(table, ["task", "model", "length", "difference", "ci_low", "ci_high"], "structure within an instance")
    for row in table.to_dict("records"):
        claim = f"Right answers have more {str(row['length']).replace('_', ' ')} than wrong ones to the same question"
        yield _claim(claim, row, f"{row['model']}, {row['task']}", row["difference"])


def _budgets(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    require(table, ["model", "unit", "budget", "task", "difference", "ci_low", "ci_high"], "effects of budgets")
    for row in table[table["task"] == "all"].rename(columns={"n": "instances"}).to_dict("records"):
        lost = row | {"ci_low": -row["ci_high"], "ci_high": -row["ci_low"]}
        claim = f"Cutting short at {row['budget']:g} {row['unit']} costs right answers"
        yield _claim(claim, lost, row["model"], -row["difference"])


def _claim(claim: str, row: Mapping[str, Any], of: Any, estimate: float, zero: float = 0.0) -> dict[str, Any]:
    kept = {name: row[name] for name in ("ci_low", "ci_high", "instances", "seeds") if name in row}
    return {
        "claim": claim,
        "of": of,
        "verdict": verdict(row["ci_low"], row["ci_high"], zero),
        "estimate": estimate,
    } | kept
