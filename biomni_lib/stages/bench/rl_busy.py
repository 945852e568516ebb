"""How much of the engine's time asynchrony saves when tools are slow and uneven: two ratios, in one run.

Scheduler, dispatcher and engine are the real ones, with the preset's SFT model and conversations of the shape of its
accepted trajectories; tools are waits with lognormal latencies, the 99th percentile at 30 times the median, and the
learner is a wait as long as its share of a step. So what is measured is the schedule, not the sandbox or the gradient.

`rl.engine_busy`: tokens that the engine writes a second in the fully asynchronous run, over the limit, which is what it
writes in the same run when tools answer at once, so that it is never without a request.
`rl.async_vs_sync_slow_tools`: tokens trained on a second, fully asynchronous over synchronous, with the same tools.

The median latency is TOOL_RATIO times the time of a turn on the engine with full slots, fixed before measuring; the
ratios over CURVE are recorded with the result.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.rl.dispatcher import Dispatcher
from biomni_lib.rl.scheduler import GroupScheduler, Ticket
from biomni_lib.rl.staleness import StalenessBudget
from biomni_lib.rl.workload import P99_NORMAL
from biomni_lib.stages.bench.engine import Plan, make_plans
from biomni_lib.stages.bench.measured import Ratio, Side, conditions
from biomni_lib.stages.paths import paths

GROUPS, GROUP_SIZE, SLOTS = 8, 4, 32
"""A batch fills the engine's slots once, as the preset's does half."""
STALENESS = 8
STEPS, SYNCHRONOUS_STEPS, WARM_STEPS = 40, 8, 6
"""Learner steps measured, and those before, in which stragglers gather as they will; a synchronous one takes long."""
SHORTER = 4
"""Turns are written to a quarter, so that latencies in proportion to them make the benchmark a matter of minutes."""
TOOL_RATIO, P99_OVER_MEDIAN = 1.0, 30.0
CURVE = (0.05, 0.5, 1.0, 2.0)
"""The first is what this project's own tools take, which look things up in local tables."""
LEARN_SHARE = 0.5
"""The learner's time for a batch, in times that the engine with full slots needs to write it."""


@dataclass(frozen=True)
class Bench:
    """What every run shares: conversations, engine sizes, and the seconds of a turn and of a batch at full slots."""

    config: RunConfig
    plans: Sequence[Plan]
    turn_s: float = 0.0
    batch_s: float = 0.0

    def latency_s(self, ticket: Ticket, turn: int, ratio: float) -> float:
        """A tool's latency: a function of its place alone, so that every run meets the same ones."""
        path = [self.config.seed, ticket.group, ticket.sample, turn]
        normal = np.random.default_rng(np.random.SeedSequence(path)).standard_normal()
        return float(ratio * self.turn_s * math.exp(math.log(P99_OVER_MEDIAN) / P99_NORMAL * normal))


class Rates(NamedTuple):
    """Tokens a second: those that the engine wrote, those that were trained on."""

    written: float
    trained: float


def engine_busy(config: RunConfig) -> Ratio:
    """Of what the engine could write, what it writes when asynchrony hides its slow tools."""
    return _both(config)[0]


def asynchronous_against_synchronous(config: RunConfig) -> Ratio:
    """Tokens trained on a second of both, with slow tools."""
    return _both(config)[1]


@functools.lru_cache(maxsize=1)
def _both(config: RunConfig) -> tuple[Ratio, Ratio]:
    """Both ratios at TOOL_RATIO, from one run; the curve, with a limit beside each point, is in their conditions."""
    bench = asyncio.run(_calibrated(config))
    rates = {
        ratio: [asyncio.run(_rates(bench, *side)) for side in ((STALENESS, 0.0), (STALENESS, ratio), (0, ratio))]
        for ratio in sorted({*CURVE, TOOL_RATIO})
    }
    curve = [
        {
            "tool_ratio": ratio,
            "engine_busy": fast.written / limit.written,
            "async_vs_sync": fast.trained / slow.trained,
        }
        for ratio, (limit, fast, slow) in rates.items()
    ]
    shape = {"groups": GROUPS, "group_size": GROUP_SIZE, "slots": SLOTS, "tool_ratio": TOOL_RATIO}
    told = {**conditions(config), "p99_over_median": P99_OVER_MEDIAN, **shape, "curve": curve}
    limit, best, synchronous = rates[TOOL_RATIO]
    name = f"asynchronous, max_staleness {STALENESS}, slow tools"
    written, trained = "tokens written per second", "tokens trained on per second"
    return (
        Ratio(
            Side(name, written, best.written),
            Side("the same, tools that answer at once", written, limit.written),
            told,
        ),
        Ratio(Side(name, trained, best.trained), Side("synchronous, slow tools", trained, synchronous.trained), told),
    )


