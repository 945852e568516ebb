"""The training side: from complete groups to new weights.

The ledger's ids are trained on exactly as they were sampled. Trajectories are cut after their last sampled token,
sorted by length and padded on the right into micro-batches, so causal attention needs no mask; log-probabilities are
computed only where the model wrote a token, in chunks of rows, so the full logits are never held. Every token's weight
is fixed for a whole optimizer step before micro-batches are cut (see `aggregation`); what is made of the log-probs is
the recipe's (see `objective`).

With optimizer_steps = 1 the policy at the step's start is the policy in training: unless the recipe is anchored at
the rollout, the ratio is 1, nothing is clipped, and the correction alone carries the off-policy part. With more, the
log-probs at the start (the proximal policy) are computed once before the first update.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig
from biomni_lib.errors import LedgerError, TrainingError
from biomni_lib.rl.advantages import group_advantages, soft_overlong_penalty
from biomni_lib.rl.aggregation import sequence_weights
from biomni_lib.rl.logprobs import token_logprobs
from biomni_lib.rl.objective import TokenBatch, policy_loss
from biomni_lib.rl.recipe import Recipe
from biomni_lib.rl.scheduler import Group

SKIPPED_IN_ROW_MAX = 3


@dataclass
class Sample:
    """One trajectory as the learner needs it.

    ids and mask: (length,), cut after the last sampled token; rollout: (masked,) log-probs when sampled; versions:
    (masked,); weight: the sequence weight w_i of its optimizer step.
    """

    trajectory: Trajectory
    ids: Tensor
    mask: Tensor
    rollout: Tensor
    versions: Tensor
    advantage: float
    weight: float = 0.0
    old: Tensor | None = None
    reference: Tensor | None = None


class Learner:
    """Owns the weights and the optimizer; one `step` a batch of groups.

    Args:
        model: a causal language model with `.model` (the body) and `.lm_head`.
        recipe: the objective.
        config: `rl` for the numbers, `agent.max_tokens` for constant lengths.
    """

    def __init__(self, model: Any, recipe: Recipe, config: RunConfig) -> None:
        self.model, self.recipe, self.config = model.train(), recipe, config
        self.reference = copy.deepcopy(model).eval() if recipe.kl_coefficient > 0 else None
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.rl.learning_rate, weight_decay=0.0)
        self.version = 0
        self.skipped = 0
        self.skipped_in_row = 0
        self._fresh_differences: list[float] = []

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """Train on one batch; the version rises by one even when every update was skipped.

        Returns: policy/*, loss/* and optim/* metrics, means over the tokens trained on; policy/fresh_abs_diff_max is
            the largest difference between the engine's log-prob and the learner's over trajectories that the weights
            in training sampled from end to end, absent when there is none.
        Raises: TrainingError for a reward outside the recipe's range or after too many skipped updates in a row;
            LedgerError for a trajectory that no engine sampled.
        """
        samples = self._samples(groups)
        used = [self._weigh(part) for part in _split(samples, self.recipe.optimizer_steps)]
        sums: dict[str, float] = defaultdict(float)
        self._fresh_differences = []
        self._fill_fixed_logprobs([sample for part in used for sample in part])
        norms = [self._update(part, sums) for part in used if part]
        self.version += 1
        metrics = _means(sums) | {"optim/lr": self.config.rl.learning_rate, "optim/skipped": float(self.skipped)}
        if self._fresh_differences:
            metrics["policy/fresh_abs_diff_max"] = max(self._fresh_differences)
        return metrics | ({"optim/grad_norm": float(np.mean(norms))} if norms else {})

    def logprobs(self, samples: Sequence[Sample], model: Any | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Log-probability and entropy at each sample's masked positions, as padded into one micro-batch."""
        model = model or self.model
        ids = torch.nn.utils.rnn.pad_sequence([s.ids for s in samples], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([s.mask for s in samples], batch_first=True)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        picked, targets = hidden[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]]
        logprobs, entropy = token_logprobs(
            picked,
            model.lm_head.weight,
            targets,
            self.config.rl.temperature,
            entropy_gradient=self.recipe.entropy_coefficient > 0,
        )
        sizes = [len(s.rollout) for s in samples]
        return list(logprobs.split(sizes)), list(entropy.split(sizes))

    def state(self) -> dict[str, Any]:
        """Optimizer and counters (the weights are saved apart)."""
        counters = {"version": self.version, "skipped": self.skipped, "skipped_in_row": self.skipped_in_row}
        return {"optimizer": self.optimizer.state_dict(), **counters}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rl.learning_rate
        self.version, self.skipped = state["version"], state["skipped"]
        self.skipped_in_row = state["skipped_in_row"]

    def _samples(self, groups: Sequence[Group]) -> list[Sample]:
        trajectories = [t for group in groups for t in group.trajectories]
        low, high = self.recipe.reward_range
        for t in trajectories:
            if not low <= t.total <= high:
                raise TrainingError(
                    f"trajectory {t.instance_id}/{t.sample}: reward {t.total} is outside the recipe's range "
                    f"[{low}, {high}]"
                )
        rewards = torch.tensor([t.total for t in trajectories], dtype=torch.float32)
        if self.recipe.overlong_penalty_fraction is not None:
            lengths, longest = torch.tensor([len(t.token_ids) for t in trajectories]), self.config.agent.max_tokens
            cache = self.recipe.overlong_penalty_fraction * longest
            rewards = rewards + soft_overlong_penalty(lengths, longest, cache)
        sizes = {len(group.trajectories) for group in groups}
        if len(sizes) != 1:
            raise TrainingError(f"groups of different sizes {sorted(sizes)} in one batch")
        advantages = group_advantages(rewards, sizes.pop(), divide_by_std=self.recipe.divide_by_std)
        return [to_sample(t, float(a)) for t, a in zip(trajectories, advantages, strict=True)]

    def _weigh(self, samples: list[Sample]) -> list[Sample]:
        """Fix every sequence's weight for one optimizer step; return the samples that carry any loss."""
        filtered = [self._filtered(s.trajectory) for s in samples]
        lengths = torch.tensor([0 if out else len(s.rollout) for s, out in zip(samples, filtered, strict=True)])
        weights = sequence_weights(
            lengths,
            self.recipe.aggregation,
            constant_length=self.config.agent.max_tokens,
            loss_micro_batch=self.recipe.loss_micro_batch,
        )
        for sample, weight in zip(samples, weights, strict=True):
            sample.weight = float(weight)
        return [s for s in samples if s.weight > 0 and (s.advantage != 0 or self.recipe.regularised)]

    def _filtered(self, trajectory: Trajectory) -> bool:
        if self.recipe.overlong_filter and trajectory.ending == "token_limit":
            return True
        fraction = self.recipe.overlong_malformed_fraction
        if fraction is None:
            return False
        return trajectory.format < 1 and len(trajectory.token_ids) > fraction * self.config.agent.max_tokens

    @torch.no_grad()
    def _fill_fixed_logprobs(self, samples: list[Sample]) -> None:
        """p_prox (when there is more than one update) and p_ref (when there is a KL term), before any update."""
        for batch in micro_batches(samples, self.config.rl.micro_batch_tokens):
            if self.recipe.optimizer_steps > 1:
                for sample, logprobs in zip(batch, self.logprobs(batch)[0], strict=True):
                    sample.old = logprobs
            if self.reference is not None:
                for sample, logprobs in zip(batch, self.logprobs(batch, self.reference)[0], strict=True):
                    sample.reference = logprobs

    def _update(self, samples: list[Sample], sums: dict[str, float]) -> float:
        """One optimizer step. Returns the gradient norm before clipping; a non-finite one skips the update."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in micro_batches(samples, self.config.rl.micro_batch_tokens):
            loss = self.loss(batch, sums)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.rl.grad_clip))
        if np.isfinite(total) and np.isfinite(norm):
            self.optimizer.step()
            self.skipped_in_row = 0
            return norm
        return self._skip(samples)

    def _skip(self, samples: list[Sample]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row >= SKIPPED_IN_ROW_MAX:
            names = ", ".join(sorted({s.trajectory.instance_id for s in samples})[:8])
            raise TrainingError(
                f"{self.skipped_in_row} updates in a row had a loss or gradient that is not finite; the last on {names}"
            )
        return float("nan")

    def loss(self, batch: Sequence[Sample], sums: dict[str, float]) -> Tensor:
        """The micro-batch's share of the objective; token metrics are added to `sums`."""
        tokens = self.token_batch(batch)
        loss, metrics = policy_loss(self.recipe, tokens)
        for name, value in metrics.items():
            sums[name] += float(value)
        sums["loss_sum"] += float(loss.detach())
        self._compare_fresh(batch, (tokens.old - tokens.behaviour).abs())
        return loss

    def token_batch(self, batch: Sequence[Sample]) -> TokenBatch:
        """The micro-batch as the objective sees it: flat, one row a sampled token."""
        logprobs, entropy = self.logprobs(batch)
        sizes = torch.tensor([len(s.rollout) for s in batch])
        return TokenBatch(
            logprobs=torch.cat(logprobs),
            behaviour=torch.cat([s.rollout for s in batch]),
            entropy=torch.cat(entropy),
            segment=torch.arange(len(batch)).repeat_interleave(sizes),
            advantages=torch.tensor([s.advantage for s in batch]),
            weights=torch.tensor([s.weight for s in batch]),
            proximal=_column([s.old for s in batch]),
            reference=_column([s.reference for s in batch]),
        )

    def _compare_fresh(self, batch: Sequence[Sample], difference: Tensor) -> None:
        fresh = difference[_per_token(batch, [float(s.versions.min() == self.version) for s in batch]) > 0]
        if len(fresh):
            self._fresh_differences.append(float(fresh.max()))


def to_sample(trajectory: Trajectory, advantage: float) -> Sample:
    """The learner's view of a ledger.

    Raises: LedgerError when its columns disagree, its first token is sampled, or a sampled token has no log-prob.
    """
    trajectory.validate()
    mask = trajectory.loss_mask
    name = f"trajectory {trajectory.instance_id}/{trajectory.sample}"
    if len(mask) and mask[0]:
        raise LedgerError(f"{name}: its first token is sampled, so nothing predicts it; a prompt must come first")
    if np.isnan(trajectory.logprobs[mask]).any():
        raise LedgerError(f"{name}: sampled tokens without log-probability; RL needs an engine with token ids")
    length = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else 0
    return Sample(
        trajectory=trajectory,
        ids=torch.from_numpy(trajectory.token_ids[:length].astype(np.int64)),
        mask=torch.from_numpy(mask[:length].copy()),
        rollout=torch.from_numpy(trajectory.logprobs[mask].copy()),
        versions=torch.from_numpy(trajectory.policy_versions[mask].copy()),
        advantage=advantage,
    )


def micro_batches(samples: Sequence[Sample], tokens_max: int) -> list[list[Sample]]:
    """Cut samples into batches of similar length whose padded size stays within tokens_max (one sample at least)."""
    batches: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: len(s.ids), reverse=True):
        if batches and len(batches[-1][0].ids) * (len(batches[-1]) + 1) <= tokens_max:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


def _split(samples: list[Sample], parts: int) -> list[list[Sample]]:
    bounds = np.linspace(0, len(samples), min(parts, len(samples)) + 1).astype(int)
    return [samples[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def _per_token(batch: Sequence[Sample], values: list[float]) -> Tensor:
    return torch.tensor(values).repeat_interleave(torch.tensor([len(s.rollout) for s in batch]))


def _column(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def _means(sums: dict[str, float]) -> dict[str, float]:
    tokens = sums.pop("tokens", 0.0)
    loss = {"loss/policy": sums.pop("loss_sum", 0.0)}
    return loss | {name: value / tokens for name, value in sums.items()} | {"policy/tokens": tokens}
