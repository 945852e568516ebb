"""What an answer is made of, counted from its trajectory: thinking, evidence, verification, repetition.

Rules, which read code and not minds. A call is a call by name of a tool of the lake, in a block that was run and is
Python. An evidence step is a block with such a call. A verification is a later block that takes up a tool used before
and adds one that was not: earlier evidence seen again by other means. A repeated call is one with the very same source,
arguments included, as a call of an earlier block; names in it may stand for other values by then.
"""

import ast
import dataclasses
import itertools
import re

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.tools import DOMAINS, tool_names

FEATURES = ("thinking_tokens", "tool_calls", "evidence_steps", "verifications", "repeated_calls")
_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a tool in a block's code: the tool, and the call as it is written."""

    tool: str
    source: str


def tool_calls_in(code: str) -> list[Call]:
    """The calls of tools in a block, in the order of its text; none where it is not Python."""
    known = set(tool_names(DOMAINS))
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    called = [node for node in named if node.func.id in known]  # type: ignore[attr-defined]
    called.sort(key=lambda node: (node.lineno, node.col_offset))
    return [Call(node.func.id, ast.unparse(node)) for node in called]  # type: ignore[attr-defined]


def count_structure(turns: list[Turn], ending: str) -> dict[str, int]:
    """Evidence steps, verifications and repeated calls of a trajectory's turns.

    Args:
        ending: the trajectory's; the code of a last turn too many was not run.
    Returns: evidence_steps, verifications, repeated_calls.
    """
    blocks = [turn.code for turn in turns if turn.kind == "execute"]
    tools: set[str] = set()
    sources: set[str] = set()
    counts = dict.fromkeys(FEATURES[2:], 0)
    for code in blocks[:-1] if ending == "turn_limit" and blocks else blocks:
        calls = tool_calls_in(code)
        used = {call.tool for call in calls}
        counts["evidence_steps"] += bool(calls)
        counts["verifications"] += bool(used & tools and used - tools)
        counts["repeated_calls"] += sum(call.source in sources for call in calls)
        tools |= used
        sources |= {call.source for call in calls}
    return counts


def thinking_tokens(trajectory: Trajectory, renderer: ChatRenderer) -> int:
    """Tokens inside the think blocks, tags left out; one that never closes ends with its turn."""
    return sum(
        _inside([renderer.piece(int(token)) for token in trajectory.token_ids[turn.start : turn.end]])
        for turn in trajectory.turns
    )


def _inside(pieces: list[str]) -> int:
    starts = itertools.accumulate(map(len, pieces[:-1]), initial=0)
    spans = [block.span(1) for block in _THINK.finditer("".join(pieces))]
    return sum(any(low <= start < high for low, high in spans) for start in starts)
