from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from biomni_lib.errors import ShapeError
from biomni_lib.rl import losses
from biomni_lib.rl.aggregation import sequence_weights
from biomni_lib.rl.logprobs import token_logprobs
from biomni_lib.rl.recipe import Aggregation

LOW, HIGH = 0.2, 0.28
logs = st.integers(1, 40).flatmap(lambda n: arrays(np.float32, (3, n), elements=st.floats(-8, 0, width=32)))


@given(logs, st.sampled_from([None, 3.0]))
def test_clipped_loss_equals_its_formula(values: np.ndarray, dual: float | None) -> None:
    new, old, advantage = values[0], values[1], values[2] + 4
    r = np.exp(new - old)
    expected = -np.minimum(r * advantage, np.clip(r, 1 - LOW, 1 + HIGH) * advantage)
    if dual:
        expected = np.where(advantage < 0, np.minimum(expected, -dual * advantage), expected)
    got = losses.clipped_token_loss(
        *map(torch.tensor, (new, old, advantage)), clip_low=LOW, clip_high=HIGH, dual_clip=dual
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("r", "advantage", "loss", "has_gradient"),
    [
        (1.0, 2.0, -2.0, True),
        (2.0, 1.0, -1.28, False),  # above 1 + e_high with A > 0: the bound holds
        (0.5, 1.0, -0.5, True),  # below, but A > 0 wants it up
        (0.5, -1.0, 0.8, False),  # below 1 - e_low with A < 0: the bound holds
        (2.0, -1.0, 2.0, True),
        (1.0, 0.0, 0.0, False),
    ],
)
def test_clip_by_hand(r: float, advantage: float, loss: float, has_gradient: bool) -> None:
    new = torch.tensor([np.log(r)], dtype=torch.float32, requires_grad=True)
    zero, a = torch.zeros(1), torch.tensor([advantage])
    got = losses.clipped_token_loss(new, zero, a, clip_low=LOW, clip_high=HIGH)
    got.sum().backward()
    assert got.item() == pytest.approx(loss, abs=1e-6)
    assert (new.grad.abs().item() > 0) == has_gradient
    low, high = losses.clip_flags(new.detach().exp(), a, clip_low=LOW, clip_high=HIGH)
    assert bool(low | high) == (not has_gradient and advantage != 0)


@pytest.mark.parametrize(
    ("r", "advantage", "loss", "has_gradient"),
    [
        (1 + HIGH, 1.0, -1.28, True),  # on the bound: still inside
        (1 - LOW, -1.0, 0.8, True),
        (1.281, 1.0, -1.28, False),
        (0.799, -1.0, 0.8, False),
        (2.9, -2.0, 5.8, True),  # below the dual bound of 3
        (3.1, -2.0, 6.0, False),  # above it
        (3.1, 2.0, -2.56, False),  # A > 0: the dual bound has no part in it
    ],
)
def test_the_edges_of_the_clip_by_hand(r: float, advantage: float, loss: float, has_gradient: bool) -> None:
    new = torch.tensor([np.log(r)], dtype=torch.float64, requires_grad=True)
    zero, a = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    shifted = new + 1e-12 * (1 if advantage < 0 else -1)  # exp(log(r)) may land on either side of a bound
    got = losses.clipped_token_loss(shifted, zero, a, clip_low=LOW, clip_high=HIGH, dual_clip=3.0)
    got.sum().backward()
    assert got.item() == pytest.approx(loss, abs=1e-9)
    assert (new.grad.abs().item() > 0) == has_gradient


def test_at_a_ratio_of_one_the_gradient_is_the_policy_gradient() -> None:
    new = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    advantages = torch.tensor([2.0, -1.0, 0.0])
    losses.clipped_token_loss(new, new.detach(), advantages, clip_low=LOW, clip_high=HIGH).sum().backward()
    assert new.grad.tolist() == (-advantages).tolist()


def test_gspo_by_hand() -> None:
    """Two tokens with log-ratios 0.2 and 0: s = e^0.1; a third, alone in its sequence, with log-ratio -0.3."""
    new = torch.tensor([-1.0, -0.7, -2.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.2, -0.4, -2.0], dtype=torch.float64)
    segment, a = torch.tensor([4, 1, 4]), torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    got = losses.gspo_loss(new, old, a, segment, clip_low=0.5, clip_high=0.5)
    np.testing.assert_allclose(got.detach(), [-np.exp(0.1), np.exp(-0.3), -np.exp(0.1)])
    (got * torch.tensor([0.5, 1.0, 0.5])).sum().backward()  # sequence mean
    np.testing.assert_allclose(new.grad, [-np.exp(0.1) / 2, np.exp(-0.3), -np.exp(0.1) / 2])
    clipped = losses.gspo_loss(new, old, a, segment, clip_low=3e-4, clip_high=4e-4)
    np.testing.assert_allclose(clipped.detach(), [-1.0004, 0.9997, -1.0004])
    assert not torch.autograd.grad(clipped.sum(), new)[0].any()


