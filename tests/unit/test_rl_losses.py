import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from biomni_lib.errors import ShapeError
from biomni_lib.rl import losses
from biomni_lib.rl.advantages import group_advantages
from biomni_lib.rl.logprobs import token_logprobs

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
    low, high = losses.clip_flags(new.detach(), zero, a, clip_low=LOW, clip_high=HIGH)
    assert bool(low | high) == (not has_gradient and advantage != 0)


@given(logs, st.floats(1, 5))
def test_importance_weights_are_capped_and_without_gradient(values: np.ndarray, cap: float) -> None:
    old = torch.tensor(values[0], requires_grad=True)
    got = losses.tis_weights(old, torch.tensor(values[1]), cap)
    np.testing.assert_allclose(got, np.minimum(np.exp(values[0] - values[1]), cap), rtol=1e-5)
    assert not got.requires_grad


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


@given(lengths, st.sampled_from(losses.Aggregation.__args__), st.integers(1, 5), st.integers(0, 99))
def test_aggregation_equals_its_formula(sizes: list[int], aggregation: str, micro: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    token_losses = [rng.normal(size=n) for n in sizes]
    weights = losses.sequence_weights(torch.tensor(sizes), aggregation, constant_length=50, loss_micro_batch=micro)
    got = sum(float(w) * x.sum() for w, x in zip(weights, token_losses, strict=True))
    assert got == pytest.approx(aggregate(token_losses, aggregation, 50, micro), rel=1e-4, abs=1e-5)
    assert all(w == 0 for w, n in zip(weights, sizes, strict=True) if n == 0)


@pytest.mark.parametrize("aggregation", ["constant_length", "token_mean_micro_batch"])
def test_aggregation_without_its_parameter_is_refused(aggregation: str) -> None:
    with pytest.raises(ShapeError, match="needs"):
        losses.sequence_weights(torch.tensor([1]), aggregation)


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


def test_equal_rewards_and_single_members_have_no_advantage() -> None:
    equal = torch.full((3,), 1.1)  # 1.1 is not exact in binary, so a mean could differ from it
    assert group_advantages(equal, 3, divide_by_std=True).tolist() == [0, 0, 0]
    assert group_advantages(torch.tensor([2.0, 5.0]), 1, divide_by_std=True).tolist() == [0, 0]


def test_advantages_refuse_a_cut_group() -> None:
    with pytest.raises(ShapeError, match="group_size=4"):
        group_advantages(torch.zeros(6), 4, divide_by_std=False)


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
