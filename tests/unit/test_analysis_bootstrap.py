import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from biomni_lib.analysis import bootstrap_mean, compare_models, paired_difference
from biomni_lib.analysis.bootstrap import sign_flip_p
from biomni_lib.errors import DataError


def rows_of(scores, model="rl", seed=0, task="t"):
    """One row for each (instance, sample) of a list of lists."""
    return pd.DataFrame(
        [
            {"task": task, "instance_id": str(i), "sample": j, "seed": seed, "model": model, "score": float(s)}
            for i, samples in enumerate(scores)
            for j, s in enumerate(np.atleast_1d(samples))
        ]
    )


def test_interval_of_a_share_has_the_normal_width():
    n, p = 400, 0.3
    estimate = bootstrap_mean(rows_of(np.arange(n) < p * n), "score", draws=8000)
    half = stats.norm.ppf(0.975) * np.sqrt(p * (1 - p) / n)
    assert estimate.mean == pytest.approx(p)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.07)


def test_repeating_the_samples_of_an_instance_adds_no_certainty():
    once = np.random.default_rng(0).random(50)
    assert bootstrap_mean(rows_of(once), "score") == pytest.approx(
        bootstrap_mean(rows_of(np.tile(once, (7, 1)).T), "score")
    )


def test_clustered_interval_covers_the_mean_and_the_naive_one_does_not():
    """Instances differ in difficulty, uniform on [0, 1]: the true mean is 0.5."""
    rng = np.random.default_rng(1)
    covered = naive = 0
    for repeat in range(200):
        scores = rng.random((40, 8)) < rng.random(40)[:, None]
        low, high = bootstrap_mean(rows_of(scores), "score", draws=400, seed=repeat)[1:]
        covered += low <= 0.5 <= high
        half = stats.norm.ppf(0.975) * scores.std() / np.sqrt(scores.size)
        naive += abs(scores.mean() - 0.5) <= half
    assert 0.89 <= covered / 200 <= 0.99
    assert naive / 200 < 0.85


def test_pooled_seeds_cover_the_spread_of_seeds():
    """Three seeds that differ by far more than instances do: the interval is as wide as the seeds say."""
    parts = [rows_of(np.full(100, value), seed=seed) for seed, value in enumerate((0.2, 0.5, 0.8))]
    estimate = bootstrap_mean(pd.concat(parts), "score")
    assert estimate.mean == pytest.approx(0.5)
    assert (estimate.low, estimate.high) == pytest.approx((0.2, 0.8))


@pytest.mark.parametrize("value", [0, 1])
def test_no_spread_gives_the_exact_binomial_bound(value):
    n = 300
    estimate = bootstrap_mean(rows_of(np.full(n, value)), "score")
    slack = 1 - 0.025 ** (1 / n)
    assert (estimate.low, estimate.high) == pytest.approx((0, slack) if value == 0 else (1 - slack, 1))


def test_nulls_are_left_out_and_all_null_is_null():
    assert bootstrap_mean(rows_of([0.25, np.nan, 0.75]), "score").mean == 0.5
    assert np.isnan(bootstrap_mean(rows_of([np.nan]), "score")).all()


@pytest.mark.parametrize("differences", [[1, 1, 1, 1], [0.5, -0.25, 1, 0, 0.75], [3, -1, 2, 2, -2, 0.5]])
def test_sign_flip_equals_enumeration(differences):
    seen = abs(sum(differences))
    flips = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in signs_of(len(differences))]
    assert sign_flip_p(np.array(differences)) == np.mean([abs(flip) >= seen - 1e-9 for flip in flips])


def signs_of(size):
    return list(itertools.product((-1, 1), repeat=size))


def test_sign_flip_of_many_is_the_sign_test():
    """With differences of -1 and 1 alone, the permutation test is the two-sided binomial test."""
    differences = np.array([1] * 22 + [-1] * 10 + [0] * 50)
    assert sign_flip_p(differences, draws=40_000) == pytest.approx(stats.binomtest(22, 32).pvalue, abs=0.006)


