"""Supervised fine-tuning on accepted trajectories: the loss is on the tokens that the teacher wrote, nothing else.

The ledger's ids are trained on as they are. A batch is made of parts that hold trajectories of like length, padded on
the right, so causal attention needs no mask, and parts of any length, so tasks are mixed in it. Or, with
`sft.micro_batch_tokens`, its parts are rows of trajectories laid end to end, read as the RL learner reads them. The
order follows from the seed, so an interrupted run goes on as if it had not been interrupted. Threads take parts: on
small matrices that is half as fast again as all threads at one matrix.

All weights are trained, or a LoRA adapter beside them, which is merged at the end: what comes after SFT, RL with an
adapter of its own included, sees a model of the usual form.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, TrainingError
from biomni_lib.provenance import atomic_path
from biomni_lib.rl.adapter import add_adapter
from biomni_lib.rl.logprobs import Reader, token_logprobs
from biomni_lib.rl.optimizers import make_optimizers
from biomni_lib.rl.packing import PACKED, fill_rows, lay_end_to_end
from biomni_lib.tasks import refuse_evaluation_only

CHECKPOINT_EVERY = 50
PART = 4
"""Examples of like length that are computed together; a batch has as many parts as it needs."""
COOLDOWN = 0.4
"""Share of the steps over which the learning rate falls to zero."""
OnStep = Callable[[dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Example:
    """One trajectory to learn: ids (length,) cut after its last written token, mask (length,) True where written."""

    ids: Tensor
    mask: Tensor


def to_example(trajectory: Trajectory) -> Example:
    """The part of a ledger that carries loss or leads up to it.

    Raises: DataError when nothing was written, or for a trajectory on a benchmark's instance.
    """
    refuse_evaluation_only([trajectory.instance_id], "SFT")
    written = np.flatnonzero(trajectory.loss_mask)
    if not len(written):
        raise DataError(f"trajectory {trajectory.task}/{trajectory.instance_id} has no written token to learn from")
    end = int(written[-1]) + 1
    return Example(torch.from_numpy(trajectory.token_ids[:end]).long(), torch.from_numpy(trajectory.loss_mask[:end]))


def batch_order(lengths: Sequence[int], batch_size: int, epoch: int, seed: int) -> list[list[int]]:
    """Batches of `PART` examples of like length beside others of any, in a seeded order; every example once an epoch.

    Returns: lists of positions in `lengths`; only the last may be shorter than `batch_size`.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    jittered = np.asarray(lengths) + rng.uniform(0, 32, len(lengths))
    order = np.argsort(jittered, kind="stable").tolist()
    parts = [order[i : i + PART] for i in range(0, len(order) - len(order) % PART, PART)]
    mixed = [at for i in rng.permutation(len(parts)) for at in parts[i]] + order[len(parts) * PART :]
    return [mixed[i : i + batch_size] for i in range(0, len(mixed), batch_size)]


