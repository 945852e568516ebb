"""Places for blocks: how many of each class run at once, so that heavy ones cannot starve light ones.

A block's class is what its first line declares. The time limit of a block starts when it has its place; what it waited
is in its `Latency`. A session is opened before its block queues here: the other order could wait for itself.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

from biomni_lib.sandbox.languages import split_language
from biomni_lib.sandbox.observation import Latency

ToolClass = Literal["python", "shell"]


def tool_class(code: str) -> ToolClass:
    """The class that a block's first line declares."""
    return "shell" if split_language(code)[0] else "python"


class Places:
    """First come, first served within each class.

    Args:
        at_once: blocks of each class that may run at the same time.
    """

    def __init__(self, at_once: Mapping[ToolClass, int]) -> None:
        self._free = {name: asyncio.Semaphore(count) for name, count in at_once.items()}

    @asynccontextmanager
    async def take(self, code: str, latency: Latency) -> AsyncIterator[None]:
        """Hold a place of the block's class; waiting for it counts as queueing."""
        free = self._free[tool_class(code)]
        with latency.counted("queue_s"):
            await free.acquire()
        try:
            yield
        finally:
            free.release()