def test_nothing_differs():
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_paired_difference_is_antisymmetric_and_agrees_with_the_exact_test():
    rl, sft = [1, 1, 1, 1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    rows = pd.concat([rows_of(rl, "rl"), rows_of(sft, "sft")])
    there, back = paired_difference(rows, "rl", "sft"), paired_difference(rows, "sft", "rl")
    assert there["difference"] == pytest.approx(0.7) == pytest.approx(-back["difference"])
    assert there["p"] == back["p"] == 2 / 2**7  # seven instances differ, all in one direction
    assert there["ci_low"] > 0
    assert (there["n"], there["seeds"]) == (10, 1)


def test_pairing_narrows_the_interval_of_hard_and_easy_instances():
    hard = np.arange(200) % 2
    better = np.where(np.arange(200) % 20 == 0, 1, hard)
    rows = pd.concat([rows_of(better, "rl"), rows_of(hard, "sft")])
    paired = paired_difference(rows, "rl", "sft")
    alone = [bootstrap_mean(rows[rows["model"] == model], "score") for model in ("rl", "sft")]
    assert paired["ci_low"] > 0
    assert alone[0].low < alone[1].high


def test_compare_models_corrects_by_holm():
    rng = np.random.default_rng(3)
    tasks = ("a", "b")
    rows = pd.concat([rows_of(rng.random(30) < p, m, task=t) for m, p in (("rl", 0.9), ("sft", 0.2)) for t in tasks])
    table = compare_models(rows, [("rl", "sft")])
    assert list(table["task"]) == ["all", "a", "b"]
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(min(1, 3 * table["p"].min()))


def test_models_are_compared_on_the_tasks_that_both_were_asked():
    asked = [("rl", "a"), ("rl", "b"), ("sft", "a"), ("sft", "b"), ("rule", "a")]
    rows = pd.concat([rows_of([1, 0, 1], model, task=task) for model, task in asked])
    table = compare_models(rows, [("rl", "sft"), ("rl", "rule")])
    assert table.groupby("reference")["task"].agg(list).to_dict() == {"sft": ["all", "a", "b"], "rule": ["all", "a"]}
    assert table.query("task == 'all'").set_index("reference")["n"].to_dict() == {"sft": 6, "rule": 3}


def test_missing_parts_are_named():
    rows = pd.concat([rows_of([1, 0, 1], "rl"), rows_of([1, 0], "sft")])
    with pytest.raises(DataError, match="no model = 'base'; it has rl, sft"):
        paired_difference(rows, "rl", "base")
    with pytest.raises(DataError, match="1 instances were evaluated for one alone"):
        paired_difference(rows, "rl", "sft")
    with pytest.raises(DataError, match="no rows"):
        bootstrap_mean(rows.iloc[:0], "score")
    with pytest.raises(DataError, match="no column format"):
        bootstrap_mean(rows, "format")


def test_models_that_never_differ_may_differ_either_way():
    """0 of 40 instances differ; the exact upper bound on their share is 1 - 0.025 ** (1 / 40)."""
    rows = pd.DataFrame({"task": "t", "instance_id": [str(i) for i in range(40)], "score": 1.0, "seed": 0})
    pair = pd.concat([rows.assign(model="rl"), rows.assign(model="sft")])
    found = paired_difference(pair, "rl", "sft", draws=50)
    bound = 1 - 0.025 ** (1 / 40)
    assert found[["difference", "ci_low", "ci_high", "p"]].tolist() == pytest.approx([0, -bound, bound, 1])
    lengths = paired_difference(pair.assign(tokens=50), "rl", "sft", "tokens", draws=50)
    assert lengths[["difference", "ci_low", "ci_high", "p"]].tolist() == [0, 0, 0, 1]
