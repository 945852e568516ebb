"""What makes samples of an older policy, or of an engine that computes a little differently, fit to train on.

Notation: rho = p_prox / p_behaviour, where p_behaviour is the ledger's log-probability (what really sampled the token)
and p_prox the learner's own, recomputed before the first update of the batch. Each function gives a weight a token,
without gradient, that multiplies the policy loss; KL and entropy terms are left alone, and so are the denominators of
the aggregation (as in the papers' formulas: a masked token contributes 0, it is not taken out of the mean).

The fifth way, rollout-anchored, needs no weight: the ratio that the clip bounds is taken against p_behaviour itself, so
the clip keeps acting with a single update a batch (`objective`; Schulman et al. 2017 with the sampler as old policy).
"""

from __future__ import annotations

from torch import Tensor

from biomni_lib.rl.losses import LOG_RATIO_BOUND, ratio, segment_mean


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
