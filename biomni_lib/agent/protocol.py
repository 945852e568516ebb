"""The agent's tags: how an assistant turn is read, and when it is well-formed.

Each turn reasons in <think>…</think>, then runs code in <execute>…</execute> or ends with <solution>…</solution>;
the environment answers in <observation>…</observation>. Source: the Biomni-R0 training code (rules, not text).
"""

from __future__ import annotations

import dataclasses
import re

from biomni_lib.agent.ledger import TurnKind

TAGS = tuple(f"<{slash}{name}>" for name in ("think", "execute", "solution", "observation") for slash in ("", "/"))
STOPS = ("</execute>", "</solution>")
_TAG = re.compile(r"<(/?)(think|execute|solution)>")


@dataclasses.dataclass(frozen=True)
class ParsedTurn:
    """What a turn asks for. `kind` none: no complete block; `content`: the code or the answer."""

    kind: TurnKind
    content: str


def parse_turn(text: str) -> ParsedTurn:
    """Read an assistant turn: the first closing stop tag decides; text behind it is ignored.

    A turn without a complete execute or solution block has kind `none`.
    """
    ends = [(position, tag) for tag in STOPS if (position := text.find(tag)) >= 0]
    if not ends:
        return ParsedTurn("none", "")
    end, tag = min(ends)
    name = tag[2:-1]
    start = text.rfind(f"<{name}>", 0, end)
    if start < 0:
        return ParsedTurn("none", "")
    return ParsedTurn("execute" if name == "execute" else "solution", text[start + len(name) + 2 : end].strip())


def turn_is_well_formed(text: str, *, last: bool) -> bool:
    """True for exactly one think block followed by exactly one block: solution in the last turn, execute before it."""
    block = "solution" if last else "execute"
    tags = [match.group() for match in _TAG.finditer(text)]
    return tags == ["<think>", "</think>", f"<{block}>", f"</{block}>"]
