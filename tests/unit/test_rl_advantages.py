import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from biomni_lib.errors import ShapeError
from biomni_lib.rl.advantages import group_advantages, soft_overlong_penalty

rewards = st.integers(1, 8).flatmap(
    lambda size: st.integers(1, 6).flatmap(
        lambda groups: st.tuples(
            st.just(size), arrays(np.float32, groups * size, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
        )
    )
)


@given(rewards, st.booleans())
def test_advantages_equal_their_formula(given_rewards: tuple[int, np.ndarray], divide: bool) -> None:
    size, values = given_rewards
    grouped = values.reshape(-1, size).astype(np.float64)
    expected = grouped - grouped.mean(axis=1, keepdims=True)
    if divide:
        expected /= grouped.std(axis=1, keepdims=True) + 1e-6
    got = group_advantages(torch.tensor(values), size, divide_by_std=divide).numpy().reshape(-1, size)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=1e-4)


def test_advantages_by_hand() -> None:
    """Rewards 0, 0, 1, 2, ...: mean 0.75, population variance (2 * 0.75^2 + 0.25^2 + 1.25^2) / 4 = 0.6875."""
    values = torch.tensor([0.0, 0.0, 1.0, 2.0])
    assert group_advantages(values, 4, divide_by_std=False).tolist() == [-0.75, -0.75, 0.25, 1.25]
    expected = np.array([-0.75, -0.75, 0.25, 1.25]) / np.sqrt(0.6875)
    np.testing.assert_allclose(group_advantages(values, 4, divide_by_std=True), expected, rtol=1e-5)


def test_equal_rewards_and_single_members_have_no_advantage() -> None:
    equal = torch.full((3,), 1.1)  # 1.1 is not exact in binary, so a mean could differ from it
    assert group_advantages(equal, 3, divide_by_std=True).tolist() == [0, 0, 0]
    assert group_advantages(torch.tensor([2.0, 5.0]), 1, divide_by_std=True).tolist() == [0, 0]


def test_advantages_refuse_a_cut_group() -> None:
    with pytest.raises(ShapeError, match="group_size=4"):
        group_advantages(torch.zeros(6), 4, divide_by_std=False)


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (30000, -1.0)]
)
def test_the_overlong_penalty_by_the_papers_numbers(length: int, penalty: float) -> None:
    got = soft_overlong_penalty(torch.tensor([length]), 20480, 4096)
    assert got.tolist() == pytest.approx([penalty])


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=9), st.integers(1, 1000))
def test_the_overlong_penalty_equals_its_formula(lengths: list[int], cache: int) -> None:
    def formula(length: int) -> float:
        if length <= 1000 - cache:
            return 0.0
        return (1000 - cache - length) / cache if length <= 1000 else -1.0

    got = soft_overlong_penalty(torch.tensor(lengths), 1000, cache)
    np.testing.assert_allclose(got, [formula(n) for n in lengths], atol=1e-6)
