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

from biomni_lib.errors import ShapeError
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

    Args:
        recipe: what is optimised.
        batch: tokens of any whole trajectories of the step.
    Returns: the loss, a number with gradient; metrics, numbers without: each a sum over the batch's tokens, and
        `tokens`, their number, so that micro-batches add up.
    """
    advantages = batch.advantages[batch.segment]
    loss = losses.clipped_token_loss(
        batch.logprobs,
        batch.old,
        advantages,
        clip_low=recipe.clip_low,
        clip_high=recipe.clip_high,
        dual_clip=recipe.dual_clip,
    )
    if recipe.correction == "tis":
        loss = loss * losses.tis_weights(batch.old, batch.behaviour, recipe.tis_cap)
    total = (loss * batch.weights[batch.segment]).sum()
    return total, {"tokens": torch.tensor(float(len(batch.logprobs))), "policy/entropy": batch.entropy.detach().sum()}
