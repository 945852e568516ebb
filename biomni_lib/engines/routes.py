"""Which of several engines a request goes to: decisions only, no I/O.

A conversation stays with its engine, which holds its KV cache. A new one goes to the engine that has read its prompt
before (the other samples of a group have the same), unless that is full; else to the one with the fewest. Where an
engine is not ready, its conversations go on elsewhere and are read anew.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Hashable, Sequence

PROMPTS_KEPT = 4096


class Routes:
    """Conversations by engine.

    Args:
        engines: how many. room: conversations of one engine beyond which its prompts draw no others to it.
    """

    def __init__(self, engines: int, room: int) -> None:
        self.loads = [0] * engines
        self._room = room
        self._engine_of: dict[Hashable, int] = {}
        self._readers: collections.OrderedDict[tuple[int, ...], int] = collections.OrderedDict()

    def enter(self, conversation: Hashable, prompt: Sequence[int], ready: Collection[int]) -> int:
        """The engine for a request.

        Args:
            ready: engines that can take it at once; when there are none, it waits for one of them all.
        Returns: its number, from 0. The conversation counts there until it leaves.
        """
        among, key = ready or range(len(self.loads)), tuple(prompt)
        if (own := self._engine_of.get(conversation)) in among and own is not None:
            return own
        self.leave(conversation)
        engine = min(among, key=lambda number: (self.loads[number], number))
        reader = self._readers.get(key)
        if reader is not None and reader in among and self.loads[reader] < self._room:
            engine = reader
        self._engine_of[conversation] = engine
        self.loads[engine] += 1
        self._readers[key] = engine
        self._readers.move_to_end(key)
        if len(self._readers) > PROMPTS_KEPT:
            self._readers.popitem(last=False)
        return engine

    def leave(self, conversation: Hashable) -> int | None:
        """A conversation is over. Returns: the engine that it was with, if any."""
        engine = self._engine_of.pop(conversation, None)
        if engine is not None:
            self.loads[engine] -= 1
        return engine

    def forget_prompts(self) -> None:
        """New weights have come: what was read by older ones is of no use to others."""
        self._readers.clear()
