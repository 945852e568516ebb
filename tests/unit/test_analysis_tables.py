import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from biomni_lib.analysis import (
    acceptance_intervals,
    difference_by_seed,
    evaluation_table,
    score_table,
    seed_table,
    shown,
    summarize,
    tasks_against_models,
)
from biomni_lib.config import load_config
from biomni_lib.errors import DataError
from biomni_lib.provenance import write_manifest

TASKS = ("rare_disease_diagnosis", "patient_gene_detection")


def evaluated(models, *, seeds=(0,), tasks=TASKS, n=20, rng=None):
    """Rows of models with the given probability of a right answer."""
    rng = rng or np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "task": task,
                "instance_id": str(i),
                "sample": 0,
                "seed": seed,
                "model": model,
                "score": float(rng.random() < p),
                "format": 1.0,
                "tokens": 100,
                "turns": 2,
            }
            for model, p in models.items()
            for seed in seeds
            for task in tasks
            for i in range(n)
        ]
    )


def test_all_is_the_mean_over_instances_and_needs_every_task():
    part = evaluated({"lookup": 0.5}, tasks=TASKS[:1]).assign(format=np.nan, tokens=0, turns=0)
    rows = pd.concat([evaluated({"rl": 0.8}, n=10), evaluated({"rl": 0.1}, tasks=TASKS[:1], n=40), part])
    table = score_table(rows).set_index(["task", "model"])
    assert ("all", "lookup") not in table.index
    everything = rows[rows["model"] == "rl"]["score"]
    assert table.loc[("all", "rl"), "score"] == pytest.approx(everything.mean())
    assert table.loc[("all", "rl"), "n"] == 50  # 40 of one task (ids repeat), 10 of the other
    assert np.isnan(table.loc[(TASKS[0], "lookup"), "format"])


def test_what_answers_took_stands_behind_their_scores():
    took = {"tool_calls": 2, "tool_seconds": 0.5, "usd": 0.25}
    once = evaluated({"overlap": 0.5}).assign(format=np.nan, tool_calls=0, tool_seconds=0.0, usd=np.nan)
    twice = pd.concat([evaluated({"rl": p}).assign(sample=n) for n, p in enumerate((0.0, 1.0))]).assign(**took)
    rows = pd.concat([once, twice])
    table = evaluation_table(rows)
    scored = score_table(rows)
    pd.testing.assert_frame_equal(table[scored.columns], scored)
    rl = table.set_index(["task", "model"]).loc[("all", "rl")]
    assert (rl["score"], rl["k"], rl["pass_at_k"]) == (0.5, 2, 1.0) and rl["pass_low"] < 1
    assert (rl["mean_tool_calls"], rl["mean_tool_seconds"], rl["mean_usd"]) == (2, 0.5, 0.25)
    rule = table.set_index(["task", "model"]).loc[(TASKS[0], "overlap")]
    assert rule["k"] == 1 and rule["pass_at_k"] == pytest.approx(rule["score"]) and np.isnan(rule["mean_usd"])
    with pytest.raises(DataError, match="evaluated rows: no column usd"):
        evaluation_table(rows.drop(columns="usd"))


def test_published_numbers_stand_in_columns_of_their_own_and_what_is_unknown_is_empty():
    table = shown(tasks_against_models(score_table(evaluated({"rl": 0.8}))))
    assert list(table.columns) == ["rl", "published: Qwen3-32B", "published: Biomni-R0-8B", "published: Biomni-R0-32B"]
    assert table.loc["rare_disease_diagnosis", "published: Biomni-R0-8B"] == ""
    assert table.loc["rare_disease_diagnosis", "published: Biomni-R0-32B"] == 0.67
    assert table.loc["crispr_delivery"].tolist() == [""] * 4
    assert table.index[0] == "all" and table.loc["all", "published: Biomni-R0-32B"] == 0.669


def test_summary_has_the_promised_shape(tmp_path):
    config = load_config("smoke", runs_root=tmp_path)
    write_manifest(config, "sft", seconds=12.5)
    rows = evaluated({"base": 0.0, "sft": 0.5, "rl": 0.9, "teacher": 0.9}, seeds=(0, 1, 2))
    baseline = evaluated({"overlap": 0.6}).assign(format=np.nan, tokens=0, turns=0)
    summary = json.loads(json.dumps(summarize(pd.concat([rows, baseline]), config), allow_nan=False))
    assert list(summary) == ["preset", "code", "tasks", "seconds"]
    assert summary["preset"] == "smoke" and summary["seconds"] == {"sft": 12.5}
    assert set(summary["tasks"]) == {"all", *TASKS}
    for models in summary["tasks"].values():
        assert set(models) == {"base", "sft", "rl", "teacher", "overlap"}
        for cell in models.values():
            names = ["score", "ci_low", "ci_high", "format", "n", "seeds", "mean_tokens", "mean_turns"]
            assert list(cell) == names
            assert cell["ci_low"] <= cell["score"] <= cell["ci_high"]
    assert summary["tasks"]["all"]["rl"]["seeds"] == 3 and summary["tasks"]["all"]["rl"]["n"] == 40
    assert summary["tasks"]["all"]["overlap"]["format"] is None and summary["tasks"]["all"]["overlap"]["seeds"] == 1


def test_summary_repeats():
    config, rows = load_config("smoke"), evaluated({"sft": 0.5, "rl": 0.9}, seeds=(0, 1))
    assert summarize(rows, config)["tasks"] == summarize(rows.sample(frac=1, random_state=1), config)["tasks"]


def test_seed_table_is_the_t_interval_over_seeds():
    rows = evaluated({"rl": 0.7}, seeds=(0, 1, 2), tasks=TASKS[:1])
    means = rows.groupby("seed")["score"].mean().to_numpy()
    found = seed_table(rows).set_index("task").loc[TASKS[0]]
    expected = stats.t.interval(0.95, 2, loc=means.mean(), scale=stats.sem(means))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(expected)
    assert found["seeds"] == 3 and found["low"] == means.min()
    one = seed_table(rows[rows["seed"] == 0]).iloc[0]
    assert np.isnan(one["sd"]) and np.isnan(one["ci_low"])


def test_differences_by_seed_pool_to_the_mean():
    rows = evaluated({"rl": 0.9, "sft": 0.4}, seeds=(0, 1, 2), n=50)
    table = difference_by_seed(rows).set_index(["task", "seed"])["difference"]
    for task in ("all", *TASKS):
        assert table[task]["pooled"] == pytest.approx(table[task][["0", "1", "2"]].mean())
    with pytest.raises(DataError, match="no model = 'sft'"):
        difference_by_seed(rows[(rows["model"] == "rl") | (rows["seed"] == 0)])


def test_acceptance_has_wilson_intervals():
    table = pd.DataFrame(
        {"task": "t", "strategy": ["guess", "evidence"], "sampled": [40, 25], "accepted": [0.25, 0.96]}
    )
    found = acceptance_intervals(table)
    for _, row in found.iterrows():
        expected = stats.binomtest(round(row["accepted"] * row["sampled"]), row["sampled"]).proportion_ci(
            method="wilson"
        )
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))
    with pytest.raises(DataError, match="no column sampled"):
        acceptance_intervals(table.drop(columns="sampled"))
