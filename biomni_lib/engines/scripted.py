"""Seeded policies written as programs: the CPU stand-in for a frontier teacher, and a source of planned misbehaviour.

A script sees what a model would see, the text of the conversation so far, and nothing else. It yields text, which the
rollout encodes once; there are no log-probabilities, so scripts serve SFT and evaluation, never RL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.engines.base import Completion, EngineStats, Sampling
from biomni_lib.errors import EngineError


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What a script sees: the task's prompt, its own turns, and the observations, oldest first."""

    prompt: str
    turns: tuple[str, ...]
    observations: tuple[str, ...]


Script = Callable[[Conversation, np.random.Generator], str]
"""From the conversation and a generator, the same at every turn of a session, to the next assistant turn."""


class ScriptedEngine:
    """An `Engine` whose every conversation follows a script.

    Args:
        script: the policy. renderer: reads the conversation back from token ids.
    """

    def __init__(self, script: Script, renderer: ChatRenderer) -> None:
        self.script, self.renderer = script, renderer
        self._seeds: dict[str, int] = {}
        self._stats = EngineStats()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """The script's next turn; its generator is seeded by the session's first call."""
        seed = self._seeds.setdefault(session, sampling.seed) if session else sampling.seed
        text = self.script(read_conversation(self.renderer.messages(prompt_ids)), np.random.default_rng(seed))
        return Completion([], None, None, "stop", text)

    async def release(self, session: str) -> None:
        """Forget the session."""
        self._seeds.pop(session, None)

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """Raises: EngineError; a script has no weights."""
        raise EngineError("a scripted engine has no weights to load; use it for SFT data and evaluation only")

    def stats(self) -> EngineStats:
        """All zero: a script samples no tokens."""
        return self._stats

    async def close(self) -> None:
        """Nothing to free."""


def read_conversation(messages: Sequence[tuple[str, str]]) -> Conversation:
    """Sort the messages of a conversation, as (role, content), oldest first."""
    user = [content for role, content in messages if role == "user"]
    turns = tuple(content for role, content in messages if role == "assistant" and content)
    observations = tuple(
        content.removeprefix("<observation>\n").removesuffix("\n</observation>") for content in user[1:]
    )
    return Conversation(user[0], turns, observations)