def pad(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Ids and mask, (batch, longest), padded on the right with id 0 and False."""
    ids = torch.nn.utils.rnn.pad_sequence([e.ids for e in examples], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([e.mask for e in examples], batch_first=True)
    return ids, mask


def summed_loss(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Sum over the masked tokens of their negative log-likelihood given what is before them.

    Args:
        model: a causal language model with `.model` and `.lm_head`. ids: (batch, length). mask: the same shape.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    rows = mask[:, 1:]
    logprobs, _ = token_logprobs(hidden[:, :-1][rows], model.lm_head.weight, ids[:, 1:][rows], 1.0)
    return -logprobs.sum()


def packed_loss(model: Any, examples: Sequence[Example]) -> Tensor:
    """`summed_loss` of examples laid end to end; the model's attention must be `rl.packing`'s."""
    row = lay_end_to_end([example.ids for example in examples], [example.mask for example in examples])
    return -Reader(model)(row, 1.0, False)[0].sum()


class SftTrainer:
    """Trains a model on examples, step by step, with checkpoints.

    Args:
        model: changed in place. examples: from `to_example` or `copy_documents`. config: `sft` and `seed`.
        checkpoint: file to save to and, when it is there, to go on from.
    """

    def __init__(self, model: Any, examples: Sequence[Example], config: RunConfig, checkpoint: Path) -> None:
        if not examples:
            raise DataError("SFT has no accepted trajectory to learn from; raise teacher.instances or samples")
        self.model, self.examples, self.config, self.checkpoint = model.train(), examples, config, checkpoint
        lengths = [len(example.ids) for example in examples]
        sft = config.sft
        orders = (batch_order(lengths, sft.batch_size, epoch, config.seed) for epoch in range(sft.epochs))
        self.batches = [batch for order in orders for batch in order]
        self.adapter: Any = None
        if sft.lora_rank is not None:
            self.adapter = add_adapter(model, rank=sft.lora_rank, alpha=sft.lora_alpha, seed=config.seed)
        if sft.micro_batch_tokens is not None:
            model.set_attn_implementation(PACKED)
        if sft.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.optimizers = make_optimizers(model, sft.optimizer, lr_muon=sft.lr_muon, lr_adamw=sft.lr_adamw)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.workers = ThreadPoolExecutor(sft.threads, "sft", initializer=lambda: torch.set_num_threads(1))
        self.step_number = 0
        if checkpoint.is_file():
            self._restore()

    def train(self, on_step: OnStep | None = None) -> None:
        """Run the steps that are left; `on_step` gets step, loss, tokens_per_s, seconds_left.

        Raises: TrainingError when the loss is not finite.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self._train(on_step)
        finally:
            torch.set_num_threads(threads)

    def merged(self) -> Any:
        """The trained model, in which an adapter has become part of the matrices; the last thing to ask for."""
        return self.model if self.adapter is None else self.adapter.merge_and_unload()

    def _train(self, on_step: OnStep | None) -> None:
        began, first = time.monotonic(), self.step_number
        while self.step_number < len(self.batches):
            metrics = self.step()
            rate = (time.monotonic() - began) / (self.step_number - first)
            if on_step is not None:
                on_step({**metrics, "seconds_left": rate * (len(self.batches) - self.step_number)})
            if self.step_number % CHECKPOINT_EVERY == 0:
                self._save()

    def step(self) -> dict[str, float]:
        """One optimizer step on the next batch."""
        began = time.monotonic()
        batch = [self.examples[i] for i in self.batches[self.step_number]]
        loss = self._backward(batch)
        share = self._schedule()
        self.optimizers.set_rates(share)
        self.optimizers.step()
        self.optimizers.zero_grad()
        self.step_number += 1
        seconds = time.monotonic() - began
        return {
            "step": self.step_number,
            "sft/loss": loss,
            "optim/lr_share": share,
            "perf/tokens_per_s": sum(len(example.ids) for example in batch) / seconds,
        }

    def _backward(self, batch: Sequence[Example]) -> float:
        """Set every gradient to that of the batch's mean loss over written tokens, and return the loss.

        Raises: TrainingError when it is not finite.
        """
        written = sum(int(example.mask[1:].sum()) for example in batch)
        parts = self._parts(batch)
        results = list(self.workers.map(self._part, parts, [written] * len(parts)))
        loss = sum(loss for loss, _ in results)
        if not math.isfinite(loss):
            raise TrainingError(f"SFT loss is {loss} at step {self.step_number}; lower sft.lr_muon or lr_adamw")
        for parameter, *gradients in zip(self.parameters, *(gradients for _, gradients in results), strict=True):
            parameter.grad = functools.reduce(torch.add, gradients)
        return loss

    def _parts(self, batch: Sequence[Example]) -> list[list[Example]]:
        """What of a batch is computed together."""
        tokens = self.config.sft.micro_batch_tokens
        if tokens is None:
            return [list(batch[first : first + PART]) for first in range(0, len(batch), PART)]
        return [[batch[i] for i in row] for row in fill_rows([len(example.ids) for example in batch], tokens)]

    def _part(self, part: Sequence[Example], written: int) -> tuple[float, tuple[Tensor, ...]]:
        """A part's share of the batch's loss, and its gradient, one tensor a parameter."""
        packed = self.config.sft.micro_batch_tokens is not None
        loss = (packed_loss(self.model, part) if packed else summed_loss(self.model, *pad(part))) / written
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def _schedule(self) -> float:
        """Share of the peak learning rate: linear warm-up, a plateau, then linear decay to zero."""
        total = len(self.batches)
        rising = (self.step_number + 1) / max(1, self.config.sft.warmup_steps)
        falling = (total - self.step_number) / (COOLDOWN * total)
        return min(1.0, rising, falling)

    def _save(self) -> None:
        state = {
            "step": self.step_number,
            "model": self._trained(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.members],
        }
        with atomic_path(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _trained(self) -> dict[str, Tensor]:
        """The weights that are trained, by name; not copied."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        for name, weights in self._trained().items():
            weights.copy_(state["model"][name])
        for optimizer, saved in zip(self.optimizers.members, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step_number = state["step"]
