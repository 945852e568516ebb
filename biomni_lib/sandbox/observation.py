"""What the agent sees of one block of code, and where the block's time went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from biomni_lib.sandbox.output import cut_middle


@dataclass(frozen=True)
class Observation:
    """The outcome of one block.

    Attributes:
        text: what was printed, the last expression's value, a traceback; within the sandbox's `output_chars`.
        ok: False after an exception, an interrupt, or the end of the interpreter.
        seconds: wall time of the block, neither queue nor start included.
        truncated: whether text was cut in the middle; the cut is stated in it.
        queue_s: seconds that the call waited for a session's place and for one of its class.
        start_s: seconds that a session's process took to start; 0 when it was running.
    """

    text: str
    ok: bool
    seconds: float
    truncated: bool
    queue_s: float = 0.0
    start_s: float = 0.0


@dataclass
class Latency:
    """Where one call's time goes, in seconds, counted while it is under way."""

    queue_s: float = 0.0
    start_s: float = 0.0
    run_s: float = 0.0

    @contextmanager
    def counted(self, part: Literal["queue_s", "start_s", "run_s"]) -> Iterator[None]:
        """Count the time in the block as one part."""
        began = time.monotonic()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.monotonic() - began)


def clean_text(text: str, limit: int) -> tuple[str, bool]:
    """Text from an untrusted process as valid Unicode within `limit` characters, and whether it was cut."""
    return cut_middle(text.encode("utf-8", "replace").decode("utf-8"), limit)
