"""What two designs of this project buy in speed, each as a ratio within one run on one machine.

`engine.vs_generate`: rollout tokens a second of `TransformersEngine` over those of transformers' `generate`, at 64
conversations with the same prompts, observations and numbers of tokens a turn, as in the accepted trajectories of the
preset. `generate` takes all conversations as one batch, reads them whole in each turn and waits for the longest reply.

`rl.async_vs_sync`: updates a minute of an asynchronous RL run over those of a synchronous one with otherwise the same
settings; engine, sandbox and learner are the real ones, and the start of the processes is not counted.

The two sides take turns, so that a busy moment of the machine falls on both; the medians are compared.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories
from biomni_lib.config import RunConfig, project_root
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import DataError
from biomni_lib.provenance import atomic_write, hardware
from biomni_lib.rl.train import train_rl
from biomni_lib.stages.build_data import load_instances
from biomni_lib.stages.paths import paths
from biomni_lib.tasks import Instance

CONVERSATIONS, PROMPTS = 64, 8
"""Conversations at once, and the prompts that they share, as the members of a group do."""
ENGINE_ROUNDS = 5
RL_STEPS, RL_ROUNDS = 6, 2


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a ratio: what was measured, in which unit, and its median over the rounds."""

    name: str
    unit: str
    value: float


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How often the denominator goes into the numerator, and under which conditions."""

    numerator: Side
    denominator: Side
    conditions: dict[str, Any]

    @property
    def ratio(self) -> float:
        """Above 1 when the numerator is the faster."""
        return self.numerator.value / self.denominator.value

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ratio": self.ratio, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        top, bottom = (f"{side.value:,.1f} {side.unit} ({side.name})" for side in (self.numerator, self.denominator))
        return f"{self.ratio:.2f} = {top} / {bottom}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversation of known shape: its prompt, then for each turn the tokens to write and the ids observed."""

    prompt: list[int]
    turns: list[tuple[int, list[int]]]


def run(config: RunConfig, target: Path | None = None) -> dict[str, Ratio]:
    """Measure every ratio, print it, and write all of them to a file.

    Args:
        target: the file; `bench.json` in the project's folder when None.
    Raises: DataError when the preset has no SFT model yet.
    """
    if not paths(config).sft_model.is_dir():
        raise DataError(
            f"{paths(config).sft_model} is missing; the benchmark runs the preset's SFT model:"
            f" first make notebooks PRESET={config.preset}"
        )
    measures: dict[str, Callable[[RunConfig], Ratio]] = {
        "engine.vs_generate": engine_against_generate,
        "rl.async_vs_sync": asynchronous_against_synchronous,
    }
    ratios = {}
    disable_progress_bar()
    with _threads(config.engine.threads):
        for name, measure in measures.items():
            ratios[name] = measure(config)
            print(f"{name} {ratios[name]}", flush=True)
    records = {name: ratio.record() for name, ratio in ratios.items()}
    target = target or project_root() / "bench.json"
    atomic_write(target, json.dumps(records, indent=1) + "\n")
    print(target)
    return ratios


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
    seconds = _take_turns(sides, ENGINE_ROUNDS)
    numerator, denominator = (Side(name, "rollout tokens per second", tokens / s) for name, s in seconds.items())
    shape = {"conversations": len(plans), "prompts": PROMPTS, "turns": sum(len(p.turns) for p in plans)}
    longest = max(len(p.prompt) + sum(n + len(ids) for n, ids in p.turns) for p in plans)
    return Ratio(numerator, denominator, {**_conditions(config), **shape, "tokens": tokens, "longest": longest})


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


def asynchronous_against_synchronous(config: RunConfig) -> Ratio:
    """Updates a minute of both, on the training split with the preset's sizes."""
    instances = load_instances(config, "train")
    staleness = max(1, config.rl.max_staleness)
    sides = {
        f"asynchronous, max_staleness {staleness}": lambda: rl_seconds(config, instances, staleness),
        "synchronous, max_staleness 0": lambda: rl_seconds(config, instances, 0),
    }
    seconds = _take_turns(sides, RL_ROUNDS, warm_up=False)
    rates = {name: 60 * RL_STEPS / s for name, s in seconds.items()}
    numerator, denominator = (Side(name, "updates per minute", rate) for name, rate in rates.items())
    sizes = {name: getattr(config.rl, name) for name in ("groups_per_step", "group_size")}
    return Ratio(numerator, denominator, {**_conditions(config), **sizes, "updates": RL_STEPS})


def rl_seconds(config: RunConfig, instances: Sequence[Instance], max_staleness: int) -> float:
    """Seconds of the steps of a run in a folder that is thrown away."""
    changes = {"steps": RL_STEPS, "checkpoint_every": RL_STEPS, "max_staleness": max_staleness}
    changed = config.model_copy(update={"rl": config.rl.model_copy(update=changes)})
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.run_dir) as folder:
        result = train_rl(changed, instances, paths(config).sft_model, Path(folder))
    return float(sum(row["time/step"] for row in result.metrics))


def _take_turns(sides: dict[str, Callable[[], float]], rounds: int, *, warm_up: bool = True) -> dict[str, float]:
    """Median seconds of each side over the rounds; a first round to warm up does not count."""
    measured = [{name: measure() for name, measure in sides.items()} for _ in range(rounds + warm_up)][int(warm_up) :]
    return {name: statistics.median(seconds[name] for seconds in measured) for name in sides}


def _conditions(config: RunConfig) -> dict[str, Any]:
    machine = {name: hardware()[name] for name in ("processor", "cores")}
    return {"preset": config.preset, "engine_threads": config.engine.threads, **machine}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
