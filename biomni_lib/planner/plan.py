"""The plan of a preset: what each card has to hold, whether it fits, and what the run takes.

Trained weights, their gradients and the optimizer are kept in float32; over several ranks they are shared out evenly
(FSDP2), and a rank gathers two layers and the embeddings at a time; what it keeps may rest in the host's memory
(`placement.learner_offload`). Of a row's activations a rank has its slice (`placement.context_parallel`). Serving is
planned for the longest trajectory at least: how many run at once is then a matter of speed. Two reserves stand for what
no formula here covers.
"""

from __future__ import annotations

import dataclasses
import math

from biomni_lib.config import RlConfig, RunConfig, SftConfig
from biomni_lib.planner import memory, work
from biomni_lib.planner.cards import GIB, Card
from biomni_lib.planner.shapes import Shape, shape_of

CARD_RESERVE = 1.5 * GIB
"""CUDA's context, libraries, and what the allocator loses between blocks; assumed."""
ENGINE_RESERVE = 2.5 * GIB
"""vLLM's workspace, its CUDA graphs and the logits of its sampler; assumed."""
USABLE = 0.95
"""Share of a card's memory that is planned with."""
LENGTH_SHARE, WRITTEN_SHARE = 0.25, 0.5
"""Assumed: a trajectory's mean length as a share of agent.max_tokens, and the part of it that the model writes."""
EVALUATED_MODELS = 3
"""The untrained model, the fine-tuned one and the reinforced one."""
BUDGETED_MODELS = 2
"""The fine-tuned model and the reinforced one answer under every budget."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Tokens of one stage: trajectories, and their mean length and written part."""

    trajectories: int
    length: float
    written_share: float

    @property
    def tokens(self) -> float:
        return self.trajectories * self.length

    @property
    def written(self) -> float:
        return self.tokens * self.written_share


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage takes: tokens, hours by the clock, hours of all cards together."""

    name: str
    tokens: float
    hours: float
    gpu_hours: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes of one learner's card and one engine's card by what they are for, of the host, and what follows.

    `kv` is the KV cache of one trajectory of the full context, which an engine's card holds a share of;
    `offloaded` what all ranks together keep in the host's memory.
    """

    config: RunConfig
    shape: Shape
    learner: dict[str, float]
    engine: dict[str, float]
    kv: float
    sandbox: float
    traffic: dict[str, Traffic]
    offloaded: float = 0.0

    @property
    def cards_needed(self) -> int:
        """Cards that the placement asks for."""
        placed = self.config.placement
        serving, learning = placed.engines * placed.tensor_parallel, placed.learner_ranks
        return serving + learning if placed.share == "apart" else max(serving, learning)

    @property
    def kv_share(self) -> float:
        """Of the KV cache, what one card of an engine holds."""
        return 1 / self.config.placement.tensor_parallel

    def least(self, share: str) -> float:
        """What the fullest card must hold at least, one full trajectory in each engine, for a way to share cards."""
        learner, engine = sum(self.learner.values()), sum(self.engine.values())
        engine += self.kv * self.kv_share
        resting = sum(self.learner[part] for part in _RESTING if part in self.learner)
        shared = {"apart": max(learner, engine), "together": learner + engine, "turns": max(learner, resting + engine)}
        return shared[share] + CARD_RESERVE

    def fits(self, card: Card, count: int) -> bool:
        """Whether the placement fits on so many of such cards."""
        return count >= self.cards_needed and self.least(self.config.placement.share) <= USABLE * card.memory

    def kv_room(self, card: Card) -> float:
        """Bytes for KV caches on one card of an engine, the learner's share and the reserves taken off."""
        whole = dataclasses.replace(self, kv=0.0)
        if self.config.placement.share == "turns":
            whole = dataclasses.replace(whole, learner={k: v for k, v in self.learner.items() if k in _RESTING})
        elif self.config.placement.share == "apart":
            whole = dataclasses.replace(whole, learner={})
        taken = sum(whole.learner.values()) + sum(whole.engine.values()) + CARD_RESERVE
        return max(0.0, USABLE * card.memory - taken)

    def at_once(self, card: Card) -> float:
        """Trajectories of mean length that an engine decodes at once: bounded by its memory, its slots, the agents."""
        room = self.kv_room(card) / self.kv_share / memory.kv_bytes_a_token(self.shape, _size(self.config))
        placed, mean = self.config.placement, self.traffic["rl"].length
        return max(1.0, min(room / mean, self.config.engine.slots, self.config.agents / placed.engines))

    def stages(self, card: Card) -> list[Stage]:
        """Tokens and hours of the stages, on cards that this placement fits on."""
        return [self._sft(card), self._rl(card), self._asked(card, "evaluate"), self._asked(card, "length")]

    def _sft(self, card: Card) -> Stage:
        sft, ranks = self.traffic["sft"], self.config.placement.learner_ranks
        hours = work.learning_seconds(self._training_flops(sft, self.config.sft), card, ranks) / 3600
        return Stage("sft", sft.tokens, hours, hours * ranks)

    def _rl(self, card: Card) -> Stage:
        rl, placed = self.traffic["rl"], self.config.placement
        generating = self._serving_seconds(card, rl)
        learning = work.learning_seconds(self._training_flops(rl, self.config.rl), card, placed.learner_ranks)
        both = max(generating, learning) if placed.share == "apart" else generating + learning
        return Stage("rl", rl.tokens, both / 3600, both / 3600 * self.cards_needed)

    def _asked(self, card: Card, name: str) -> Stage:
        asked, placed = self.traffic[name], self.config.placement
        hours = self._serving_seconds(card, asked) / 3600
        return Stage(name, asked.tokens, hours, hours * placed.engines * placed.tensor_parallel)

    def _serving_seconds(self, card: Card, asked: Traffic) -> float:
        placed = self.config.placement
        serving = work.Serving(placed.engines, placed.tensor_parallel, self.at_once(card), asked.length)
        size = _size(self.config)
        return serving.seconds(self.shape, card, size, read=asked.tokens - asked.written, written=asked.written)

    def _training_flops(self, trained: Traffic, settings: SftConfig | RlConfig) -> float:
        return work.training_flops(
            self.shape,
            trained.tokens,
            trained.length,
            trained.written,
            settings.lora_rank,
            checkpointing=settings.gradient_checkpointing,
        )


