"""What the recipe is held to at the size of the `cpu` preset, measured: a miss stands in the table as a miss.

They were set for the two tasks about patients; with others beside them, these two and all together are held to them.
The gain of RL counts as met when the mean difference reaches its target and its whole interval lies above 0.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from biomni_lib.analysis.bootstrap import bootstrap_mean, paired_difference
from biomni_lib.analysis.tables import require, select
from biomni_lib.tasks.phenotypes import PATIENT_TASKS

INSTANCES_MIN = 300
SFT_FORMAT_MIN = 0.90
RL_FORMAT_MIN = 0.95
GAIN_MIN = 0.10


def check_targets(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every target against what was measured, for each seed and pooled over several.

    Args:
        rows: evaluated rows of the models sft and rl, of one or more seeds.
        draws, seed: of the bootstrap.
    Returns: one row a target and seed: criterion, seed ("0", "1", …, "pooled"), measured, ci_low, ci_high, target
        (as text), met ("yes" or "no").
    Raises: DataError when a model or a column is missing.
    """
    require(rows, ["task", "instance_id", "model", "seed", "correctness", "format"], "rows for the targets")
    parts = {str(key): part for key, part in rows.groupby("seed")}
    if len(parts) > 1:
        parts["pooled"] = rows
    checked = [{"seed": name, **line} for name, part in parts.items() for line in _checks(part, draws, seed)]
    table = pd.DataFrame(checked)
    return table[["criterion", "seed", "measured", "ci_low", "ci_high", "target", "met"]]


def _checks(rows: pd.DataFrame, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """On all tasks together, then on patients alone if other tasks are among them."""
    of_patients = rows["task"].isin(PATIENT_TASKS)
    yield from _lines(rows, "", draws, seed)
    if of_patients.any() and not of_patients.all():
        yield from _lines(rows[of_patients], ", patients", draws, seed)


def _lines(rows: pd.DataFrame, of: str, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    instances = rows.loc[rows["model"] == "rl", ["task", "instance_id"]].drop_duplicates().shape[0]
    yield _line(f"held-out instances{of}", instances, INSTANCES_MIN)
    for model, least in (("sft", SFT_FORMAT_MIN), ("rl", RL_FORMAT_MIN)):
        share = bootstrap_mean(select(rows, "rows for the targets", model=model), "format", draws=draws, seed=seed)
        yield _line(f"well-formed answers, {model}{of}", share.mean, least, share.low, share.high)
    gain = paired_difference(rows, "rl", "sft", "correctness", draws=draws, seed=seed)
    line = _line(f"correctness, rl minus sft{of}", gain["difference"], GAIN_MIN, gain["ci_low"], gain["ci_high"])
    met = line["met"] == "yes" and gain["ci_low"] > 0
    yield line | {"target": f"{line['target']}, interval above 0", "met": "yes" if met else "no"}


def _line(
    criterion: str, measured: float, least: float, low: float = float("nan"), high: float = float("nan")
) -> dict[str, Any]:
    return {
        "criterion": criterion,
        "measured": measured,
        "ci_low": low,
        "ci_high": high,
        "target": f">= {least:g}",
        "met": "yes" if measured >= least else "no",
    }
