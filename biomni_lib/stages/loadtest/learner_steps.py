"""This project's learner as a client: one step on the job's batch for each line on standard input.

python -m biomni_lib.stages.loadtest.learner_steps BATCH.json GRADIENTS.safetensors
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.scheduler import Group
from biomni_lib.stages.loadtest.job import Batch, Round


def groups_of(batch: Batch) -> list[Group]:
    """The batch as the learner takes it; no policy sampled it, so its log-probabilities are empty ones."""
    made = []
    for number, one in enumerate(batch.trajectories):
        trajectory = Trajectory("bench", str(number // batch.group_size), number % batch.group_size)
        mask, ids = torch.tensor(one["mask"], dtype=torch.bool), one["ids"]
        for first, after in _spans(mask):
            count = after - first
            if mask[first]:
                drawn = [0.0] * count, [0] * count
                trajectory.append(ids[first:after], sampled=True, logprobs=drawn[0], policy_versions=drawn[1])
            else:
                trajectory.append(ids[first:after], sampled=False)
        trajectory.total, trajectory.ending = one["reward"], "solved"
        made.append(trajectory)
    size = batch.group_size
    return [Group(first // size, made[first : first + size]) for first in range(0, len(made), size)]


def _spans(mask: torch.Tensor) -> list[tuple[int, int]]:
    """The stretches of equal values."""
    cuts = [0, *(torch.nonzero(mask[1:] != mask[:-1])[:, 0] + 1).tolist(), len(mask)]
    return list(zip(cuts, cuts[1:], strict=False))


def main(job_file: str, gradients: str) -> None:
    """Train, telling of each step; the first leaves its gradient, after clipping."""
    batch = Batch.load(Path(job_file))
    config = RunConfig.model_validate_json(batch.settings)
    torch.set_num_threads(config.rl.threads)
    model = AutoModelForCausalLM.from_pretrained(batch.model_dir, dtype=torch.float32)
    learner, groups = Learner(model, load_recipe(config.rl.recipe), config), groups_of(batch)
    for number, _ in enumerate(sys.stdin):
        began, cpu = time.perf_counter(), time.process_time()
        learner.step(groups)
        done = Round(batch.tokens, time.perf_counter() - began, time.process_time() - cpu)
        if not number:
            save_file({n: p.grad.contiguous() for n, p in model.named_parameters() if p.grad is not None}, gradients)
        print(json.dumps(dataclasses.asdict(done)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