_RESTING = ("weights", "gradients", "optimizer")
"""What of the learner stays on a card while its engine works; gradients are counted though they may be let go."""


def make_plan(
    config: RunConfig, *, mean_tokens: float | None = None, written_share: float | None = None, logits_max: int
) -> Plan:
    """The plan of a run's settings.

    Args:
        mean_tokens: of a trajectory; a quarter of agent.max_tokens when not given. written_share: what of it the model
            writes; half when not given. logits_max: values of logits that the learner holds at once.
    Raises: ConfigError for a model whose shape is not known, or whose heads the ranks cannot share.
    """
    shape = shape_of(config)
    config.placement.check_heads(shape.heads, shape.kv_heads)
    mean = mean_tokens or LENGTH_SHARE * config.agent.max_tokens
    learner, offloaded = _learner(config, shape, logits_max), 0.0
    if config.placement.learner_offload:
        offloaded = config.placement.learner_ranks * sum(learner.pop(part) for part in _RESTING)
    return Plan(
        config=config,
        shape=shape,
        learner=learner,
        engine=_engine(config, shape),
        kv=config.model.context * memory.kv_bytes_a_token(shape, _size(config)),
        sandbox=float(config.sandbox.sessions_max * config.sandbox.memory_mb * (1 << 20)),
        traffic=_traffic(config, mean, WRITTEN_SHARE if written_share is None else written_share),
        offloaded=offloaded,
    )


def _size(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def _learner(config: RunConfig, shape: Shape, logits_max: int) -> dict[str, float]:
    rl, placed, size = config.rl, config.placement, _size(config)
    rank, ranks = rl.lora_rank, placed.learner_ranks
    trained = shape.weights if rank is None else shape.adapter_weights(rank)
    weights = trained * memory.FLOAT32 + (0 if rank is None else shape.weights * size)
    tokens = math.ceil(max(rl.micro_batch_tokens, config.agent.max_tokens) / placed.context_parallel)
    read = dataclasses.replace(shape, kv_heads=max(shape.kv_heads, placed.context_parallel))  # fewer are repeated
    parts = {
        "weights": weights / ranks,
        "gathered": _gathered(shape, size, rank, ranks),
        "gradients": trained * memory.FLOAT32 / ranks,
        "optimizer": memory.optimizer_bytes(shape, trained, muon=rl.optimizer == "muon") / ranks,
        "activations": memory.activation_bytes(read, tokens, size, rank, checkpointing=rl.gradient_checkpointing)
        + memory.working_bytes(shape, tokens, size),
        "logits chunk": memory.logits_bytes(shape, tokens, logits_max),
    }
    return {name: float(value) for name, value in parts.items() if value}


def _gathered(shape: Shape, size: int, rank: int | None, ranks: int) -> float:
    """Weights in the forward pass's numbers beside those that are kept: of two layers when they are shared out."""
    if ranks > 1:
        return (2 * shape.layer_weights + shape.embedding_weights) * size
    return shape.weights * size if rank is None and size < memory.FLOAT32 else 0


def _engine(config: RunConfig, shape: Shape) -> dict[str, float]:
    parts = {"weights": shape.weights * _size(config) / config.placement.tensor_parallel}
    return parts | ({"reserve": ENGINE_RESERVE} if config.engine.kind == "vllm" else {})


def _traffic(config: RunConfig, length: float, written: float) -> dict[str, Traffic]:
    tasks, teacher, rl = len(config.data.tasks), config.teacher, config.rl
    sampled = tasks * teacher.instances * teacher.samples_per_instance
    kept = tasks * teacher.instances * teacher.cap_per_instance * config.sft.epochs
    trained = rl.steps * rl.groups_per_step * rl.group_size
    each = tasks * config.evaluate.samples
    asked = each * config.evaluate.instances * EVALUATED_MODELS
    doses = len(config.length.turns) + len(config.length.tokens)
    again = each * min(config.length.instances, config.evaluate.instances) * doses * BUDGETED_MODELS
    counts = {"teacher": sampled, "sft": kept, "rl": trained, "evaluate": asked, "length": again}
    return {name: Traffic(count, length, written) for name, count in counts.items()}
