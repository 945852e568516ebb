"""Group advantages: what a trajectory is worth against the others of its instance.

No value network: the group's mean is the baseline. Departs from Shao et al. 2024 in one detail: the standard deviation
is the population's, so that a group of one has advantage 0 instead of nan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from biomni_lib.errors import ShapeError

STD_FLOOR = 1e-6  # Shao et al. 2024: keeps groups of equal rewards finite


def group_advantages(rewards: Tensor, group_size: int, *, divide_by_std: bool) -> Tensor:
    """Advantage of each trajectory against its own group.

    Args:
        rewards: (groups * group_size,), total reward of each trajectory, grouped by instance.
        group_size: trajectories an instance.
        divide_by_std: True for GRPO, False for Dr.GRPO.
    Returns: the same shape; each group sums to 0.
    Raises: ShapeError when the length is not a multiple of group_size.
    Source: Shao et al. 2024, eq. 4; Liu et al. 2025, section 3.
    """
    if rewards.dim() != 1 or group_size < 1 or rewards.numel() % group_size:
        raise ShapeError(f"rewards have shape {tuple(rewards.shape)}, not a multiple of group_size={group_size}")
    grouped = rewards.view(-1, group_size)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    if divide_by_std:
        centred = centred / (grouped.std(dim=1, keepdim=True, correction=0) + STD_FLOOR)
    return torch.where(has_variance(grouped), centred, torch.zeros_like(centred)).reshape(-1)


def soft_overlong_penalty(lengths: Tensor, max_tokens: int, cache_tokens: float) -> Tensor:
    """What is taken off the reward of trajectories that come close to the longest length allowed.

    0 up to max_tokens - cache_tokens, then falling in a straight line to -1 at max_tokens and beyond. The length is the
    whole trajectory's, observations included, since that is what the limit is set on (a departure from the paper, where
    there are none).

    Args: lengths (trajectories,) in tokens; max_tokens L_max; cache_tokens L_cache, over 0.
    Returns: (trajectories,) float32 in [-1, 0], to be added to the rewards.
    Source: Yu et al. 2025 (DAPO), eq. 13.
    """
    return ((max_tokens - cache_tokens - lengths.to(torch.float32)) / cache_tokens).clamp(-1.0, 0.0)


def has_variance(grouped: Tensor) -> Tensor:
    """(groups, 1) bool: whether the rewards of a group (groups, group_size) are not all equal."""
    return (grouped != grouped[:, :1]).any(dim=1, keepdim=True)