sequences = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(sequences, st.integers(0, 999))
def test_gspo_equals_its_formula(sizes: list[int], seed: int) -> None:
    """The value, and the gradient of s_i as a function of all of its tokens (central differences)."""
    rng = np.random.default_rng(seed)
    new, old = rng.uniform(-3, 0, (2, sum(sizes)))
    segment = np.repeat(np.arange(len(sizes)), sizes)
    shuffle = rng.permutation(len(segment))
    new, old, segment = new[shuffle], old[shuffle], segment[shuffle]

    def s(logprobs: np.ndarray) -> np.ndarray:
        means = [np.mean((logprobs - old)[segment == i]) for i in range(len(sizes))]
        return np.exp(means)

    tensor = torch.tensor(new, requires_grad=True)
    got = losses.sequence_ratio(tensor, torch.tensor(old), torch.tensor(segment))
    np.testing.assert_allclose(got.detach(), s(new)[segment], rtol=1e-9)
    (got / torch.tensor(np.array(sizes)[segment])).sum().backward()  # sum_i of the mean over o_i
    h = 1e-6
    for t in range(len(new)):
        step = h * np.eye(len(new))[t]
        slope = (s(new + step) - s(new - step)).sum() / (2 * h)
        assert tensor.grad[t].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_nothing_sampled_is_no_error() -> None:
    nothing, segment = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    loss = losses.gspo_loss(nothing, nothing.detach(), nothing.detach(), segment, clip_low=LOW, clip_high=HIGH)
    assert loss.shape == (0,)


def test_ratios_stay_finite() -> None:
    assert torch.isfinite(losses.ratio(torch.tensor([0.0]), torch.tensor([-1e4]))).all()


@given(logs)
def test_k3_equals_its_formula_and_is_not_negative(values: np.ndarray) -> None:
    got = losses.k3_kl(torch.tensor(values[0]), torch.tensor(values[1])).numpy()
    q = np.exp(values[1].astype(np.float64) - values[0])
    np.testing.assert_allclose(got, q - 1 - np.log(q), rtol=1e-3, atol=1e-4)
    assert (got >= -1e-6).all()


def test_k3_is_an_unbiased_estimate_of_the_divergence() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    estimate = losses.k3_kl(torch.tensor(np.log(p)), torch.tensor(np.log(q))).numpy()
    assert (p * estimate).sum() == pytest.approx((p * np.log(p / q)).sum(), rel=1e-9)


lengths = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def aggregate(token_losses: list[np.ndarray], aggregation: str, constant: int, micro: int) -> float:
    """The four aggregations, written as their papers do."""
    n, total = len(token_losses), sum(len(x) for x in token_losses)
    if aggregation == "token_mean":
        return sum(x.sum() for x in token_losses) / max(total, 1)
    if aggregation == "sequence_mean":
        return sum(x.mean() for x in token_losses if len(x)) / n
    if aggregation == "constant_length":
        return sum(x.sum() for x in token_losses) / (n * constant)
    parts = [token_losses[i : i + micro] for i in range(0, n, micro)]
    return float(np.mean([aggregate(part, "token_mean", constant, micro) for part in parts]))


@given(lengths, st.sampled_from(get_args(Aggregation)), st.integers(1, 5), st.integers(0, 99))
def test_aggregation_equals_its_formula(sizes: list[int], aggregation: str, micro: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    token_losses = [rng.normal(size=n) for n in sizes]
    weights = sequence_weights(torch.tensor(sizes), aggregation, constant_length=50, loss_micro_batch=micro)
    got = sum(float(w) * x.sum() for w, x in zip(weights, token_losses, strict=True))
    assert got == pytest.approx(aggregate(token_losses, aggregation, 50, micro), rel=1e-4, abs=1e-5)
    assert all(w == 0 for w, n in zip(weights, sizes, strict=True) if n == 0)


@pytest.mark.parametrize("aggregation", ["constant_length", "token_mean_micro_batch"])
def test_aggregation_without_its_parameter_is_refused(aggregation: str) -> None:
    with pytest.raises(ShapeError, match="needs"):
        sequence_weights(torch.tensor([1]), aggregation)


def test_chunked_logprobs_and_gradients_equal_unchunked() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(37, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(50, (37,))
    results = []
    for most in (1 << 20, 50 * 5):  # all rows at once; five rows at once
        logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, logits_max=most)
        gradients = torch.autograd.grad((logprobs * torch.arange(37)).sum(), (hidden, head))
        results.append((logprobs.detach(), entropy, *gradients))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked)
    reference = torch.log_softmax(hidden.detach() @ head.detach().T / 0.7, dim=-1)
    torch.testing.assert_close(results[0][0], reference.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(results[0][1], torch.distributions.Categorical(logits=reference).entropy())
