"""The dose-response table on answers written down by hand."""

import numpy as np
import pandas as pd
import pytest

from biomni_lib.analysis import budget_effects, dose_response
from biomni_lib.analysis.budgets import OUTCOMES, with_outcomes
from biomni_lib.errors import DataError

RIGHT, WRONG, GAVE_UP = (1.0, "a", "solved"), (0.0, "b", "solved"), (0.0, None, "gave_up")
LIMIT = (0.0, None, "turn_limit")


def answers(unit, budget, given, *, told=(), model="rl"):
    """One answer to each of the questions 0, 1, …; `told` are those whose agent met the budget."""
    return pd.DataFrame(
        {
            "task": "t",
            "instance_id": str(place),
            "sample": 0,
            "seed": 0,
            "model": model,
            "unit": unit,
            "budget": budget,
            "told": place in told,
            "correctness": correctness,
            "answer": answer,
            "ending": ending,
            "tokens": 10 * (place + 1),
        }
        for place, (correctness, answer, ending) in enumerate(given)
    )


FREE = answers("none", np.nan, [RIGHT, RIGHT, RIGHT, WRONG, GAVE_UP])
ONE_TURN = answers("turns", 1.0, [RIGHT, WRONG, LIMIT, GAVE_UP, GAVE_UP], told=(0, 1, 2, 3))
FEW_TOKENS = answers("tokens", 64.0, [WRONG] * 5, told=range(5))


def test_outcomes_are_apart_and_complete():
    rows = with_outcomes(pd.concat([FREE, ONE_TURN]))
    assert (rows[list(OUTCOMES)].sum(axis=1) == 1).all()
    found = rows[rows["unit"] == "turns"][list(OUTCOMES)].idxmax(axis=1).tolist()
    assert found == ["right", "wrong", "truncated", "truncated", "unanswered"]


def test_shares_under_each_budget_and_beside_them_those_without():
    table = dose_response(pd.concat([FREE, ONE_TURN, FEW_TOKENS]), draws=100)
    assert table["unit"].tolist() == ["turns", "turns", "tokens", "tokens"]
    assert table["budget"].isna().tolist() == [False, True, False, True]
    first = table.iloc[0]
    assert first[["right", "wrong", "truncated", "unanswered", "told"]].tolist() == [0.2, 0.2, 0.4, 0.2, 0.8]
    assert table.loc[table["budget"].isna(), "right"].tolist() == [0.6, 0.6]
    assert table["instances"].eq(5).all() and table["seeds"].eq(1).all() and first["tokens"] == 30
    assert (table["ci_low"] <= table["right"]).all() and (table["right"] <= table["ci_high"]).all()


def test_an_effect_is_the_difference_on_the_same_questions():
    table = budget_effects(pd.concat([FREE, ONE_TURN, FEW_TOKENS]), draws=100)
    together = table[table["task"] == "all"].set_index(["unit", "budget"])
    assert together.loc[("turns", 1.0), "difference"] == pytest.approx(-0.4)
    assert together.loc[("tokens", 64.0), "difference"] == pytest.approx(-0.6)
    assert together["n"].eq(5).all()


def test_a_known_drop_is_found_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    given = [RIGHT if right else WRONG for right in rng.random(200) < 0.8]
    worse = [WRONG if rng.random() < 0.4 else one for one in given]
    rows = pd.concat([answers("none", np.nan, given), answers("turns", 1.0, worse), answers("turns", 2.0, given)])
    table = budget_effects(rows, draws=500).query("task == 'all'").set_index("budget")
    assert table.loc[1.0, "ci_high"] < 0 and table.loc[1.0, "p_holm"] < 0.01
    assert table.loc[2.0, "difference"] == 0 and table.loc[2.0, "ci_low"] < 0 < table.loc[2.0, "ci_high"]


def test_the_unit_of_chance_is_the_question():
    once = pd.concat([FREE, ONE_TURN])
    again = pd.concat([once, once.assign(sample=1), once.assign(sample=2)])
    first, repeated = (dose_response(rows, draws=400).iloc[0] for rows in (once, again))
    assert (repeated["instances"], repeated["samples"]) == (5, 15)
    assert (first["ci_low"], first["ci_high"]) == (repeated["ci_low"], repeated["ci_high"])


def test_what_is_missing_or_mixed_is_named():
    with pytest.raises(DataError, match="answers under budgets: no rows"):
        dose_response(FREE.iloc[:0])
    with pytest.raises(DataError, match="answers under budgets: no rows"):
        dose_response(FREE)
    with pytest.raises(DataError, match="no column told"):
        dose_response(pd.concat([FREE, ONE_TURN]).drop(columns="told"))
    with pytest.raises(
        DataError, match="rl: 5 answers under 1 turns and 4 without a budget are not to the same questio"
    ):
        budget_effects(pd.concat([FREE.head(4), ONE_TURN]))
    with pytest.raises(DataError, match="sft: 5 answers under 1 turns and 0 without a budget"):
        dose_response(pd.concat([FREE, ONE_TURN, ONE_TURN.assign(model="sft")]))
