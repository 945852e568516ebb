"""Logistic models of length on data whose effect is known."""

import numpy as np
import pandas as pd
import pytest

from biomni_lib.analysis import length_odds
from biomni_lib.analysis.odds import PER, READINGS
from biomni_lib.errors import DataError

DOUBLED = 0.8
"""What one doubling of length adds to the log-odds, where it adds anything."""


def answers(log2_length, chance, instance, *, task="t", model="m", rng):
    """Rows whose answers are right by the given chances."""
    return pd.DataFrame(
        {
            "task": task,
            "model": model,
            "instance_id": np.asarray(instance).astype(str),
            "tokens": np.round(100 * 2.0 ** np.asarray(log2_length)),
            "correctness": (rng.random(len(chance)) < chance).astype(float),
            "format": 1.0,
            "ending": "solved",
        }
    )


def chance_of(log_odds):
    return 1 / (1 + np.exp(-np.asarray(log_odds)))


def by_reading(table, adjusted=False):
    return table[table["adjusted"] == adjusted].set_index("reading")


def confounded(rng, *, effect, questions=300, samples=6):
    """Hard questions get long answers: length and correctness share a cause that only the question holds."""
    hard = rng.normal(0, 1, questions)
    instance = np.repeat(np.arange(questions), samples)
    log2_length = 0.8 * hard[instance] + rng.normal(0, 0.7, len(instance))
    return answers(log2_length, chance_of(effect * log2_length - 2.5 * hard[instance]), instance, rng=rng)


def test_the_conditional_model_removes_what_a_question_brings_along():
    table = by_reading(length_odds(confounded(np.random.default_rng(0), effect=0.0)))
    assert table.loc["across tasks", "ci_high"] < 1  # longer looks much worse
    inside = table.loc["within instance"]
    assert inside["ci_low"] < 1 < inside["ci_high"]


def test_the_conditional_model_finds_the_effect_that_the_plain_one_turns_around():
    table = by_reading(length_odds(confounded(np.random.default_rng(1), effect=DOUBLED)))
    expected = np.exp(DOUBLED * np.log2(PER))
    inside = table.loc["within instance"]
    assert table.loc["across tasks", "ci_high"] < 1 < inside["ci_low"] < expected < inside["ci_high"]


def test_simpsons_paradox_turns_the_sign_between_across_and_within_tasks():
    rng = np.random.default_rng(2)
    x, number = rng.normal(0, 0.4, 800), np.arange(800)
    hard = answers(x, chance_of(-DOUBLED * 2 * x - 1.5), number, task="hard", rng=rng)
    easy = answers(x + 2, chance_of(-DOUBLED * 2 * x + 1.5), number, task="easy", rng=rng)
    table = by_reading(length_odds(pd.concat([hard, easy])))
    assert table.loc["across tasks", "ci_low"] > 1 > table.loc["within task", "ci_high"]
    assert table.loc["within instance", "why"] == "no right beside a wrong answer within instance"


def test_a_coefficient_is_that_of_a_two_by_two_table():
    """Two lengths alone: the odds ratio of the fit is the cross ratio, which is worked out by hand."""
    lengths = [100] * 100 + [200] * 100
    right = [1] * 40 + [0] * 60 + [1] * 70 + [0] * 30
    rows = answers(np.zeros(200), np.zeros(200), np.arange(200), rng=np.random.default_rng(0))
    rows = rows.assign(tokens=lengths, correctness=np.array(right, dtype=float))
    found = by_reading(length_odds(rows)).loc["across tasks"]
    cross = (70 / 30) / (40 / 60)
    assert found["odds_ratio"] == pytest.approx(cross ** np.log2(PER), rel=1e-4)
    error = np.sqrt(1 / 40 + 1 / 60 + 1 / 70 + 1 / 30) * np.log2(PER)  # Woolf; the robust one differs by n / (n - 1)
    assert np.log(found["ci_high"] / found["ci_low"]) == pytest.approx(2 * 1.96 * error, rel=0.02)


