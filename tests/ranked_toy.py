"""What a learner does, as functions that run in this process or on every rank of another: equal but for rounding."""

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import load_config
from biomni_lib.errors import TrainingError
from biomni_lib.rl import checkpoints
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.learner_ranks import LearnerSpec
from biomni_lib.rl.logprobs import Reader
from biomni_lib.rl.optimizers import Optimizers
from biomni_lib.rl.packing import PACKED, lay_end_to_end
from biomni_lib.rl.ranks import whole
from biomni_lib.rl.recipe import Recipe, load_recipe
from biomni_lib.rl.scheduler import Group
from biomni_lib.rl.shared_row import SHARED
from biomni_lib.rl.weights import merged_state
from tests.held_memory import Held, kept_for_backward
from tests.rl_toy import VOCABULARY

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Variant:
    """Changes of a recipe, of the settings `rl`, of where ranks keep their share, and of the passes' numbers.

    context: of several ranks, how many read a row together.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    rl: dict[str, Any] = field(default_factory=dict)
    offload: bool = False
    dtype: str = "float32"
    context: int = 1


def uneven_groups(seed: int, groups: int = 3, size: int = 3) -> list[Group]:
    """Random ledgers of 5 to 80 tokens in one to four turns, an odd number of them, sampled by version 0 or earlier."""
    rng = np.random.default_rng(seed)

    def member(index: int, sample: int) -> Trajectory:
        made = Trajectory("toy", f"i{index}", sample, total=float(rng.integers(0, 3)), format=1.0, ending="solved")
        for _ in range(rng.integers(1, 5)):
            made.append(rng.integers(2, VOCABULARY, rng.integers(2, 11)).tolist(), sampled=False)
            n = int(rng.integers(3, 10))
            ids, logprobs = rng.integers(2, VOCABULARY, n).tolist(), rng.uniform(-4, -1, n).tolist()
            made.append(ids, sampled=True, logprobs=logprobs, policy_versions=[int(rng.integers(-1, 1))] * n)
        return made

    return [Group(index, [member(index, sample) for sample in range(size)]) for index in range(groups)]


def fresh(learner: Learner, model_dir: Path, variant: Variant) -> Learner:
    """A learner of its own on the ranks of another."""
    recipe = Recipe(**{**load_recipe("default").model_dump(), **variant.recipe})
    rl = {"learning_rate": 1e-2, "grad_clip": 0.5, "micro_batch_tokens": 100, **variant.rl}
    count = learner.ranks.count
    context, offload = (variant.context, variant.offload) if count > 1 else (1, False)
    placement = {"learner_ranks": count, "context_parallel": context, "learner_offload": offload}
    agent, model = {"max_tokens": 32, "max_turn_tokens": 16}, {"dtype": variant.dtype}
    config = load_config("smoke", agent=agent, model=model, placement=placement, rl=rl)
    return LearnerSpec(config, recipe, model_dir).load(learner.ranks.rank)


def weights(made: Learner) -> Arrays:
    return {name: tensor.numpy().copy() for name, tensor in merged_state(made.model).items()}


def gradients(learner: Learner, model_dir: Path, variant: Variant, groups: list[Group]) -> Arrays:
    """Of one unclipped update, seen through an optimizer that only subtracts it."""
    made = fresh(learner, model_dir, replace(variant, rl={**variant.rl, "grad_clip": 1e6}))
    before = {name: whole(p.detach()).clone() for name, p in made.model.named_parameters()}
    made.optimizers = Optimizers([torch.optim.SGD(made.parameters, lr=1.0)])
    made.step(groups)
    return {name: (before[name] - whole(p.detach())).float().numpy() for name, p in made.model.named_parameters()}


def dtypes_and_gradients(
    learner: Learner, model_dir: Path, variant: Variant, groups: list[Group]
) -> tuple[set[str], Arrays]:
    """`gradients` of what is trained, and which numbers that is kept in."""
    trained = [p for p in fresh(learner, model_dir, variant).model.parameters() if p.requires_grad]
    return {str(p.dtype).removeprefix("torch.") for p in trained}, gradients(learner, model_dir, variant, groups)


def steps(
    learner: Learner, model_dir: Path, variant: Variant, batches: list[list[Group]], save: Path | None = None
) -> tuple[list[dict[str, float]], Arrays]:
    """Metrics of some steps and the weights after them; what a resumed run needs is saved, if told where."""
    made = fresh(learner, model_dir, variant)
    metrics = [made.step(batch) for batch in batches]
    if save is not None:
        checkpoints._save(made, save)
    return metrics, weights(made)


def resumed(
    learner: Learner, model_dir: Path, variant: Variant, saved: Path, version: int, batches: list[list[Group]]
) -> tuple[list[dict[str, float]], Arrays]:
    """The same of a learner that takes up what was saved."""
    made = fresh(learner, model_dir, variant)
    checkpoints._restore(made, saved, {"version": version, "skipped": 0, "skipped_in_row": 0})
    return [made.step(batch) for batch in batches], weights(made)


def not_finite(learner: Learner, model_dir: Path, variant: Variant, groups: list[Group]) -> str:
    """What is said at the last skipped update of a model that has no number for one token, read by one trajectory."""
    made = fresh(learner, model_dir, variant)
    for group in groups:
        for number, t in enumerate(group.trajectories):
            t.total, t.token_ids = float(number), np.minimum(t.token_ids, VOCABULARY - 2)
    groups[1].trajectories[2].token_ids[0] = VOCABULARY - 1
    made.skipped_in_row = 2
    try:
        made.step(groups)
    except TrainingError as error:
        return str(error)
    return "nothing was said"


def kept(learner: Learner) -> tuple[int, int]:
    """Numbers in the weights, and how many of them this rank holds."""
    parameters = list(learner.model.parameters())
    return sum(p.numel() for p in parameters), sum(p.to_local().numel() for p in parameters)


def kept_of_a_row(learner: Learner, model_dir: Path, variant: Variant, tokens: int) -> tuple[int, int]:
    """Bytes that this rank keeps of one row of two sequences between its passes, and the most that it ever holds.

    Every rank has all weights here, so that nothing counts but what is made of the row.
    """
    made = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).train()
    group = fresh(learner, model_dir, variant).ranks.group
    made.set_attn_implementation(PACKED if group is None else SHARED)
    if variant.rl.get("gradient_checkpointing"):
        made.gradient_checkpointing_enable()
    reader = Reader(made, group)
    ids, masks = torch.arange(tokens) % VOCABULARY, torch.arange(tokens) == tokens - 1
    row = lay_end_to_end(ids.split(2 * tokens // 3), masks.split(2 * tokens // 3))
    there = [*made.parameters(), *made.buffers()]
    kept = kept_for_backward(lambda: reader(row, 1.0, False), there)
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
        there.append(parameter.grad)
    with Held(there) as held:
        reader(row, 1.0, False)[0].sum().backward()
    return kept, held.most


def step_and_die(learner: Learner, groups: list[Group], rank: int) -> None:
    """One rank is killed when it comes to the first layer."""
    if learner.ranks.rank == rank:
        learner.model.model.layers[0].register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    learner.step(groups)
