"""One trajectory, or a few, shown in a notebook: static HTML without a script, so that a stored notebook keeps it.

Trajectories on the same question stand beside each other. Everything that a model, a tool or a task wrote is escaped.
What is long is cut, and says so: a stored notebook stays small whatever the model's context; the page has everything.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.agent.rollout import cut_observation
from biomni_lib.errors import DataError
from biomni_lib.figures.style import look, words
from biomni_lib.sandbox.languages import split_language
from biomni_lib.tasks import Instance
from biomni_lib.viewer.page import template
from biomni_lib.viewer.records import Entry, record, row

SHOWN_MAX = 8
"""More trajectories than this belong into the page, which lists them."""
PIECE_CHARS = 1500
"""Characters shown of a question, a thought, a block of code, an observation or an answer: its head and its tail."""
TURNS_SHOWN = 8
"""Turns shown of a conversation: the first half and the last half of so many."""
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Control characters, those without width, and those that turn the reading direction."""
LABELS = {"think": "Thinks", "execute": "Runs", "solution": "Answers", "text": "Writes"}
LEXERS = {"": "python", "#!BASH": "bash", "#!R": "r"}


@dataclass(frozen=True)
class Conversations:
    """What a notebook shows: HTML where it can, else the turns as plain text."""

    trajectories: Sequence[Trajectory]
    questions: dict[tuple[str, str], Instance] = field(repr=False)

    def _repr_html_(self) -> str:
        boxes = "".join(_question(group, self.questions) for group in _by_question(self.trajectories))
        return f'<div class="biomni-trajectories"><style>{template("notebook.css")}</style>{boxes}</div>'

    def __repr__(self) -> str:
        return "\n\n".join(_plain(trajectory) for trajectory in self.trajectories)


def show(trajectories: Trajectory | Iterable[Trajectory], instances: Iterable[Instance] = ()) -> Conversations:
    """Conversations for the last line of a notebook's cell.

    Args:
        trajectories: one, or at most `SHOWN_MAX`; those on the same question are shown beside each other.
        instances: where the questions and the right answers are looked up.
    Raises: DataError when there is none, or more than a notebook should hold.
    """
    chosen = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    if not chosen:
        raise DataError("show: no trajectory was given; the choice before it left none")
    if len(chosen) > SHOWN_MAX:
        raise DataError(
            f"show: {len(chosen)} trajectories, at most {SHOWN_MAX} in a notebook; choose some, or `make viewer`"
        )
    return Conversations(chosen, {(instance.task, instance.id): instance for instance in instances})


def escape(text: str) -> str:
    """Text as HTML that shows it and does nothing: markup escaped, hidden characters as their numbers."""
    return HIDDEN.sub(lambda found: f"<mark>U+{ord(found[0]):04X}</mark>", html.escape(text))


def _by_question(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    groups: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault((trajectory.task, trajectory.instance_id), []).append(trajectory)
    return list(groups.values())


def _question(group: Sequence[Trajectory], questions: dict[tuple[str, str], Instance]) -> str:
    first = group[0]
    instance = questions.get((first.task, first.instance_id))
    asked = _text(instance.prompt) if instance else ""
    columns = "".join(_conversation(trajectory, instance) for trajectory in group)
    title = f"<h4>{escape(words(first.task))} · {escape(first.instance_id)}</h4>"
    return f'<section>{title}{asked}<div class="columns">{columns}</div></section>'


def _conversation(trajectory: Trajectory, instance: Instance | None) -> str:
    facts, shown, name = row(Entry(trajectory, "notebook")), record(Entry(trajectory, "notebook")), trajectory.model
    told = [f"{facts[key]} {key}" for key in ("tokens", "turns")]
    told += [f"{key} {facts[key]:g}" for key in ("correctness", "format", "reward") if facts[key] is not None]
    told += [trajectory.ending.replace("_", " "), f"{facts['seconds']:.1f} s"]
    title = look(name).label if name else "Trajectory"
    head = f"<h5>{escape(title)}</h5><p>{escape(' · '.join(filter(None, told)))}</p>"
    turns = "".join(_some([_turn(turn, number) for number, turn in enumerate(shown["turns"], 1)], "<p>{}</p>"))
    wanted = _part("Wanted", _code(instance.gold, "json")) if instance else ""
    return f"<div>{head}{turns}{wanted}</div>"


def _turn(turn: dict[str, Any], number: int) -> str:
    generated, _, ran = turn["seconds"]
    told = [f"Turn {number}", f"{turn['written']} tokens", f"{generated:.1f} s"]
    told += [f"policy {'–'.join(str(v) for v in sorted(set(turn['versions'])))}"] if "versions" in turn else []
    parts = [f"<h6>{' · '.join(told)}</h6>", *(_piece(kind, text) for kind, text in turn["pieces"] if text.strip())]
    if "code" in turn:
        parts.append(_part("Ran", _script(turn["code"])))
    if "observation" in turn:
        parts.append(_part(f"Sees, after {ran:.2g} s", _text(turn["observation"])))
    return "".join(parts)


def _piece(kind: str, text: str) -> str:
    text = text.strip("\n")
    if kind == "execute":
        return _part(LABELS[kind], _script(text))
    return _part(LABELS[kind], _code(text, "json") if kind == "solution" else _text(text))


def _part(label: str, body: str) -> str:
    return f"<p class='label'>{escape(label)}</p>{body}"


def _text(text: str) -> str:
    return f"<pre>{escape(cut_observation(text, PIECE_CHARS))}</pre>"


def _some(turns: Sequence[str], form: str = "{}") -> list[str]:
    """Turns, or the first and the last of many with a word on those between."""
    if len(turns) <= TURNS_SHOWN:
        return list(turns)
    half = TURNS_SHOWN // 2
    left_out = form.format(f"[{len(turns) - 2 * half} turns left out; the page of make viewer has them]")
    return [*turns[:half], left_out, *turns[-half:]]


def _script(code: str) -> str:
    return _code(code, LEXERS[split_language(code)[0]])


def _code(text: str, language: str) -> str:
    """Highlighted text; Pygments escapes markup, hidden characters are marked afterwards."""
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    coloured = highlight(cut_observation(text, PIECE_CHARS), lexer, HtmlFormatter(nowrap=True, classprefix="b-"))
    return f"<pre class='code'>{HIDDEN.sub(lambda found: f'<mark>U+{ord(found[0]):04X}</mark>', coloured)}</pre>"


def _plain(trajectory: Trajectory) -> str:
    name = f"{trajectory.model or 'trajectory'} on {trajectory.instance_id}, {trajectory.ending}"
    pieces = [
        [cut_observation(text, PIECE_CHARS) for text in (turn.text, turn.observation)] for turn in trajectory.turns
    ]
    said = _some(["\n".join(both).strip() for both in pieces])
    return HIDDEN.sub(lambda found: f"U+{ord(found[0]):04X}", "\n\n".join([name, *said]))