def test_samples_of_one_question_do_not_narrow_the_interval():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, 300)
    once = answers(x, chance_of(x), np.arange(300), rng=rng)
    widths = [
        np.log(row["ci_high"] / row["ci_low"])
        for row in (by_reading(length_odds(t)).loc["across tasks"] for t in (once, pd.concat([once] * 5)))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.01)


def test_truncation_alone_makes_length_look_bad_until_it_is_held_fixed():
    """Length does nothing, but a limit cuts the longest answers off; those are never right."""
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, 1500)
    cut = x > 1.2
    rows = answers(x, np.where(cut, 0, 0.6), np.repeat(np.arange(300), 5), rng=rng)
    rows["ending"] = np.where(cut, "token_limit", "solved")
    table = length_odds(rows)
    for reading in READINGS:
        assert by_reading(table).loc[reading, "ci_high"] < 1, reading
        held = by_reading(table, adjusted=True).loc[reading]
        assert held["ci_low"] < 1 < held["ci_high"], reading
    assert by_reading(table, adjusted=True).loc["across tasks", "samples"] == (~cut).sum()


def test_broken_format_is_held_fixed_where_some_of_it_is_right():
    """Malformed answers are short and mostly wrong: without holding that fixed, length looks good."""
    rng = np.random.default_rng(5)
    malformed = rng.random(2000) < 0.4
    x = rng.normal(0, 0.5, 2000) - 1.5 * malformed
    rows = answers(x, np.where(malformed, 0.15, 0.7), np.repeat(np.arange(400), 5), rng=rng)
    table = length_odds(rows.assign(format=np.where(malformed, 0.0, 1.0)))
    for reading in READINGS:
        assert by_reading(table).loc[reading, "ci_low"] > 1, reading
        held = by_reading(table, adjusted=True).loc[reading]
        assert held["ci_low"] < 1 < held["ci_high"] and held["samples"] <= 2000, reading


def test_a_reading_without_an_estimate_says_why():
    rng = np.random.default_rng(6)
    x = rng.normal(0, 1, 60)
    separated = answers(x, (x > 0).astype(float), np.repeat(np.arange(20), 3), rng=rng)
    equal = separated.assign(tokens=100)
    wrong = separated.assign(correctness=0.0)
    one = separated[separated["instance_id"] == "0"].assign(correctness=[0.0, 1.0, 0.0])
    reasons = ("are separated", "equally long", "no right beside a wrong answer", "too few questions")
    for rows, why in zip((separated, equal, wrong, one), reasons, strict=True):
        table = length_odds(rows)
        assert table["why"].str.contains(why).all(), why
        assert table[["odds_ratio", "ci_low", "ci_high"]].isna().all(axis=None)


def test_a_confounder_that_separates_within_questions_leaves_no_estimate_and_no_traceback():
    """Where a question has both, its malformed answers are the wrong ones; elsewhere malformed ones are right too."""
    rng = np.random.default_rng(8)
    malformed = np.array([0, 1] * 12)
    rows = answers(rng.normal(0, 1, 24), np.zeros(24), np.repeat(np.arange(12), 2), rng=rng)
    mixed = np.arange(24) < 12
    rows = rows.assign(format=1.0 - malformed, correctness=np.where(mixed & (malformed == 1), 0.0, 1.0))
    held = by_reading(length_odds(rows), adjusted=True).loc["within instance"]
    assert np.isnan(held["odds_ratio"]) and "separated" in held["why"]


def test_seeds_are_counted_from_the_rows():
    rng = np.random.default_rng(7)
    x = rng.normal(0, 1, 300)
    rows = answers(x, chance_of(x), np.repeat(np.arange(100), 3), rng=rng).assign(seed=np.tile([0, 1, 2], 100))
    assert by_reading(length_odds(rows)).loc["across tasks", "seeds"] == 3


def test_missing_parts_are_named():
    rows = answers([0.0, 1.0], [0.5, 0.5], [0, 1], rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="rows for models of length: no rows"):
        length_odds(rows.iloc[:0])
    with pytest.raises(DataError, match="no column format"):
        length_odds(rows.drop(columns="format"))
