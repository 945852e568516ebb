"""Trajectories as the learner needs them, and which of them share a forward and backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import LedgerError
from biomni_lib.rl.packing import fill_rows, share_out
from biomni_lib.rl.ranks import Ranks
from biomni_lib.tasks import refuse_evaluation_only


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

    @property
    def name(self) -> str:
        """INSTANCE/SAMPLE, as messages name a trajectory."""
        return f"{self.trajectory.instance_id}/{self.trajectory.sample}"


def to_sample(trajectory: Trajectory, advantage: float) -> Sample:
    """The learner's view of a ledger.

    Raises: DataError for a trajectory on a benchmark's instance; LedgerError when its columns disagree, its first token
        is sampled, or a sampled token has no log-prob.
    """
    refuse_evaluation_only([trajectory.instance_id], "the learner")
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
    """Cut samples into rows of at most `tokens_max` tokens, one sample at least."""
    rows = fill_rows([len(sample.ids) for sample in samples], tokens_max)
    return [[samples[index] for index in row] for row in rows]


def passes(samples: Sequence[Sample], tokens_max: int, ranks: Ranks) -> tuple[list[list[Sample]], int]:
    """The rows of `micro_batches` that this rank reads, alone or with others, of all ranks' samples; at least one.

    Returns: the rows, and how many passes without effect follow until all ranks have done as many.
    """
    shares = share_out([len(sample.ids) for sample in samples], ranks.readers)
    rows = [micro_batches([samples[index] for index in share], tokens_max) for share in shares]
    own = rows[ranks.reader]
    return own, max(map(len, rows)) - len(own)