async def _calibrated(config: RunConfig) -> Bench:
    """The seconds of a turn and of a batch, from a run without tools and without a learner's time."""
    plans = make_plans(load_trajectories(paths(config).accepted), config.seed)
    shorter = [Plan(plan.prompt, [(max(1, count // SHORTER), ids) for count, ids in plan.turns]) for plan in plans]
    bench = Bench(config, shorter)
    rate = (await _rates(bench, STALENESS, 0.0)).written
    turns = [count for plan in bench.plans for count, _ in plan.turns]
    per_trajectory = sum(turns) / len(bench.plans)
    batch_s = GROUPS * GROUP_SIZE * per_trajectory / rate
    return Bench(config, bench.plans, SLOTS * float(np.mean(turns)) / rate, batch_s)


async def _rates(bench: Bench, max_staleness: int, tool_ratio: float) -> Rates:
    """What a run makes of its time, after the steps that fill the pipeline."""
    agents = (max_staleness + 1) * GROUPS * GROUP_SIZE
    engine = _engine(bench, agents)
    state = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    budget = StalenessBudget(GROUPS, max_staleness)
    options = {"seed": bench.config.seed, "group_size": GROUP_SIZE, "places": agents, "refill_max": 0}
    scheduler = GroupScheduler(range(len(bench.plans)), budget, **options)
    dispatcher = Dispatcher(scheduler, _Member(bench, engine, tool_ratio))
    warm, steps = (WARM_STEPS, STEPS) if max_staleness else (1, SYNCHRONOUS_STEPS)
    trained, written, began = 0, 0, 0.0
    try:
        for step in range(warm + steps):
            groups = await dispatcher.next_batch(step)
            await asyncio.sleep(LEARN_SHARE * bench.batch_s)
            await engine.load_weights(step + 1, state)
            dispatcher.set_version(step + 1)
            if step == warm - 1:
                began, written = time.perf_counter(), engine.stats().generated_tokens
            elif step >= warm:
                trained += sum(t.response_tokens for group in groups for t in group.trajectories)
        seconds = time.perf_counter() - began
        return Rates((engine.stats().generated_tokens - written) / seconds, trained / seconds)
    finally:
        await dispatcher.close()
        await engine.close()


def _engine(bench: Bench, agents: int) -> TransformersEngine:
    model_dir = paths(bench.config).sft_model
    context = 1 + max(len(p.prompt) + sum(n + len(ids) for n, ids in p.turns) for p in bench.plans)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    renderer = ChatRenderer.load(model_dir)
    renderer.end_of_turn = -1  # no reply ends before its planned length
    chunk = bench.config.engine.prefill_chunk
    return TransformersEngine(model, renderer, slots=SLOTS, context=context, prefill_chunk=chunk, parked=agents)


@dataclass(frozen=True)
class _Member:
    """Rolls out one trajectory after its plan."""

    bench: Bench
    engine: TransformersEngine
    tool_ratio: float

    async def __call__(self, ticket: Ticket) -> Trajectory:
        plan = self.bench.plans[(ticket.instance + ticket.sample) % len(self.bench.plans)]
        trajectory = Trajectory("bench", str(ticket.group), ticket.sample, total=float(ticket.sample), ending="solved")
        trajectory.append(plan.prompt, sampled=False)
        session = f"{ticket.group}/{ticket.sample}"
        try:
            for turn, (count, observed) in enumerate(plan.turns):
                sampling = Sampling(max_tokens=count, seed=ticket.sample + GROUP_SIZE * turn)
                reply = await self.engine.generate(trajectory.token_ids.tolist(), sampling, session=session)
                trajectory.append(
                    reply.ids, sampled=True, logprobs=reply.logprobs, policy_versions=reply.policy_versions
                )
                if observed:
                    await asyncio.sleep(self.bench.latency_s(ticket, turn, self.tool_ratio))
                    trajectory.append(observed, sampled=False)
        finally:
            await self.engine.release(session)
        return trajectory
