"""The parity gate: engine and learner must give the same tokens the same log-probabilities.

An engine that goes on with old weights, or with weights half taken over, says nothing: it samples, and every update
from then on is wrong. So the engine samples a probe right after a sync, before rollouts go on, and the learner reads
it with the weights that it has just sent. Each draw has its own seed: the probe shifts nobody else's.

What the weights of one step change may be too little to see, so the gate is passed when the run starts, and after 1, 2,
4, 8, ... pushes of weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.engines.base import Completion, Engine, Sampling, each_engine, over_losses
from biomni_lib.errors import TrainingError
from biomni_lib.rl.samples import to_sample

if TYPE_CHECKING:
    from biomni_lib.rl.learner import Learner

REPLIES, REPLY_TOKENS = 4, 16


def is_due(pushes: int) -> bool:
    """Whether the gate is passed after so many pushes of weights: 1, 2, 4, 8, ..."""
    return pushes > 0 and pushes & (pushes - 1) == 0


async def take_probe(engine: Engine, prompt: Sequence[int], temperature: float) -> list[Trajectory]:
    """A few short replies to one prompt of each engine behind this one, all by the weights that it has now."""

    async def draw(one: Engine, seed: int) -> Completion:
        sampling = Sampling(temperature, 1.0, REPLY_TOKENS, (), seed)
        return await over_losses(lambda: one.generate(prompt, sampling))

    engines = each_engine(engine)
    replies = await asyncio.gather(*(draw(one, seed) for one in engines for seed in range(REPLIES)))
    probe = []
    for number, reply in enumerate(replies):
        trajectory = Trajectory("parity", "probe", number, "engine")
        trajectory.append(prompt, sampled=False)
        trajectory.append(reply.ids, sampled=True, logprobs=reply.logprobs, policy_versions=reply.policy_versions)
        probe.append(trajectory)
    return probe


@torch.no_grad()
def check_probe(learner: Learner, probe: Sequence[Trajectory], version: int, bound: float) -> float:
    """Read a probe with the learner's weights, which are those of `version`.

    Returns: the largest difference in log-probability. Raises: TrainingError beyond `bound`, or when the engine says
        that other weights sampled it.
    """
    samples = [to_sample(trajectory, 0.0) for trajectory in probe]
    sampled_by = sorted({int(v) for sample in samples for v in sample.versions})
    if sampled_by != [version]:
        raise TrainingError(f"the engine sampled with weights of version {sampled_by} when it had been given {version}")
    read, _ = learner.logprobs(samples)
    given = torch.cat([sample.rollout for sample in samples])
    worst = float((torch.cat(read) - given).abs().max())
    require_parity(worst, f"on a probe after the sync of version {version}", bound)
    return worst


def require_parity(difference: float, where: str, bound: float) -> None:
    """Raises: TrainingError when engine and learner differ by more than the bound in log-probability, or by NaN."""
    if not difference <= bound:
        raise TrainingError(
            f"engine and learner disagree {where} by {difference:.3g} in log-probability "
            f"(engine.parity_max = {bound:g}): the engine does not run the weights it was given"
        )
