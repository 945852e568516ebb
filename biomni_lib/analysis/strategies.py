"""How sure the teacher's acceptance by strategy is."""

import pandas as pd

from biomni_lib.analysis.tables import require


def acceptance_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """The acceptance statistics with 95% Wilson intervals of the share accepted.

    A strategy rarely meets an instance twice, so its samples are taken as independent.

    Args:
        table: `sft.rejection.acceptance_table`: task, strategy, sampled (count), accepted (share), and more.
    Returns: the same table with ci_low and ci_high.
    Raises: DataError when the table is empty or lacks a column.
    """
    from statsmodels.stats.proportion import proportion_confint

    require(table, ["task", "strategy", "sampled", "accepted"], "acceptance statistics")
    successes = (table["accepted"] * table["sampled"]).round()
    low, high = proportion_confint(successes, table["sampled"], method="wilson")
    return table.assign(ci_low=low, ci_high=high)
