"""What the agent sees of one block of code."""

from dataclasses import dataclass

from biomni_lib.sandbox.output import cut_middle


@dataclass(frozen=True)
class Observation:
    """The outcome of one block.

    Attributes:
        text: what was printed, the last expression's value, a traceback; within the sandbox's `output_chars`.
        ok: False after an exception, an interrupt, or the end of the interpreter.
        seconds: wall time of the block, start of a session not included.
        truncated: whether text was cut in the middle; the cut is stated in it.
    """

    text: str
    ok: bool
    seconds: float
    truncated: bool


def clean_text(text: str, limit: int) -> tuple[str, bool]:
    """Text from an untrusted process as valid Unicode within `limit` characters, and whether it was cut."""
    return cut_middle(text.encode("utf-8", "replace").decode("utf-8"), limit)
