"""pass@k against every choice of k samples, and against what it estimates."""

import itertools
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.analysis import pass_at_k
from biomni_lib.analysis.passes import pass_probability, samples_each
from biomni_lib.errors import DataError


@given(st.integers(1, 7), st.data())
def test_it_is_the_share_of_choices_that_hold_a_right_answer(samples, data):
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    answers = [True] * right + [False] * (samples - right)
    choices = list(itertools.combinations(answers, k))
    assert pass_probability(samples, right, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("samples", "k"), [(1, 1), (5, 1), (5, 3), (8, 8), (16, 4)])
def test_it_is_unbiased(samples, k, p):
    expected = sum(
        math.comb(samples, right) * p**right * (1 - p) ** (samples - right) * pass_probability(samples, right, k)
        for right in range(samples + 1)
    )
    assert expected == pytest.approx(1 - (1 - p) ** k)


@given(st.integers(1, 60), st.data())
def test_it_is_the_product_of_the_paper(samples, data):
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    product = math.prod(1 - k / i for i in range(samples - right + 1, samples + 1))
    assert pass_probability(samples, right, k) == pytest.approx(1 - product if samples - right >= k else 1.0)


def rows(*right, samples=4):
    """Instances with so many right samples each."""
    return pd.DataFrame(
        {"task": "t", "instance_id": str(number), "sample": sample, "score": float(sample < count)}
        for number, count in enumerate(right)
        for sample in range(samples)
    )


def test_instances_count_once_and_k_of_one_is_the_mean_score():
    found = rows(0, 1, 4)
    assert pass_at_k(found, 1).mean == pytest.approx(found["score"].mean())
    assert pass_at_k(found, 2).mean == pytest.approx((0 + 0.5 + 1) / 3)
    assert pass_at_k(found, 4).mean == pytest.approx(2 / 3)
    low, high = pass_at_k(found, 2)[1:]
    assert 0 <= low < 0.5 < high <= 1


def test_more_answers_than_there_are_are_refused():
    found = pd.concat([rows(1), rows(2, samples=2).assign(instance_id="few")])
    assert samples_each(found) == 2
    assert pass_at_k(found, 2).mean == pytest.approx((0.5 + 1) / 2)
    with pytest.raises(DataError, match="pass@3 of 2 samples"):
        pass_at_k(found, 3)
    with pytest.raises(DataError, match="rows for pass@2: no rows"):
        pass_at_k(found.iloc[:0], 2)
