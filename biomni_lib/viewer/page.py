"""One HTML file with trajectories in it: no network, no file beside it, the same bytes for the same trajectories.

The list's columns and the conversations, in chunks, lie in the file as gzip in base64. The page decompresses the
columns when it opens and a chunk when one of its conversations is looked at. A content policy lets the page run its own
script and nothing else, and reach no address.
"""

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from biomni_lib.errors import DataError
from biomni_lib.tasks import Instance
from biomni_lib.viewer.looks import looks
from biomni_lib.viewer.records import Entry, natural, record, row

CHUNK = 64
"""Conversations that are compressed together: small enough to be opened in a few milliseconds."""
BYTES_MAX = 256 << 20
"""A larger file would be refused by some browsers, or open slowly."""
SCRIPTS = ("text.js", "highlight.js", "data.js", "filters.js", "list.js", "conversation.js", "app.js")
TEXT_COLUMNS = ("source", "task", "instance", "model", "strategy", "ending")
"""Columns whose few different values are stored once, and in each row by number."""

Questions = Mapping[tuple[str, str], Instance]
"""Instances by (task, id)."""


def render_page(
    entries: Sequence[Entry],
    questions: Questions,
    *,
    title: str,
    systems: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """The HTML of the viewer.

    Args:
        entries: what it shows.
        questions: what was asked, with the right answer; one that is not there is said to be unknown.
        title: of the page.
        systems: system prompt by task.
        about: what the page says of the run: `facts` (name to text) and `notes` (sentences).
    Raises: DataError when there are no entries, or too many for one file.
    """
    if not entries:
        raise DataError("viewer: no trajectory to show; choose some of a run that recorded them")
    shown = looks({entry.trajectory.model for entry in entries})
    story = list(shown)
    ordered = sorted(entries, key=lambda entry: _place(entry, story))
    asked = [(entry.trajectory.task, entry.trajectory.instance_id) for entry in ordered]
    numbers = {question: place for place, question in enumerate(dict.fromkeys(asked))}
    index = {
        "title": title,
        "chunk": CHUNK,
        "rows": _columns(ordered, [numbers[question] for question in asked]),
        "models": shown,
        "systems": dict(systems or {}),
        "about": dict(about or {}),
    }
    data = [_block("index", index)]
    size = len(data[0])
    for place, chunk in enumerate(_chunks(ordered, questions, numbers)):
        data.append(_block(f"chunk-{place}", chunk))
        size += len(data[-1])
        if size > BYTES_MAX:
            done = min((place + 1) * CHUNK, len(ordered))
            raise DataError(
                f"viewer: {size >> 20} MB after {done} of {len(ordered)} trajectories, {BYTES_MAX >> 20} MB is what a"
                " browser opens; choose fewer with --source, --task or --model"
            )
    style, script = template("page.css"), "\n".join(template(name) for name in SCRIPTS)
    parts = {
        "title": html.escape(title),
        "style_hash": _sha256(style),
        "script_hash": _sha256(script),
        "style": style,
        "script": script,
        "data": "\n".join(data),
    }
    return fill(template("page.html"), parts)


def fill(template: str, parts: Mapping[str, str]) -> str:
    """A template with each `{{ name }}` replaced once, in one pass: what is put in is not looked at again."""
    pieces = template.split("{{ ")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition(" }}")
        filled += [parts[name], rest]
    return "".join(filled)


def pack(value: Any) -> str:
    """A value as base64 of gzip of JSON: letters, digits, +, / and = only, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)).decode()


def unpack(text: str) -> Any:
    """The value that `pack` packed."""
    return json.loads(gzip.decompress(base64.b64decode(text)).decode("utf-8", "surrogatepass"))


def _place(entry: Entry, story: Sequence[str]) -> tuple[Any, ...]:
    """Question after question; of one question the evaluated first, model after model as the story goes."""
    t = entry.trajectory
    return t.task, natural(t.instance_id), entry.source.partition("/")[0], story.index(t.model), t.sample, entry.source


def _columns(entries: Sequence[Entry], asked: Sequence[int]) -> dict[str, Any]:
    rows = [row(entry) for entry in entries]
    seen: dict[str, int] = {}
    for one in rows:
        seen[one["id"]] = repeats = seen.get(one["id"], 0) + 1
        one["id"] += f"~{repeats}" if repeats > 1 else ""
    columns: dict[str, Any] = {name: [one[name] for one in rows] for name in rows[0]}
    for name in TEXT_COLUMNS:
        values = sorted(set(columns[name]))
        places = {value: place for place, value in enumerate(values)}
        columns[name] = {"values": values, "codes": [places[value] for value in columns[name]]}
    return columns | {"question": list(asked)}


def _chunks(
    entries: Sequence[Entry], questions: Questions, numbers: Mapping[tuple[str, str], int]
) -> Iterator[dict[str, Any]]:
    for first in range(0, len(entries), CHUNK):
        part = entries[first : first + CHUNK]
        asked = dict.fromkeys((entry.trajectory.task, entry.trajectory.instance_id) for entry in part)
        known = {numbers[key]: {"prompt": i.prompt, "gold": i.gold} for key in asked if (i := questions.get(key))}
        yield {"questions": known, "records": [record(entry) for entry in part]}


def _block(name: str, value: Any) -> str:
    return f'<script type="text/plain" id="{name}">{pack(value)}</script>'


def _sha256(text: str) -> str:
    """A content policy's name for an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def template(name: str) -> str:
    """A file of the page, by name."""
    return files("biomni_lib.viewer").joinpath("page", name).read_text(encoding="utf-8")
