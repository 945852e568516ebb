import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from biomni_lib.rl import losses

pairs = st.integers(1, 40).flatmap(lambda n: arrays(np.float64, (2, n), elements=st.floats(-8, 0, width=32)))


@given(pairs, st.floats(1, 5))
def test_truncated_weights_equal_their_formula(values: np.ndarray, cap: float) -> None:
    proximal = torch.tensor(values[0], requires_grad=True)
    got = losses.tis_weights(proximal, torch.tensor(values[1]), cap)
    np.testing.assert_allclose(got, np.minimum(np.exp(values[0] - values[1]), cap), rtol=1e-9)
    assert not got.requires_grad


@given(pairs, st.floats(0.1, 0.9), st.floats(1.1, 9))
def test_icepop_equals_its_formula(values: np.ndarray, low: float, high: float) -> None:
    proximal = torch.tensor(values[0], requires_grad=True)
    got = losses.icepop_weights(proximal, torch.tensor(values[1]), low, high)
    rho = np.exp(values[0] - values[1])
    np.testing.assert_allclose(got, [k if low <= k <= high else 0.0 for k in rho], rtol=1e-9)
    assert not got.requires_grad


@given(pairs)
def test_decoupled_weights_equal_their_formula(values: np.ndarray) -> None:
    proximal = torch.tensor(values[0], requires_grad=True)
    got = losses.decoupled_weights(proximal, torch.tensor(values[1]))
    np.testing.assert_allclose(got, np.exp(values[0] - values[1]), rtol=1e-9)
    assert not got.requires_grad


@given(pairs, st.integers(1, 5), st.integers(0, 99))
def test_the_geometric_mask_equals_its_formula(values: np.ndarray, sequences: int, seed: int) -> None:
    segment = np.random.default_rng(seed).integers(0, sequences, values.shape[1])
    proximal = torch.tensor(values[0], requires_grad=True)
    got = losses.geometric_mask(proximal, torch.tensor(values[1]), torch.tensor(segment), 0.5, 2.0).numpy()
    for i in np.unique(segment):
        rho = np.exp(values[0] - values[1])[segment == i]
        mean = np.prod(rho) ** (1 / len(rho))
        if min(abs(mean - 0.5), abs(mean - 2.0)) > 1e-9:  # both ways of computing it may round across a bound
            assert (got[segment == i] == float(0.5 <= mean <= 2.0)).all()


@pytest.mark.parametrize(
    ("rho", "tis", "icepop", "decoupled"),
    [(1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 2.0), (4.0, 2.0, 4.0, 4.0), (8.0, 2.0, 0.0, 8.0), (0.25, 0.25, 0.0, 0.25)],
)
def test_token_weights_by_hand(rho: float, tis: float, icepop: float, decoupled: float) -> None:
    proximal, behaviour = torch.tensor([np.log(rho)]), torch.zeros(1, dtype=torch.float64)
    assert losses.tis_weights(proximal, behaviour, 2.0).item() == pytest.approx(tis)
    assert losses.icepop_weights(proximal, behaviour, 0.5, 5.0).item() == pytest.approx(icepop)
    assert losses.decoupled_weights(proximal, behaviour).item() == pytest.approx(decoupled)


def test_the_geometric_mask_by_hand() -> None:
    """A sequence of log-ratios 0.3 and -0.3 has the mean ratio 1 and stays; one of 0.3 alone goes."""
    proximal = torch.tensor([0.3, 0.3, -0.3])
    got = losses.geometric_mask(proximal, torch.zeros(3), torch.tensor([0, 1, 0]), 0.99, 1.01)
    assert got.tolist() == [1.0, 0.0, 1.0]


def test_bounds_are_included() -> None:
    proximal, behaviour = torch.tensor([0.0, 0.0]), torch.zeros(2)
    assert losses.icepop_weights(proximal, behaviour, 1.0, 2.0).tolist() == [1.0, 1.0]
    assert losses.geometric_mask(proximal, behaviour, torch.tensor([0, 1]), 0.5, 1.0).tolist() == [1.0, 1.0]


def test_weights_stay_finite_where_the_policies_have_nothing_in_common() -> None:
    far, near, one = torch.tensor([-1e4]), torch.tensor([0.0]), torch.tensor([0])
    for a, b in ((far, near), (near, far)):
        assert torch.isfinite(losses.decoupled_weights(a, b)).all()
        assert losses.icepop_weights(a, b, 0.5, 5.0).item() == 0
        assert losses.geometric_mask(a, b, one, 0.5, 2.0).item() == 0
