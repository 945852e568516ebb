"""What the viewer shows of a trajectory: a row for the list, and a record for the conversation. Both are JSON-ready."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.errors import DataError

NAN = float("nan")
ANSWER_CHARS = 100
"""What the list's row keeps of an answer, to be searched without opening the conversation."""
_BLOCK = re.compile(r"<(think|execute|solution)>(.*?)</\1>", re.DOTALL)
_DIGITS = re.compile(r"(\d+)")
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Entry:
    """A trajectory, and where it was recorded.

    `source` is the part of the run, such as evaluate/rl, length/turns-1/rl, sft/teacher or rl/step-00029. `score` is
    the benchmark's grade where a row recorded it. `accepted` says of a teacher's trajectory whether SFT learned from
    it, None of others.
    """

    trajectory: Trajectory
    source: str
    score: float = NAN
    accepted: bool | None = None

    @property
    def id(self) -> str:
        """SOURCE/TASK/INSTANCE/SAMPLE: how a link names it."""
        t = self.trajectory
        return f"{self.source}/{t.task}/{t.instance_id}/{t.sample}"

    @property
    def step(self) -> int | None:
        """The step of RL that learned from it, None elsewhere."""
        found = _STEP.search(self.source)
        return int(found[1]) if found else None


def select(
    entries: Sequence[Entry], *, sources: Iterable[str] = (), tasks: Iterable[str] = (), models: Iterable[str] = ()
) -> list[Entry]:
    """The entries of some sources, tasks and models; all where none is named.

    Args:
        sources: evaluate, length, models, sft or rl, or a whole one such as evaluate/rl.
    Raises: DataError that names what no entry has, and what there is; or that the choice together leaves nothing.
    """
    wanted = {"source": set(sources), "task": set(tasks), "model": set(models)}
    for what, names in wanted.items():
        there = {name for entry in entries for name in _names(entry)[what]}
        if lacking := sorted(names - there):
            known = ", ".join(sorted(there)) or "none"
            raise DataError(f"{what} = {lacking[0]!r}: no recorded trajectory has it; there are: {known}")
    kept = [e for e in entries if all(not names or names & _names(e)[what] for what, names in wanted.items())]
    if not kept:
        told = ", ".join(f"{what} {' or '.join(sorted(names))}" for what, names in wanted.items() if names)
        raise DataError(f"no recorded trajectory is of {told or 'this run'}; leave one of them out")
    return kept


def segments(text: str) -> list[list[str]]:
    """A turn's text in pieces, in order: [kind, content], kind being think, execute, solution or text.

    Tags that do not close stay in the text around them, so that the pieces with their tags give the text again.
    """
    pieces, end = [], 0
    for block in _BLOCK.finditer(text):
        pieces += [["text", text[end : block.start()]], [block[1], block[2]]]
        end = block.end()
    pieces.append(["text", text[end:]])
    return [piece for piece in pieces if piece[0] != "text" or piece[1]]


def row(entry: Entry) -> dict[str, Any]:
    """What the list shows, sorts and filters by; numbers that are not known are None."""
    t = entry.trajectory
    return {
        "id": entry.id,
        "source": entry.source,
        "task": t.task,
        "instance": t.instance_id,
        "sample": t.sample,
        "model": t.model,
        "strategy": t.strategy,
        "ending": t.ending,
        "score": number(entry.score),
        "correctness": number(t.correctness),
        "format": number(t.format),
        "reward": number(t.total),
        "tokens": t.response_tokens,
        "context": len(t.token_ids),
        "turns": len(t.turns),
        "calls": t.tool_calls,
        "seconds": number(sum(spent for turn in t.turns for spent in seconds(turn)), 3),
        "accepted": entry.accepted,
        "step": entry.step,
        "answer": (t.answer or "")[:ANSWER_CHARS],
    }


def record(entry: Entry) -> dict[str, Any]:
    """What a conversation shows beside its row: the whole answer, and each turn."""
    t = entry.trajectory
    starts = [turn.start for turn in t.turns]
    before = [0, *(turn.end for turn in t.turns)]
    return {
        "answer": t.answer,
        "prompt": starts[0] if starts else len(t.token_ids),
        "turns": [_turn(t, turn, start - end) for turn, start, end in zip(t.turns, starts, before, strict=False)],
    }


def seconds(turn: Turn) -> tuple[float, float, float]:
    """Seconds of generating, of waiting for the sandbox, and in the tool."""
    return turn.generate_s, turn.queue_s + turn.start_s, turn.tool_s


def number(value: float, digits: int = 6) -> float | None:
    """A number that JSON can hold; None for NaN and infinities."""
    return round(float(value), digits) if math.isfinite(value) else None


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key in which 9 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(text)]


def _turn(trajectory: Trajectory, turn: Turn, read: int) -> dict[str, Any]:
    pieces = segments(turn.text)
    blocks = [content.strip() for kind, content in pieces if kind == "execute"]
    versions = trajectory.policy_versions[turn.start : turn.end]
    known = versions[versions >= 0]
    logprobs = trajectory.logprobs[turn.start : turn.end]
    sampled = logprobs[np.isfinite(logprobs)]
    made: dict[str, Any] = {
        "pieces": pieces,
        "read": read,
        "written": turn.end - turn.start,
        "seconds": [number(spent, 4) for spent in seconds(turn)],
    }
    if turn.kind == "execute" and turn.end < len(trajectory.token_ids):
        made["observation"] = turn.observation
    if turn.code and blocks[:1] != [turn.code]:
        made["code"] = turn.code
    if len(known):
        made["versions"] = [int(known.min()), int(known.max())]
    if len(sampled):
        made["logprob"] = number(sampled.mean(dtype=np.float64))
    return made


def _names(entry: Entry) -> dict[str, set[str]]:
    return {
        "source": {entry.source, entry.source.partition("/")[0]},
        "task": {entry.trajectory.task},
        "model": {entry.trajectory.model},
    }
