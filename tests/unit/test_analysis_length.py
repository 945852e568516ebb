import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from biomni_lib.analysis import across_strata, association, binned_curve, over_training, within_instance
from biomni_lib.analysis.rank import measures
from biomni_lib.errors import DataError

PAIRS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.0])), min_size=4, max_size=40)


def rows_of(tokens, correctness, *, task="t", model="rl", samples=1):
    places = np.arange(len(tokens))
    return pd.DataFrame(
        {
            "task": task,
            "model": model,
            "instance_id": (places // samples).astype(str),
            "sample": places % samples,
            "tokens": tokens,
            "correctness": np.asarray(correctness, dtype=float),
            "ending": "solved",
        }
    )


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_measures_are_those_of_scipy(pairs):
    x, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    lengths, levels = np.unique(x), np.unique(y)
    table = np.array([[np.sum((x == a) & (y == b)) for b in levels] for a in lengths], dtype=float)
    found = measures(table[None], lengths, levels)[0]
    if len(lengths) == 1 or len(levels) == 1:
        assert np.isnan(found).all()
    else:
        expected = [stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic, stats.pearsonr(x, y).statistic]
        assert found == pytest.approx(expected, abs=1e-9)


def test_association_finds_what_was_put_in_and_nothing_where_nothing_is():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 200, 400)
    parts = {"longer": tokens + rng.normal(0, 60, 400) > 125, "unrelated": rng.random(400) < 0.5}
    rows = pd.concat([rows_of(tokens, right, task=task) for task, right in parts.items()])
    table = association(rows, draws=500).set_index(["task", "measure"])
    assert (table.loc["longer", "ci_low"] > 0.2).all()
    assert (table.loc["unrelated", "ci_low"] < 0).all() and (table.loc["unrelated", "ci_high"] > 0).all()
    assert (table["ci_low"] <= table["estimate"]).all() and (table["estimate"] <= table["ci_high"]).all()


def test_association_interval_counts_instances_not_samples():
    rng = np.random.default_rng(1)
    tokens, right = rng.integers(50, 200, 60), rng.random(60) < 0.5
    once = association(rows_of(tokens, right)).iloc[0]
    repeated = association(rows_of(np.repeat(tokens, 5), np.repeat(right, 5), samples=5)).iloc[0]
    assert repeated["samples"] == 300 and repeated["instances"] == 60
    assert repeated[["estimate", "ci_low", "ci_high"]].to_list() == pytest.approx(
        once[["estimate", "ci_low", "ci_high"]].to_list()
    )


def test_a_constant_outcome_has_no_correlation():
    table = association(rows_of([10, 20, 30], [0, 0, 0]))
    assert table[["estimate", "ci_low", "ci_high"]].isna().all(axis=None)


def test_simpsons_paradox_is_seen():
    """In each task shorter answers are right more often; the task with longer answers is the easier one."""
    rng = np.random.default_rng(2)
    short, long = rng.integers(50, 100, 300), rng.integers(200, 250, 300)
    hard = rows_of(short, rng.random(300) < (100 - short) / 100 * 0.6, task="hard")
    easy = rows_of(long, rng.random(300) < 0.6 + (250 - long) / 125, task="easy")
    table = across_strata(pd.concat([hard, easy]), draws=400).set_index("reading")
    assert table.loc["pooled", "ci_low"] > 0 > table.loc["within", "ci_high"]
    assert table["reverses"].all()
    alone = across_strata(hard, draws=400)
    assert alone["strata"].eq(1).all() and alone["estimate"].nunique() == 1 and not alone["reverses"].any()


def test_strata_without_a_correlation_drop_out_of_the_mean():
    """Strategy a decides by length, b never answers right: the mean within strategies is that of a alone."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(50, 100, 200)
    a = rows_of(tokens, tokens > 75).assign(strategy="a")
    b = rows_of(tokens, [0] * 200).assign(strategy="b", instance_id=lambda t: "b" + t["instance_id"])
    table = across_strata(pd.concat([a, b]), by="strategy", draws=200).set_index("reading")
    own = association(a, draws=200).set_index("measure").loc["spearman"]
    assert table.loc["within", "estimate"] == pytest.approx(own["estimate"])
    assert table["strata"].eq(1).all() and table["samples"].to_dict() == {"pooled": 400, "within": 200}
    assert table.loc["pooled", "estimate"] < table.loc["within", "estimate"]
    assert across_strata(b, by="strategy", draws=50)["estimate"].isna().all()


def test_within_instance_compares_answers_to_the_same_question():
    """Question i has answers of length 100 i; its right ones are 10 longer. Questions without both say nothing."""
    rows = pd.concat(
        [
            rows_of([100, 110, 200, 210, 300, 310], [0, 1, 0, 1, 0, 1], samples=2),
            rows_of([900, 990], [1, 1], samples=2).assign(instance_id="always right"),
        ]
    )
    found = within_instance(rows).iloc[0]
    assert found["difference"] == found["ci_low"] == found["ci_high"] == 10
    assert found["instances"] == 3 and found["mean_length"] == 205
    with pytest.raises(DataError, match="no instance has a right and a wrong sample"):
        within_instance(rows_of([100, 200], [1, 1], samples=2))


def test_a_common_trend_shows_in_levels_and_not_in_changes():
    steps = np.arange(40)
    zigzag, waves = np.where(steps % 2, 3.0, -3.0), np.where(steps // 2 % 2, 3.0, -3.0)
    metrics = pd.DataFrame({"step": steps, "length": 100 + 10 * steps + zigzag, "score": 10 * steps + waves})
    table = over_training(metrics, "length", "score").set_index("reading")
    assert table.loc["levels", "spearman"] > 0.95
    assert table.loc["changes", "ci_low"] < 0 < table.loc["changes", "ci_high"]
    assert np.isnan(table.loc["levels", "ci_low"])
    assert over_training(metrics.head(3), "length", "score")["spearman"].isna().all()


def test_bins_hold_every_row_once_and_split_no_length():
    rng = np.random.default_rng(4)
    rows = rows_of(rng.integers(1, 9, 200), rng.random(200) < 0.5)
    curve = binned_curve(rows, bins=4)
    assert curve["samples"].sum() == 200
    assert (curve["length_low"].to_numpy()[1:] > curve["length_high"].to_numpy()[:-1]).all()
    assert ((curve["ci_low"] <= curve["outcome"]) & (curve["outcome"] <= curve["ci_high"])).all()
    assert len(binned_curve(rows_of([7] * 20, [1, 0] * 10), bins=4)) == 1


def test_truncated_answers_are_counted_apart():
    rows = rows_of([10, 20, 500, 600], [1, 1, 0, 0]).assign(ending=["solved", "solved", "token_limit", "timeout"])
    assert binned_curve(rows, bins=2)["truncated"].tolist() == [0, 1]


def test_missing_parts_are_named():
    rows = rows_of([1, 2], [0, 1])
    for reading in (association, across_strata, within_instance, binned_curve):
        with pytest.raises(DataError, match="no rows"):
            reading(rows.iloc[:0])
        with pytest.raises(DataError, match="no column thinking"):
            reading(rows, "thinking")
