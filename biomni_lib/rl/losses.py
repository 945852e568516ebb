"""Policy losses as pure functions on tensors.

Notation: m loss mask, A advantage, r = p_theta / p_old, rho = p_old / p_rollout, |o_i| masked tokens of sequence i,
N sequences. Every aggregation is a weight a sequence, fixed before the batch is cut into micro-batches:
L = sum_i w_i sum_t m l. So micro-batching cannot change the gradient, whatever the aggregation.
Not covered here: sequence-level ratios (GSPO), masks (IcePop, geometric), decoupled PPO.
"""

from __future__ import annotations

import torch
from torch import Tensor

from biomni_lib.errors import ShapeError
from biomni_lib.rl.recipe import Aggregation

LOG_RATIO_BOUND = 20.0  # exp(20) is far outside any clip range and still finite in float32


def ratio(logprobs: Tensor, reference: Tensor) -> Tensor:
    """p / p_reference from log-probabilities, any shape; the log-ratio is bounded to +-20 so that none overflows."""
    return (logprobs - reference).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def clipped_token_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Clipped surrogate of each token: l = -min(r A, clip(r, 1 - e_low, 1 + e_high) A).

    Args:
        logprobs, old_logprobs: (tokens,), under the policy in training and at the batch's start.
        advantages: (tokens,), each token's trajectory's advantage.
        clip_low, clip_high: e_low and e_high; e_high > e_low is clip-higher.
        dual_clip: c > 1; for A < 0 also l <= -c A. None: off.
    Returns: (tokens,), to be minimised.
    Source: Schulman et al. 2017, eq. 7; Yu et al. 2025 (DAPO), section 3.1; Ye et al. 2020 (dual clip), eq. 5.
    """
    r = ratio(logprobs, old_logprobs)
    loss = -torch.minimum(r * advantages, r.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def clip_flags(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Tokens (bool, bool) whose gradient the lower and the upper bound cut off."""
    r = ratio(logprobs, old_logprobs)
    return (r < 1 - clip_low) & (advantages < 0), (r > 1 + clip_high) & (advantages > 0)


def tis_weights(old_logprobs: Tensor, rollout_logprobs: Tensor, cap: float) -> Tensor:
    """Truncated importance weight of each token: stop-grad min(rho, C), with rho = p_old / p_rollout.

    Args: two (tokens,) log-probabilities and C (about 2).
    Returns: (tokens,), without gradient.
    Source: Yao et al. 2025 (TIS).
    """
    return ratio(old_logprobs, rollout_logprobs).clamp(max=cap).detach()


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """KL(p || p_ref) estimated at sampled tokens: q - 1 - log q with q = p_ref / p; never negative.

    Args: two (tokens,) log-probabilities. Returns: (tokens,).
    Source: Schulman 2020 (k3); Shao et al. 2024, eq. 4.
    """
    difference = (reference_logprobs - logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return difference.exp() - 1 - difference


def sequence_weights(
    lengths: Tensor,
    aggregation: Aggregation,
    *,
    constant_length: int | None = None,
    loss_micro_batch: int | None = None,
) -> Tensor:
    """The weight w_i of every token of sequence i, so that L = sum_i w_i sum_t m l.

    Args:
        lengths: (N,) int, masked tokens |o_i| of each sequence of one optimizer step; 0 allowed.
        aggregation:
            token_mean: 1 / sum_j |o_j| (Yu et al. 2025, eq. 8);
            sequence_mean: 1 / (N |o_i|) (Shao et al. 2024, eq. 3);
            constant_length: 1 / (N L_max) (Liu et al. 2025, section 3.1);
            token_mean_micro_batch: token_mean inside consecutive micro-batches of loss_micro_batch sequences, then
            their mean (what the original code does; long micro-batches count their tokens less).
        constant_length: L_max, for constant_length.
        loss_micro_batch: sequences a micro-batch, for token_mean_micro_batch.
    Returns: (N,) float32; 0 where a sequence has no masked token.
    Raises: ShapeError when the aggregation's parameter is missing.
    """
    counts = lengths.to(torch.float32)
    if aggregation == "token_mean":
        return torch.full_like(counts, 1.0) / counts.sum().clamp(min=1) * (counts > 0)
    if aggregation == "sequence_mean":
        return (counts > 0) / (len(counts) * counts.clamp(min=1))
    if aggregation == "constant_length":
        if constant_length is None:
            raise ShapeError("aggregation constant_length needs constant_length")
        return (counts > 0) / (len(counts) * float(constant_length))
    if loss_micro_batch is None:
        raise ShapeError("aggregation token_mean_micro_batch needs loss_micro_batch")
    parts = counts.split(loss_micro_batch)
    return torch.cat([sequence_weights(part, "token_mean") for part in parts]) / max(len(parts), 1)
