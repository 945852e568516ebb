"""A world small enough to know its best policy: see a symbol, write the matching one.

Two turns: in each the model is shown a symbol and writes one or two tokens; the first must be the symbol's partner.
The engine and the model are the real ones, only tiny; there is no sandbox.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.agent.rollout import rollout_seed
from biomni_lib.engines.base import Engine, Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.rl.scheduler import Ticket
from biomni_lib.rl.worker import WorkerSpec, World
from biomni_lib.tasks import Instance

SYMBOLS = 4
VOCABULARY = 12
END = 1
TURNS = 2
TOKENS = 2
PROBE = (0, 2, 3, 4, 5)


@dataclass
class ToyRenderer:
    end_of_turn: int = END

    def piece(self, token_id: int) -> str:
        return f"<{token_id}>"


@dataclass
class ToyTask:
    name: str = "toy"
    size: int = 16

    def instances(self, split: str) -> list[Instance]:
        return [Instance(str(i % SYMBOLS), str(i % SYMBOLS), self.name, f"{split}-{i}") for i in range(self.size)]


def partner(symbol: int) -> int:
    return 2 + SYMBOLS + (symbol + 1) % SYMBOLS


def save_toy_model(folder: Path, *, seed: int = 0, tied: bool = True, heads: int = 2, kv_heads: int = 1) -> Path:
    """A random Qwen3-architecture model of a few thousand parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=END,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def toy_engine(model_dir: Path, slots: int, kind: type[TransformersEngine] = TransformersEngine) -> TransformersEngine:
    model = Qwen3ForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    return kind(model, ToyRenderer(), slots=slots, context=32, prefill_chunk=8)


async def toy_rollout(engine: Engine, instance: Instance, *, seed: int, sample: int) -> Trajectory:
    symbol, right = int(instance.prompt), 0
    trajectory = Trajectory(instance.task, instance.id, sample, "toy")
    for turn in range(TURNS):
        shown = (symbol + turn) % SYMBOLS
        trajectory.append([0, 2 + shown], sampled=False)
        start = len(trajectory.token_ids)
        sampling = Sampling(1.0, 1.0, TOKENS, (), rollout_seed(seed, turn))
        key = f"{instance.id}/{sample}/{seed}"
        reply = await engine.generate(trajectory.token_ids.tolist(), sampling, session=key)
        trajectory.append(reply.ids, sampled=True, logprobs=reply.logprobs, policy_versions=reply.policy_versions)
        trajectory.turns.append(Turn(start, len(trajectory.token_ids), "none", ""))
        right += reply.ids[0] == partner(shown)
    await engine.release(key)
    trajectory.correctness, trajectory.format, trajectory.ending = right / TURNS, 1.0, "solved"
    trajectory.total = trajectory.correctness + trajectory.format
    return trajectory


@contextlib.asynccontextmanager
async def toy_world(spec: WorkerSpec, kind: type[TransformersEngine] = TransformersEngine) -> AsyncIterator[World]:
    async with world_around(toy_engine(spec.model_dir, spec.config.engine.slots, kind), spec) as world:
        yield world


@contextlib.asynccontextmanager
async def world_around(engine: Engine, spec: WorkerSpec) -> AsyncIterator[World]:
    async def run_member(ticket: Ticket) -> Trajectory:
        seed = rollout_seed(spec.config.seed, ticket.group, ticket.sample)
        return await toy_rollout(engine, ticket.instance, seed=seed, sample=ticket.sample)

    try:
        yield World(engine, run_member, PROBE)
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def dying_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Like `toy_world`, but the process vanishes in the ninth group."""
    async with toy_world(spec) as world:

        async def run_member(ticket: Ticket) -> Trajectory:
            if ticket.group >= 8:
                os._exit(9)
            return await world.run_member(ticket)

        yield World(world.engine, run_member, PROBE)


@contextlib.asynccontextmanager
async def broken_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Like `toy_world`, but rollouts have a programming error."""
    async with toy_world(spec) as world:

        async def run_member(ticket: Ticket) -> Trajectory:
            raise ZeroDivisionError("in a rollout")

        yield World(world.engine, run_member)


class DeafEngine(TransformersEngine):
    """Takes a new version's name, and goes on with the weights that it has."""

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        await super().load_weights(version, self.model.state_dict())


@contextlib.asynccontextmanager
async def deaf_world(spec: WorkerSpec) -> AsyncIterator[World]:
    """Like `toy_world`, but no weights that the learner sends are ever taken."""
    async with toy_world(spec, DeafEngine) as world:
        yield world
