"""The training side: from complete groups to new weights.

The ledger's ids are trained on exactly as they were sampled. Trajectories are cut after their last sampled token and
laid end to end, a row a micro-batch, without padding and without seeing each other (see `packing`); log-probabilities
are computed only where the model wrote a token, in chunks, so the full logits are never held. Every token's weight is
fixed for a whole optimizer step before micro-batches are cut (see `aggregation`); what is made of the log-probs is the
recipe's (see `objective`). All weights are trained, or a LoRA adapter beside them (see `adapter`).

Several ranks may learn as one (see `ranks`; `learner_ranks` starts them): each is given the whole batch, reads its
share of the trajectories, or of the tokens of long rows, and returns the same metrics.

With optimizer_steps = 1 the policy at the step's start is the policy in training: unless the recipe is anchored at
the rollout, the ratio is 1, nothing is clipped, and the correction alone carries the off-policy part. With more, the
log-probs at the start (the proximal policy) are computed once before the first update.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig
from biomni_lib.errors import TrainingError
from biomni_lib.rl.adapter import adapter_state, add_adapter, save_adapter
from biomni_lib.rl.advantages import group_advantages, soft_overlong_penalty
from biomni_lib.rl.aggregation import sequence_weights
from biomni_lib.rl.logprobs import Reader
from biomni_lib.rl.objective import TokenBatch, policy_loss
from biomni_lib.rl.optimizers import make_optimizers, warm_up
from biomni_lib.rl.packing import PACKED, lay_end_to_end
from biomni_lib.rl.parity import disagreement
from biomni_lib.rl.ranks import ALONE, Ranks, whole
from biomni_lib.rl.recipe import Recipe
from biomni_lib.rl.samples import Sample, passes, to_sample
from biomni_lib.rl.scheduler import Group
from biomni_lib.rl.shared_row import SHARED
from biomni_lib.rl.weights import merged_state, save_weights, untied_state

T = TypeVar("T")
OPTIMIZERS = "optimizers/"
SKIPPED_IN_ROW_MAX = 3
NAMED_MAX = 8  # trajectories that a message names


class Learner:
    """Owns the weights and the optimizers; one `step` a batch of groups.

    Args:
        model: a causal language model with `.model` (the body) and `.lm_head`; changed in place.
        recipe: the objective.
        config: `rl` for the numbers, `agent.max_tokens` for constant lengths, `seed` for an adapter's start.
        ranks: the place of this process among those that learn together; each has the same model.
    Raises: ConfigError when ranks that read a row together cannot share the model's attention heads.
    """

    def __init__(self, model: Any, recipe: Recipe, config: RunConfig, ranks: Ranks = ALONE) -> None:
        config.placement.check_heads(model.config.num_attention_heads, model.config.num_key_value_heads)
        self.model, self.recipe, self.config, self.ranks = model.train(), recipe, config, ranks
        model.set_attn_implementation(PACKED if ranks.group is None else SHARED)
        self.adapter = self._add_adapter()
        copied = recipe.kl_coefficient > 0 and self.adapter is None
        self.reference: Any = ranks.place(Reader(copy.deepcopy(model).eval(), ranks.group)) if copied else None
        if config.rl.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.reader = ranks.place(Reader(model, ranks.group))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        rates = {"lr_muon": config.rl.lr_muon, "lr_adamw": config.rl.learning_rate}
        self.optimizers = make_optimizers(model, config.rl.optimizer, **rates)
        self.version = 0
        self.skipped = 0
        self.skipped_in_row = 0
        self._fresh_differences: list[float] = []

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(learner, *arguments)`; a `RankedLearner` runs it on all of its ranks."""
        return function(self, *arguments)

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """Train on one batch; the version rises by one even when every update was skipped.

        Returns: policy/*, loss/* and optim/* metrics, means over the tokens trained on; policy/fresh_abs_diff_max is
            the largest difference between the engine's log-prob and the learner's over trajectories that the weights
            in training sampled from end to end, absent when there is none (in bfloat16 the largest mean of a row: see
            `parity`).
        Raises: TrainingError for a reward outside the recipe's range or after too many skipped updates in a row;
            LedgerError for a trajectory that no engine sampled.
        """
        samples = self._samples(groups)
        used = [self._weigh(part) for part in _split(samples, self.recipe.optimizer_steps)]
        sums: dict[str, float] = defaultdict(float)
        self._fresh_differences = []
        self._fill_fixed_logprobs([sample for part in used for sample in part])
        share = warm_up(self.version, self.config.rl.warmup_steps)
        self.optimizers.set_rates(share)
        norms = [self._update(part, sums) for part in used if part]
        self.version += 1
        told = self.ranks.gather((dict(sums), self._fresh_differences))
        self._fresh_differences = [difference for _, fresh in told for difference in fresh]
        metrics = _means(_added([own for own, _ in told])) | {
            "optim/lr": share * self.config.rl.learning_rate,
            "optim/skipped": float(self.skipped),
        }
        if self._fresh_differences:
            metrics["policy/fresh_abs_diff_max"] = max(self._fresh_differences)
        return metrics | ({"optim/grad_norm": float(np.mean(norms))} if norms else {})

    def logprobs(self, samples: Sequence[Sample], model: Any | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Log-probability and entropy at each sample's masked positions, all samples in one row.

        Args:
            model: another than the learner's own, which each rank reads whole rows with. All must read as many.
        """
        return self._read(samples, self.reader if model is None else Reader(model))

    def publish(self, folder: Path, adapter_alone: bool) -> Path:
        """Write this version's weights for an engine; older ones are deleted by it once it has moved past them.

        Args:
            adapter_alone: whether the adapter is written as peft saves it, and not the weights merged with it.
        Returns: a safetensors file, or the folder of an adapter.
        """
        writes = self.ranks.rank == 0
        if not adapter_alone:
            path = folder / f"{self.version:08d}.safetensors"
            save_weights(self.model, path, writes=writes)
            return path
        path = folder / f"{self.version:08d}.adapter"
        save_adapter(self.adapter, path, writes=writes)
        return path

    def save_model(self, folder: Path) -> None:
        """Write the weights, merged with an adapter, and the model's configuration as a Hugging Face folder."""
        state = merged_state(self.model, keep=self.ranks.rank == 0)
        if self.ranks.rank == 0:
            self.model.save_pretrained(folder, state_dict=state)

    def weight_bytes(self) -> int:
        """Of all weights together, an adapter's included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in untied_state(self.model).values())

    @property
    def counters(self) -> dict[str, int]:
        """The version, the updates skipped so far, and how many of them the last ones were."""
        return {"version": self.version, "skipped": self.skipped, "skipped_in_row": self.skipped_in_row}

    @counters.setter
    def counters(self, saved: Mapping[str, int]) -> None:
        self.version, self.skipped = saved["version"], saved["skipped"]
        self.skipped_in_row = saved["skipped_in_row"]

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name: the trained weights and the optimizers' state; not copied."""
        weights = untied_state(self.model) if self.adapter is None else adapter_state(self.model)
        kept = self.optimizers.state(self.model)
        return {f"weights/{n}": t for n, t in weights.items()} | {f"{OPTIMIZERS}{n}": t for n, t in kept.items()}

    def allocate(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for saved `tensors` of these names and shapes, so that they can be read into one another."""
        kept = {n.removeprefix(OPTIMIZERS): shape for n, shape in shapes.items() if n.startswith(OPTIMIZERS)}
        self.optimizers.allocate(self.model, kept)

    def _read(self, samples: Sequence[Sample], reader: Reader) -> tuple[list[Tensor], list[Tensor]]:
        row = lay_end_to_end([s.ids for s in samples], [s.mask for s in samples])
        logprobs, entropy = reader(row, self.config.rl.temperature, self.recipe.entropy_coefficient > 0)
        sizes = [len(s.rollout) for s in samples]
        return list(logprobs.split(sizes)), list(entropy.split(sizes))

    def _add_adapter(self) -> Any | None:
        rl = self.config.rl
        if rl.lora_rank is None:
            return None
        return add_adapter(self.model, rank=rl.lora_rank, alpha=rl.lora_alpha, seed=self.config.seed)

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
        if not samples or (self.recipe.optimizer_steps == 1 and self.recipe.kl_coefficient == 0):
            return
        rows, idle = passes(samples, self.config.rl.micro_batch_tokens, self.ranks)
        for batch in rows + idle * [[_shortest(samples)]]:
            if self.recipe.optimizer_steps > 1:
                for sample, logprobs in zip(batch, self.logprobs(batch)[0], strict=True):
                    sample.old = logprobs
            if self.recipe.kl_coefficient > 0:
                with self._starting_policy() as reader:
                    started, _ = self._read(batch, reader)
                for sample, logprobs in zip(batch, started, strict=True):
                    sample.reference = logprobs
        for filled in self.ranks.gather([(s.old, s.reference) for s in samples]):
            for sample, (old, reference) in zip(samples, filled, strict=True):
                sample.old = sample.old if old is None else old
                sample.reference = sample.reference if reference is None else reference

    @contextmanager
    def _starting_policy(self) -> Iterator[Reader]:
        """The model as it was before the first step: the trained one with its adapter off, or a copy."""
        if self.adapter is None:
            yield self.reference
        else:
            with self.adapter.disable_adapter():
                yield self.reader

    def _update(self, samples: list[Sample], sums: dict[str, float]) -> float:
        """One optimizer step. Returns the gradient norm before clipping; a non-finite one skips the update."""
        self.optimizers.zero_grad()
        own = 0.0
        rows, idle = passes(samples, self.config.rl.micro_batch_tokens, self.ranks)
        for batch in rows:
            loss = self.loss(batch, sums)
            loss.backward()  # type: ignore[no-untyped-call]
            own += float(loss.detach())
        for _ in range(idle):
            (0.0 * torch.cat(self.logprobs([_shortest(samples)])[0])).sum().backward()  # type: ignore[no-untyped-call]
        total = sum(self.ranks.gather(own))
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.rl.grad_clip)))
        if np.isfinite(total) and np.isfinite(norm):
            self.optimizers.step()
            self.skipped_in_row = 0
            return norm
        return self._skip(samples)

    def _skip(self, samples: list[Sample]) -> float:
        self.optimizers.zero_grad()
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row >= SKIPPED_IN_ROW_MAX:
            raise TrainingError(
                f"{self.skipped_in_row} updates in a row had a loss or gradient that is not finite; "
                f"the last on {_names(self._not_finite(samples))}"
            )
        return float("nan")

    def _not_finite(self, samples: list[Sample]) -> list[Sample]:
        """Those whose own loss is not finite; all when each is finite alone, as when only a gradient is not."""
        found = [s for s in samples if not torch.isfinite(policy_loss(self.recipe, self.token_batch([s]))[0])]
        return found or samples

    def loss(self, batch: Sequence[Sample], sums: dict[str, float]) -> Tensor:
        """The micro-batch's share of the objective; token metrics are added to `sums`."""
        tokens = self.token_batch(batch)
        loss, metrics = policy_loss(self.recipe, tokens)
        for name, value in metrics.items():
            sums[name] += float(value)
        sums["loss_sum"] += float(loss.detach())
        self._compare_fresh(batch, tokens)
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

    def _compare_fresh(self, batch: Sequence[Sample], tokens: TokenBatch) -> None:
        fresh = torch.tensor([int(s.versions.min()) == self.version for s in batch])[tokens.segment]
        if fresh.any():
            differences = (tokens.old - tokens.behaviour)[fresh]
            self._fresh_differences.append(float(disagreement(differences, self.config.model.dtype)))


def _shortest(samples: list[Sample]) -> Sample:
    return min(samples, key=lambda sample: len(sample.ids))


def _split(samples: list[Sample], parts: int) -> list[list[Sample]]:
    bounds = np.linspace(0, len(samples), min(parts, len(samples)) + 1).astype(int)
    return [samples[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def _names(samples: list[Sample]) -> str:
    more = f" and {len(samples) - NAMED_MAX} more" if len(samples) > NAMED_MAX else ""
    return ", ".join(sample.name for sample in samples[:NAMED_MAX]) + more


def _column(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def _added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _means(sums: dict[str, float]) -> dict[str, float]:
    tokens = sums.pop("tokens", 0.0)
    loss = {"loss/policy": sums.pop("loss_sum", 0.0)}
    return loss | {name: value / tokens for name, value in sums.items()} | {"policy/tokens": tokens}
