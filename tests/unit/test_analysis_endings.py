"""The table of failures on answers written down by hand."""

import pandas as pd
import pytest

from biomni_lib.analysis import failure_endings
from biomni_lib.analysis.endings import WRONG
from biomni_lib.errors import DataError


def answers(model, given, format=1.0):
    """One answer to each of the questions 0, 1, …: (ending, correctness)."""
    return pd.DataFrame(
        {"task": "t", "instance_id": str(place), "seed": 0, "model": model, "format": format}
        | {"ending": ending, "correctness": right}
        for place, (ending, right) in enumerate(given)
    )


ROWS = pd.concat(
    [
        answers("random", [("solved", 0.0)] * 4, format=None),
        answers("base", [("token_limit", 0.0), ("token_limit", 0.0), ("gave_up", 0.0), ("solved", 1.0)]),
        answers("rl", [("solved", 1.0), ("solved", 0.0), ("error:malformed_turn", 0.0), ("solved", 1.0)]),
    ],
    ignore_index=True,
)


def test_each_failure_is_counted_once_and_limits_come_last():
    table = failure_endings(ROWS, draws=200)
    shares = table.pivot_table("share", "model", "failure", sort=False)
    assert list(shares.columns) == [WRONG, "error:malformed_turn", "gave_up", "token_limit"]
    assert shares.loc["base"].tolist() == [0, 0, 0.25, 0.5] and shares.loc["rl"].tolist() == [0.25, 0.25, 0, 0]
    assert set(table["n"]) == {4} and set(table["seeds"]) == {1}
    none = table[(table["model"] == "rl") & (table["failure"] == "gave_up")].iloc[0]
    assert none["ci_low"] == 0 and none["ci_high"] == pytest.approx(1 - 0.025 ** (1 / 4))  # exact, of four questions
    assert (table["ci_low"] <= table["share"]).all() and (table["share"] <= table["ci_high"]).all()


def test_where_nothing_failed_there_is_no_row_and_rules_alone_are_refused():
    assert failure_endings(answers("rl", [("solved", 1.0)] * 3)).empty
    with pytest.raises(DataError, match="endings of answers of models: no rows"):
        failure_endings(ROWS[ROWS["model"] == "random"])
    with pytest.raises(DataError, match="endings of answers: no column ending"):
        failure_endings(ROWS.drop(columns="ending"))
