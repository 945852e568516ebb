"""Policy losses of sampled tokens, and what corrects samples of an older policy: pure functions on flat tensors.

All tensors are (tokens,), one value a token that the model wrote; where a function looks at whole sequences, `segment`
says which one a token belongs to, so neither padding nor order nor neighbours can matter. The sum over tokens is in
`aggregation`; `objective` puts them together as the recipe says.

Notation: A advantage, |o_i| sampled tokens of sequence i, r = p_theta / p_old the ratio that is clipped, and
rho = p_prox / p_behaviour: p_behaviour is the ledger's (what really sampled the token), p_prox the learner's own,
recomputed before the first update of the batch. p_old is p_prox, or p_behaviour in a rollout-anchored recipe, which
needs no other correction: the clip bounds how far the policy is from the sampler, even with one update a batch. The
other corrections are a weight a token, without gradient, on the policy loss: KL, entropy and the denominators of the
aggregation are left alone (as in the papers' formulas, a masked token contributes 0 and still counts in the mean).
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # exp(20) is far outside any clip range and still finite in float32


def ratio(logprobs: Tensor, reference: Tensor) -> Tensor:
    """p / p_reference from log-probabilities, any shape; the log-ratio is bounded to +-20 so that none overflows."""
    return (logprobs - reference).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def segment_mean(values: Tensor, segment: Tensor) -> Tensor:
    """At each token, the mean of `values` over its segment.

    Args: values (tokens,) without gradient; segment (tokens,) int64, at least 0, in any order.
    Returns: (tokens,), the same for all tokens of a segment.
    """
    segments = int(segment.max()) + 1 if len(segment) else 0
    sums = values.new_zeros(segments).index_add(0, segment, values)
    counts = values.new_zeros(segments).index_add(0, segment, torch.ones_like(values))
    return (sums / counts.clamp(min=1))[segment]


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, segment: Tensor) -> Tensor:
    """GSPO's ratio at each token: stop-grad(s_i) p_theta / stop-grad(p_theta), s_i = exp(1/|o_i| sum_t log r_it).

    The value is s_i at every token of sequence i; the gradient reaches each token by its own log-probability, so the
    mean over the tokens has the gradient of s_i itself, and a token whose loss a correction weighs, or masks, has its
    own gradient weighed, or masked, and no other's.

    Args: logprobs with gradient, old_logprobs and segment without, all (tokens,).
    Returns: (tokens,), with gradient.
    Source: Zheng et al. 2025 (GSPO), sections 4.1 and 4.3 (GSPO-token).
    """
    mean = segment_mean((logprobs - old_logprobs).detach(), segment).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return (mean + logprobs - logprobs.detach()).exp()


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

    GRPO, Dr.GRPO and DAPO share it; they differ in advantage, bounds and aggregation.

    Args:
        logprobs, old_logprobs: (tokens,), under the policy in training and under the one that r is measured against.
        advantages: (tokens,), each token's trajectory's advantage.
        clip_low, clip_high: e_low and e_high; e_high > e_low is clip-higher.
        dual_clip: c > 1; for A < 0 also l <= -c A. None: off.
    Returns: (tokens,), to be minimised.
    Source: Schulman et al. 2017, eq. 7; Yu et al. 2025 (DAPO), section 3.1; Ye et al. 2020 (dual clip), eq. 5.
    """
    return _clipped(ratio(logprobs, old_logprobs), advantages, clip_low, clip_high, dual_clip)


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    segment: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """The clipped surrogate on the ratio of whole sequences: l = -min(s_i A, clip(s_i, 1 - e_low, 1 + e_high) A).

    A sequence is clipped as a whole. Args and returns as for `clipped_token_loss`, with each token's sequence number.
    Source: Zheng et al. 2025 (GSPO), section 4.1, with the ratio of section 4.3 (the same value and gradient); the
    paper's aggregation is sequence_mean.
    """
    r = sequence_ratio(logprobs, old_logprobs, segment)
    return _clipped(r, advantages, clip_low, clip_high, dual_clip)


def tis_weights(proximal: Tensor, behaviour: Tensor, cap: float) -> Tensor:
    """Truncated importance weight of each token: stop-grad min(rho, C).

    Args: two (tokens,) log-probabilities and C (about 2).
    Returns: (tokens,), without gradient.
    Source: Yao et al. 2025 (TIS).
    """
    return ratio(proximal, behaviour).clamp(max=cap).detach()


def icepop_weights(proximal: Tensor, behaviour: Tensor, low: float, high: float) -> Tensor:
    """Masked importance weight of each token: stop-grad rho inside [alpha, beta], else 0.

    Args: two (tokens,) log-probabilities; alpha and beta (0.5 and 5 in the paper), both included.
    Returns: (tokens,), without gradient.
    Source: Ling Team 2025 (Ring-1T, IcePop), the function M.
    """
    rho = ratio(proximal, behaviour).detach()
    return rho * ((rho >= low) & (rho <= high))


def geometric_mask(proximal: Tensor, behaviour: Tensor, segment: Tensor, low: float, high: float) -> Tensor:
    """1 for every token of a sequence with low <= exp(mean_t log rho_t) <= high, else 0.

    Args: two (tokens,) log-probabilities; segment (tokens,) int64, each token's sequence; the bounds (0.99 and 1.01).
    Returns: (tokens,) of 0 and 1, without gradient.
    Source: Ericsson 2026 (TRL, pull request 4891, sequence_geometric_mean_mask).
    """
    mean = segment_mean((proximal - behaviour).detach(), segment).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    return ((mean >= low) & (mean <= high)).to(proximal.dtype)


def decoupled_weights(proximal: Tensor, behaviour: Tensor) -> Tensor:
    """Importance weight of decoupled PPO: stop-grad rho, not truncated; the clip acts on p_theta / p_prox.

    Args: two (tokens,) log-probabilities.
    Returns: (tokens,), without gradient; at most exp(20), where the log-ratio is bounded.
    Source: Hilton et al. 2022 (decoupled PPO); Fu et al. 2025 (AReaL), section 5.2.
    """
    return ratio(proximal, behaviour).detach()


def clip_flags(r: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """Tokens (bool, bool) whose gradient the lower and the upper bound of the ratio r cut off."""
    return (r < 1 - clip_low) & (advantages < 0), (r > 1 + clip_high) & (advantages > 0)


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """KL(p || p_ref) estimated at sampled tokens: q - 1 - log q with q = p_ref / p; never negative.

    Args: two (tokens,) log-probabilities. Returns: (tokens,).
    Source: Schulman 2020 (k3); Shao et al. 2024, eq. 4.
    """
    difference = (reference_logprobs - logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return difference.exp() - 1 - difference


def _clipped(r: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None) -> Tensor:
    loss = -torch.minimum(r * advantages, r.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
