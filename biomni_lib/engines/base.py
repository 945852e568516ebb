"""The contract of whatever generates tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from biomni_lib.errors import EngineError, EngineLostError

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "eos", "length"]
KvOnUpdate = Literal["keep", "recompute"]
Shapes = Mapping[str, Sequence[int]]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to sample one completion.

    `temperature` 0 is greedy; `stop` strings end a completion and are kept in it; `seed` makes the draw repeatable
    whatever else the engine is doing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: EngineError for a value out of range."""
        rules = {
            "temperature": (0 <= self.temperature < float("inf"), "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "stop": (all(self.stop), "without an empty string"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise EngineError(f"sampling.{name} = {getattr(self, name)!r}: must be {rule}")


@dataclasses.dataclass(frozen=True)
class Completion:
    """Sampled tokens: `ids`, `logprobs` (after temperature, before top-p) and `policy_versions` have shape (n,).

    `finish_reason`: stop (a stop string), eos (the end-of-turn token), length (`max_tokens` or the context).
    Engines without token ids leave `ids` empty and set `text`, which the rollout encodes once. `usd`: what it cost.
    """

    ids: Sequence[int]
    logprobs: Sequence[float] | None
    policy_versions: Sequence[int] | None
    finish_reason: FinishReason
    text: str | None = None
    usd: float = 0.0


@dataclasses.dataclass
class EngineStats:
    """Counters since the start: tokens generated, prefilled and copied from a prompt prefilled before; decoding steps
    and swaps of weights; tokens prefilled again for new weights; seconds of each and without work; actors of the engine
    that were lost.
    """

    generated_tokens: int = 0
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    decode_steps: int = 0
    swaps: int = 0
    decode_s: float = 0.0
    prefill_s: float = 0.0
    swap_s: float = 0.0
    recompute_s: float = 0.0
    idle_s: float = 0.0
    lost: int = 0


def check_prompt(prompt_ids: Sequence[int], *, context: int, vocabulary: int) -> None:
    """Refuse a prompt that leaves no room for a token, or is none.

    Args:
        context: longest sequence of the engine, in tokens. vocabulary: ids that the model has embeddings for.
    Raises: EngineError.
    """
    if not 0 < len(prompt_ids) < context:
        raise EngineError(
            f"prompt of {len(prompt_ids)} tokens does not fit the engine's context of {context};"
            " raise model.context or lower agent.max_tokens"
        )
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocabulary:
        raise EngineError(f"prompt holds a token id outside the model's {vocabulary}; use the model's own tokenizer")


def check_weights(version: int, own: Shapes, given: Shapes, *, tied: Collection[str] = (), kept: int) -> None:
    """Refuse weights that are not the model's.

    Args:
        own, given: shape of each tensor by name. tied: names that may be missing, as other names share their tensors.
        kept: the version that the engine goes on with.
    Raises: EngineError.
    """
    wrong = sorted(own.keys() - given.keys() - set(tied)) + sorted(given.keys() - own.keys())
    wrong += [name for name in own.keys() & given.keys() if tuple(own[name]) != tuple(given[name])]
    if wrong:
        raise EngineError(
            f"weights of version {version} are not this model's: {len(wrong)} missing, unknown or of another shape,"
            f" such as {wrong[0]}; the engine keeps version {kept}"
        )


class Engine(Protocol):
    """Something that continues a prompt of token ids."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """Continue the prompt. Calls with the same `session` extend one conversation and may reuse its KV cache.

        Cancelling the call frees its place in the batch. Raises: EngineError when the prompt does not fit.
        """

    async def release(self, session: str) -> None:
        """The conversation is over: its cached state may go."""

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """Swap the weights between two decoding steps; requests under way go on with the new ones."""

    def stats(self) -> EngineStats:
        """A copy of the counters. Raises: EngineDiedError when the engine's own process has ended."""

    async def close(self) -> None:
        """Stop generating and free everything."""


async def over_losses(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call again whenever the engine that it was with is lost; one that goes on being lost raises RunError."""
    while True:
        try:
            return await call()
        except EngineLostError:
            continue


def each_engine(engine: Engine) -> Sequence[Engine]:
    """The engines behind one, or itself."""
    engines: Sequence[Engine] = getattr(engine, "engines", (engine,))
    return engines
