"""From the log-probabilities of sampled tokens to one number to be minimised, by recipe.

The batch is flat: only tokens that the model wrote, each with the number of its trajectory (`segment`). Padding,
packing, the cut into micro-batches and the order of trajectories or tokens are therefore unknown to the loss, and every
trajectory's weight is fixed for the whole optimizer step before that is cut (see `aggregation`), so the sum over
micro-batches is the same number and the same gradient whatever the cut. The one rule: a trajectory is never split,
since some losses and masks look at all of its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from biomni_lib.errors import ShapeError, TrainingError
from biomni_lib.rl import losses
from biomni_lib.rl.recipe import Recipe


@dataclass(frozen=True)
class TokenBatch:
    """The sampled tokens of some whole trajectories of one optimizer step, flat and in any order.

    Attributes:
        logprobs: (tokens,), under the policy in training, with gradient.
        behaviour: (tokens,), when they were sampled (the ledger).
        entropy: (tokens,), nats, of the policy in training; with gradient when the recipe has an entropy bonus.
        segment: (tokens,) int64, the trajectory of each token, a row of the two below.
        advantages: (trajectories,).
        weights: (trajectories,), from `aggregation.sequence_weights` over the whole optimizer step.
        proximal: (tokens,), recomputed by the learner before the first update of the batch; None while nothing was
            updated since: `logprobs` without gradient then.
        reference: (tokens,), under the starting policy; needed when the recipe has a KL term.
    Raises: ShapeError when lengths disagree.
    """

    logprobs: Tensor
    behaviour: Tensor
    entropy: Tensor
    segment: Tensor
    advantages: Tensor
    weights: Tensor
    proximal: Tensor | None = None
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        columns = (self.behaviour, self.entropy, self.segment, self.proximal, self.reference)
        if any(column is not None and column.shape != self.logprobs.shape for column in columns):
            raise ShapeError(f"a token column does not have the shape {tuple(self.logprobs.shape)} of logprobs")
        if self.advantages.shape != self.weights.shape:
            raise ShapeError(f"{len(self.advantages)} advantages, {len(self.weights)} weights: one each a trajectory")

    @property
    def old(self) -> Tensor:
        """(tokens,) log-probabilities before the first update of the batch, without gradient."""
        return self.logprobs.detach() if self.proximal is None else self.proximal


def policy_loss(recipe: Recipe, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The batch's share of the objective of its optimizer step.

    L = sum_i w_i sum_t (c_it l_it + beta k3_it - eta H_it), with w the aggregation's weight, c the correction's, l the
    clipped loss of tokens or sequences, k3 the KL to the starting policy, H the entropy.

    Args:
        recipe: what is optimised.
        batch: tokens of any whole trajectories of the step.
    Returns: the loss, a number with gradient; metrics, numbers without, each a sum over the batch's tokens, and
        `tokens`, how many, so that micro-batches add up.
    Raises: TrainingError when the recipe needs a reference, or an entropy with gradient, that the batch lacks.
    """
    advantages, correction = batch.advantages[batch.segment], correction_weights(recipe, batch)
    loss = correction * _clipped(recipe, batch, advantages)
    metrics = _measure(recipe, batch, advantages, correction)
    if recipe.kl_coefficient > 0:
        if batch.reference is None:
            raise TrainingError(f"recipe {recipe.name!r} has a KL term: the batch needs reference log-probabilities")
        kl = losses.k3_kl(batch.logprobs, batch.reference)
        loss = loss + recipe.kl_coefficient * kl
        metrics["loss/kl"] = kl.detach().sum()
    if recipe.entropy_coefficient > 0:
        if not batch.entropy.requires_grad:
            raise TrainingError(f"recipe {recipe.name!r} has an entropy bonus: the batch's entropy needs a gradient")
        loss = loss - recipe.entropy_coefficient * batch.entropy
    return (loss * batch.weights[batch.segment]).sum(), metrics


def correction_weights(recipe: Recipe, batch: TokenBatch) -> Tensor:
    """The weight of each token's policy loss, (tokens,) without gradient; 1 where the recipe's correction has none."""
    if recipe.tis_cap is not None:
        return losses.tis_weights(batch.old, batch.behaviour, recipe.tis_cap)
    if recipe.icepop_range is not None:
        return losses.icepop_weights(batch.old, batch.behaviour, *recipe.icepop_range)
    if recipe.geometric_range is not None:
        return losses.geometric_mask(batch.old, batch.behaviour, batch.segment, *recipe.geometric_range)
    if recipe.correction == "decoupled":
        return losses.decoupled_weights(batch.old, batch.behaviour)
    return torch.ones_like(batch.behaviour)


def _anchor(recipe: Recipe, batch: TokenBatch) -> Tensor:
    return batch.behaviour if recipe.correction == "rollout_anchored" else batch.old


def _clipped(recipe: Recipe, batch: TokenBatch, advantages: Tensor) -> Tensor:
    low, high, dual = recipe.clip_low, recipe.clip_high, recipe.dual_clip
    new, old = batch.logprobs, _anchor(recipe, batch)
    if recipe.loss == "gspo":
        return losses.gspo_loss(new, old, advantages, batch.segment, clip_low=low, clip_high=high, dual_clip=dual)
    return losses.clipped_token_loss(new, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)


@torch.no_grad()
def _measure(recipe: Recipe, batch: TokenBatch, advantages: Tensor, correction: Tensor) -> dict[str, Tensor]:
    new, old, rollout, anchor = batch.logprobs, batch.old, batch.behaviour, _anchor(recipe, batch)
    r = losses.sequence_ratio(new, anchor, batch.segment) if recipe.loss == "gspo" else losses.ratio(new, anchor)
    low, high = losses.clip_flags(r, advantages, clip_low=recipe.clip_low, clip_high=recipe.clip_high)
    rho = losses.ratio(old, rollout)
    sums = {
        "tokens": torch.ones_like(rollout),
        "policy/entropy": batch.entropy,
        "policy/logprob_abs_diff": (old - rollout).abs(),
        "policy/mismatch_kl": losses.k3_kl(rollout, old),
        "policy/is_ratio": rho,
        "policy/clip_fraction_low": low,
        "policy/clip_fraction_high": high,
        "policy/masked_fraction": correction == 0,
    }
    if recipe.tis_cap is not None:
        sums["policy/tis_clip_fraction"] = rho > recipe.tis_cap
    return {name: values.sum(dtype=torch.float32) for name, values in sums.items()}
