import pandas as pd
import pytest

from biomni_lib.analysis import check_targets
from biomni_lib.errors import DataError

N = 150


def rows(seed, sft, rl, *, sft_format=N, rl_format=N):
    """Two tasks of 150 instances; the first `sft` and `rl` are right, so many well-formed."""
    counts = {"sft": (sft, sft_format), "rl": (rl, rl_format)}
    return pd.DataFrame(
        {
            "task": task,
            "instance_id": str(i),
            "model": model,
            "seed": seed,
            "correctness": float(i < right),
            "format": float(i < formed),
        }
        for task in "ab"
        for model, (right, formed) in counts.items()
        for i in range(N)
    )


def met(table):
    return table.set_index(["seed", "criterion"])["met"]


def test_all_met():
    table = check_targets(rows(0, 60, 90), draws=200)
    assert table["met"].tolist() == ["yes"] * 4 and table["measured"].tolist() == pytest.approx([300, 1, 1, 0.2])


def test_every_miss_is_a_miss():
    found = met(check_targets(rows(0, 60, 74, sft_format=134, rl_format=142), draws=200))["0"]
    assert found["held-out instances"] == "yes"
    assert (found.drop("held-out instances") == "no").all()  # 134/150 < 0.90, 142/150 < 0.95, 14/150 < 0.10


def test_a_large_gain_with_an_interval_that_holds_0_is_a_miss():
    few = rows(0, 1, 2)[lambda t: t["instance_id"].isin(["0", "1", "2", "3", "4"])]
    line = check_targets(few, draws=400).set_index("criterion").loc["correctness, rl minus sft"]
    assert line["measured"] == pytest.approx(0.2) and line["ci_low"] <= 0 and line["met"] == "no"


def test_seeds_are_judged_alone_and_pooled():
    found = met(check_targets(pd.concat([rows(0, 60, 90), rows(1, 60, 63)]), draws=400))
    gain = "correctness, rl minus sft"
    assert (found["0"][gain], found["1"][gain]) == ("yes", "no")
    assert set(found.index.get_level_values("seed")) == {"0", "1", "pooled"}


def test_patients_are_judged_by_themselves_too_where_other_tasks_are_asked():
    tasks = {"a": "rare_disease_diagnosis", "b": "lab_bench_dbqa"}
    table = check_targets(rows(0, 60, 90).assign(task=lambda t: t["task"].map(tasks)), draws=200)
    measured = table.set_index("criterion")["measured"]
    assert (measured["held-out instances"], measured["held-out instances, patients"]) == (300, 150)
    assert len(table) == 8
    assert len(check_targets(rows(0, 60, 90).assign(task="rare_disease_diagnosis"), draws=50)) == 4


def test_a_missing_model_is_named():
    with pytest.raises(DataError, match="'rl'"):
        check_targets(rows(0, 60, 90)[lambda t: t["model"] == "sft"], draws=50)
