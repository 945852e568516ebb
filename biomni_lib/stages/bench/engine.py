"""The engine against its peer: rollout tokens a second of `TransformersEngine` and of transformers' `generate`.

64 conversations with the same prompts, observations and numbers of tokens a turn, as in the accepted trajectories of
the preset. `generate` takes all conversations as one batch, reads them whole in each turn and waits for the longest
reply.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import DataError
from biomni_lib.stages.bench.measured import Ratio, Side, conditions, take_turns
from biomni_lib.stages.paths import paths

CONVERSATIONS, PROMPTS = 64, 8
"""Conversations at once, and the prompts that they share, as the members of a group do."""
ENGINE_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversation of known shape: its prompt, then for each turn the tokens to write and the ids observed."""

    prompt: list[int]
    turns: list[tuple[int, list[int]]]


def engine_against_generate(config: RunConfig) -> Ratio:
    """Rollout tokens a second of both, over the same plans."""
    model_dir = paths(config).sft_model
    plans = make_plans(load_trajectories(paths(config).accepted), config.seed)
    tokens = sum(count for plan in plans for count, _ in plan.turns)
    stock = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    stock.generation_config.eos_token_id = None
    sides = {
        "TransformersEngine": lambda: asyncio.run(engine_seconds(config, plans)),
        "transformers generate, one batch": lambda: generate_seconds(stock, plans),
    }
    seconds = take_turns(sides, ENGINE_ROUNDS)
    numerator, denominator = (Side(name, "rollout tokens per second", tokens / s) for name, s in seconds.items())
    shape = {"conversations": len(plans), "prompts": PROMPTS, "turns": sum(len(p.turns) for p in plans)}
    longest = max(len(p.prompt) + sum(n + len(ids) for n, ids in p.turns) for p in plans)
    return Ratio(numerator, denominator, {**conditions(config), **shape, "tokens": tokens, "longest": longest})


def make_plans(trajectories: Sequence[Trajectory], seed: int) -> list[Plan]:
    """Shapes of 64 trajectories drawn from those given, on the eight shortest of their prompts.

    Raises: DataError when there are none.
    """
    if not trajectories:
        raise DataError("the benchmark needs accepted trajectories; run notebook 02_rejection_sampled_sft")
    rng = np.random.default_rng(np.random.SeedSequence([seed, CONVERSATIONS]))
    drawn = [trajectories[i] for i in rng.integers(len(trajectories), size=CONVERSATIONS)]
    prompts = sorted((t.token_ids[: t.turns[0].start].tolist() for t in drawn), key=len)
    return [Plan(prompts[i % PROMPTS], _turns(t)) for i, t in enumerate(drawn)]


def _turns(trajectory: Trajectory) -> list[tuple[int, list[int]]]:
    starts = [turn.start for turn in trajectory.turns[1:]] + [trajectory.turns[-1].end]
    ids = trajectory.token_ids.tolist()
    return [
        (turn.end - turn.start, ids[turn.end : after]) for turn, after in zip(trajectory.turns, starts, strict=True)
    ]


async def engine_seconds(config: RunConfig, plans: Sequence[Plan]) -> float:
    """Seconds of all conversations on a fresh engine, each going on as soon as it can."""
    context = 1 + max(len(p.prompt) + sum(n + len(ids) for n, ids in p.turns) for p in plans)
    model_dir = paths(config).sft_model
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    renderer = ChatRenderer.load(model_dir)
    renderer.end_of_turn = -1  # no reply ends before its planned length
    engine = TransformersEngine(
        model, renderer, slots=len(plans), context=context, prefill_chunk=config.engine.prefill_chunk
    )
    began = time.perf_counter()
    await asyncio.gather(*(_converse(engine, plan, number) for number, plan in enumerate(plans)))
    seconds = time.perf_counter() - began
    await engine.close()
    return seconds


async def _converse(engine: TransformersEngine, plan: Plan, number: int) -> None:
    """One conversation after its plan."""
    ids, session = list(plan.prompt), str(number)
    for turn, (count, observed) in enumerate(plan.turns):
        reply = await engine.generate(ids, Sampling(max_tokens=count, seed=number + 1000 * turn), session=session)
        assert len(reply.ids) == count
        ids += [*reply.ids, *observed]
    await engine.release(session)


@torch.inference_mode()
def generate_seconds(model: PreTrainedModel, plans: Sequence[Plan]) -> float:
    """Seconds of all conversations with `generate`: a batch a turn, padded on the left, read anew."""
    began = time.perf_counter()
    conversations = [(list(plan.prompt), plan.turns) for plan in plans]
    for turn in range(max(len(plan.turns) for plan in plans)):
        open_ones = [(ids, turns[turn]) for ids, turns in conversations if turn < len(turns)]
        replies = _generate(model, [ids for ids, _ in open_ones], max(count for _, (count, _) in open_ones))
        for (ids, (count, observed)), reply in zip(open_ones, replies, strict=True):
            ids += [*reply[:count], *observed]
    return time.perf_counter() - began


def _generate(model: PreTrainedModel, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    longest = max(len(ids) for ids in prompts)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts])
    generate: Any = model.generate
    out = generate(
        padded, attention_mask=mask, max_new_tokens=count, do_sample=True, top_k=0, pad_token_id=0, use_cache=True
    )
    assert out.shape[1] == longest + count
    return out[:, longest:].tolist()
