"""The objectives of the papers, written plainly in NumPy: one trajectory at a time, one token at a time.

Slow, in float64, and with nothing in common with `biomni_lib.rl` but the recipe's numbers.
"""

from dataclasses import dataclass

import numpy as np

from biomni_lib.rl.recipe import Recipe


@dataclass
class Sequence:
    """One trajectory: (tokens,) columns of its sampled tokens, and its advantage."""

    new: np.ndarray
    old: np.ndarray
    behaviour: np.ndarray
    reference: np.ndarray
    entropy: np.ndarray
    advantage: float


def objective(recipe: Recipe, sequences: list[Sequence], constant_length: int) -> float:
    """The loss of one optimizer step over all of its trajectories."""
    losses = [_token_losses(recipe, s) for s in sequences]
    return _aggregate(recipe, losses, constant_length)


def _token_losses(recipe: Recipe, s: Sequence) -> list[float]:
    anchor = s.behaviour if recipe.correction == "rollout_anchored" else s.old
    whole = np.exp(np.mean(s.new - anchor)) if len(s.new) else 1.0
    out = []
    for t in range(len(s.new)):
        r = whole if recipe.loss == "gspo" else np.exp(s.new[t] - anchor[t])
        clipped = min(max(r, 1 - recipe.clip_low), 1 + recipe.clip_high)
        gain = min(r * s.advantage, clipped * s.advantage)
        if recipe.dual_clip and s.advantage < 0:
            gain = max(gain, recipe.dual_clip * s.advantage)
        q = np.exp(s.reference[t] - s.new[t])
        kl = q - np.log(q) - 1
        out.append(
            -_weight(recipe, s, t) * gain + recipe.kl_coefficient * kl - recipe.entropy_coefficient * s.entropy[t]
        )
    return out


def _weight(recipe: Recipe, s: Sequence, t: int) -> float:
    rho = float(np.exp(s.old[t] - s.behaviour[t]))
    if recipe.correction == "tis":
        return min(rho, recipe.tis_cap)
    if recipe.correction == "icepop":
        low, high = recipe.icepop_range
        return rho if low <= rho <= high else 0.0
    if recipe.correction == "geometric_mask":
        low, high = recipe.geometric_range
        return float(low <= np.exp(np.mean(s.old - s.behaviour)) <= high)
    return rho if recipe.correction == "decoupled" else 1.0


def _aggregate(recipe: Recipe, losses: list[list[float]], constant_length: int) -> float:
    n = len(losses)
    if recipe.aggregation == "token_mean":
        return sum(map(sum, losses)) / max(sum(map(len, losses)), 1)
    if recipe.aggregation == "sequence_mean":
        return sum(sum(x) / len(x) for x in losses if x) / n
    if recipe.aggregation == "constant_length":
        return sum(map(sum, losses)) / (n * constant_length)
    size = recipe.loss_micro_batch
    parts = [losses[i : i + size] for i in range(0, n, size)]
    return sum(sum(map(sum, part)) / max(sum(map(len, part)), 1) for part in parts) / len(parts)
