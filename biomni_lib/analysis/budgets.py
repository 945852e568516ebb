"""What becomes of the same questions under budgets, after which the agent was told to answer: a dose-response curve.

The budget is set by us and not by the model, so its effect is causal for these checkpoints and this notice. It is the
effect of cutting short, which is not that of an answer's own length.
"""

import pandas as pd

from biomni_lib.analysis.bootstrap import INSTANCE, bootstrap_mean, compare_models
from biomni_lib.analysis.length import TRUNCATED
from biomni_lib.analysis.tables import require
from biomni_lib.errors import DataError

ASKED = [*INSTANCE, "sample", "seed", "model", "unit", "budget", "told", "correctness", "answer", "ending", "tokens"]
FREE = "none"
"""The `unit` of rows without a budget, which stand beside those of every unit."""
OUTCOMES = ("right", "wrong", "truncated", "unanswered")


def with_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column of 0 and 1 for each of `OUTCOMES`, of which one is 1.

    `right` is full correctness, `wrong` any other answer. `truncated` gave none after it was told to, or where a limit
    ended it; `unanswered` gave none of its own accord.
    """
    answered, right = rows["answer"].notna(), rows["correctness"].eq(1)
    truncated = ~answered & (rows["told"] | rows["ending"].isin(TRUNCATED))
    parts = (right, answered & ~right, truncated, ~answered & ~truncated)
    return rows.assign(**{name: part.astype(float) for name, part in zip(OUTCOMES, parts, strict=True)})


def dose_response(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Shares of the outcomes under each budget and without one, by model and unit, with intervals over instances.

    Args:
        rows: the columns of `ASKED`: `unit` turns or tokens with its `budget`, or `FREE` with a null one.
    Returns: a row a model, unit and budget, those without one last (`budget` null): model, unit, budget, right, ci_low,
        ci_high, wrong, truncated, truncated_low, truncated_high, unanswered, told (share that met the budget), tokens
        (mean written), instances, samples, seeds.
    Raises: DataError when rows are empty, a column is missing, or a model was not asked the same under all budgets.
    """
    rows = with_outcomes(_beside_free(rows))
    found = []
    for (model, unit, budget), part in rows.groupby(["model", "unit", "budget"], sort=False, dropna=False):
        right, cut = (bootstrap_mean(part, name, draws=draws, seed=seed) for name in ("right", "truncated"))
        found.append(
            {
                "model": model,
                "unit": unit,
                "budget": budget,
                "right": right.mean,
                "ci_low": right.low,
                "ci_high": right.high,
                "wrong": part["wrong"].mean(),
                "truncated": cut.mean,
                "truncated_low": cut.low,
                "truncated_high": cut.high,
                "unanswered": part["unanswered"].mean(),
                "told": part["told"].mean(),
                "tokens": part["tokens"].mean(),
                "instances": len(part[INSTANCE].drop_duplicates()),
                "samples": len(part),
                "seeds": part["seed"].nunique(),
            }
        )
    order = {value: place for place, value in enumerate([*pd.unique(rows["model"]), *pd.unique(rows["unit"])])}
    return pd.DataFrame(found).sort_values(
        ["model", "unit", "budget"],
        key=lambda column: column if column.name == "budget" else column.map(order),
        ignore_index=True,
    )


def budget_effects(rows: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How much more often the same questions are answered right under a budget than without one.

    Args:
        rows: as of `dose_response`.
    Returns: model, unit, budget, then the columns of `compare_models`, `p_holm` over the budgets of one model.
    Raises: DataError as `dose_response`.
    """
    rows = with_outcomes(_beside_free(rows))
    rows["dose"] = [
        FREE if pd.isna(budget) else f"{unit} {budget:g}"
        for unit, budget in zip(rows["unit"], rows["budget"], strict=True)
    ]
    found = []
    for model, part in rows.groupby("model", sort=False):
        once = part[(part["dose"] != FREE) | (part["unit"] == part["unit"].iloc[0])].assign(model=lambda t: t["dose"])
        doses = [dose for dose in dict.fromkeys(once["dose"]) if dose != FREE]
        table = compare_models(once, [(dose, FREE) for dose in doses], "right", draws=draws, seed=seed)
        unit_budget = table["model"].str.split(" ", expand=True)
        named = {"unit": unit_budget[0], "budget": unit_budget[1].astype(float)}
        found.append(table.drop(columns=["model", "reference"]).assign(model=model, **named))
    table = pd.concat(found, ignore_index=True)
    first = ["model", "unit", "budget"]
    return table[[*first, *[name for name in table if name not in first]]]


def _beside_free(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of budgets, and those without one once for every unit; asked the same, or it is said."""
    require(rows, ASKED, "answers under budgets")
    free, given = rows[rows["unit"] == FREE], rows[rows["unit"] != FREE]
    for (model, unit, budget), part in given.groupby(["model", "unit", "budget"], sort=False):
        own = free[free["model"] == model]
        asked, other = (set(map(tuple, t[[*INSTANCE, "sample", "seed"]].to_numpy())) for t in (part, own))
        if asked != other:
            raise DataError(
                f"{model}: {len(asked)} answers under {budget:g} {unit} and {len(other)} without a budget are not to "
                "the same questions; answer both again (notebook 05)"
            )
    units = list(dict.fromkeys(require(given, [], "answers under budgets")["unit"]))
    return pd.concat([given, *[free.assign(unit=unit) for unit in units]], ignore_index=True)
