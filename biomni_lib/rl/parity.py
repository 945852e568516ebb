"""The parity gate: engine and learner must give the same tokens the same log-probabilities.

An engine that goes on with old weights, or with weights half taken over, says nothing: it samples, and every update
from then on is wrong. So the engine samples a probe right after a sync, before rollouts go on, and the learner reads
it with the weights that it has just sent. Each draw has its own seed: the probe shifts nobody else's.

What the weights of one step change may be too little to see, so the gate is passed when the run starts, and after 1, 2,
4, 8, ... pushes of weights.

In float32 the largest difference of a token decides. In bfloat16 engine and learner round logits apart, by 1/16 nat
near 16, and the largest grows with the number of tokens, so the mean decides. Measured between vLLM and the learner on
CPU, 64 tokens a probe: SmolLM2-135M in bfloat16 mean 0.035 to 0.052, largest 0.19 to 0.25 (0.38 of 1,500 tokens); with
noise of 3% on all weights mean 0.15 to 0.22; the model of preset cpu after SFT in bfloat16 mean up to 0.002, largest
0.04, in float32 largest 5e-6, against its weights after RL mean 0.27.

Not covered: in bfloat16, a fault that keeps the mean under 0.1, such as one matrix of SmolLM2 scaled by 1.1 (mean 0.05
to 0.08); larger models, which were not measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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

    Returns: the `disagreement` of the engine that disagrees most. Raises: TrainingError beyond `bound`, or when an
        engine says that other weights sampled it.
    """
    samples = [to_sample(trajectory, 0.0) for trajectory in probe]
    sampled_by = sorted({int(v) for sample in samples for v in sample.versions})
    if sampled_by != [version]:
        raise TrainingError(f"the engine sampled with weights of version {sampled_by} when it had been given {version}")
    read, _ = learner.logprobs(samples)
    differences = [one - sample.rollout for one, sample in zip(read, samples, strict=True)]
    engines = [torch.cat(differences[n : n + REPLIES]) for n in range(0, len(differences), REPLIES)]
    worst = float(torch.stack([disagreement(of_one, learner.config.model.dtype) for of_one in engines]).max())
    require_parity(worst, f"on a probe after the sync of version {version}", bound)
    return worst


def disagreement(differences: Tensor, dtype: str) -> Tensor:
    """How far engine and learner are apart on tokens, in nats.

    Args:
        differences: (tokens,), of their log-probabilities. dtype: numbers of their passes, as `model.dtype`.
    Returns: a scalar: the mean absolute difference in bfloat16, else the largest.
    """
    apart = differences.abs()
    return apart.mean() if dtype == "bfloat16" else apart.max()


def require_parity(difference: float, where: str, bound: float) -> None:
    """Raises: TrainingError when a `disagreement` is more than the bound, or NaN."""
    if not difference <= bound:
        raise TrainingError(
            f"engine and learner disagree {where} by {difference:.3g} in log-probability "
            f"(engine.parity_max = {bound:g}): the engine does not run the weights it was given"
        )
