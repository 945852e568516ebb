"""What the teacher's strategies are worth: how often each is accepted, how often right, how long."""

import pandas as pd

from biomni_lib.analysis.bootstrap import INSTANCE, bootstrap_mean
from biomni_lib.analysis.tables import require


def acceptance_table(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Acceptance, correctness and length by task and strategy.

    Args:
        rows: one sampled trajectory each: task, instance_id, strategy, accepted (bool), correctness, tokens.
    Returns: task, strategy, acceptance, ci_low, ci_high, correctness, mean_tokens, instances, samples; the order of the
        rows.
    Raises: DataError when rows are empty or a column is missing.
    """
    require(rows, [*INSTANCE, "strategy", "accepted", "correctness", "tokens"], "the teacher's trajectories")
    found = []
    for (task, strategy), part in rows.groupby(["task", "strategy"], sort=False):
        estimate = bootstrap_mean(part, "accepted", draws=draws, seed=seed)
        found.append(
            {
                "task": task,
                "strategy": strategy,
                "acceptance": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "correctness": part["correctness"].mean(),
                "mean_tokens": part["tokens"].mean(),
                "instances": part["instance_id"].nunique(),
                "samples": len(part),
            }
        )
    return pd.DataFrame(found)
