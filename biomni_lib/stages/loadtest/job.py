"""The work that every client of a benchmark is given, and how it is asked to do it.

A client is a process that does the whole job for each line on its standard input and then prints one `Round`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class _Work:
    """What a client finds in a JSON file."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write to a JSON file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Job(_Work):
    """Rollouts to run at once, each `turns` long: their prompts, and the observation that follows every block."""

    prompts: list[str]
    system_prompt: str
    observation: str
    turns: int
    model_dir: str
    program_file: str


@dataclass(frozen=True)
class Batch(_Work):
    """One batch to train on again and again: `groups` trajectories after each other in `group_size` of one instance.

    A trajectory has `ids`, `prompt` (how many of them are its prompt), `mask` (1 where the model wrote, over all ids)
    and `reward`. `settings` are those of the run, as JSON; `rows` trajectories share a pass where they are padded.
    """

    model_dir: str
    settings: str
    group_size: int
    rows: int
    trajectories: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        """Tokens of all trajectories, prompts and observations included."""
        return sum(len(one["ids"]) for one in self.trajectories)


@dataclass(frozen=True)
class Round:
    """The job done once: how much (turns of rollouts, tokens of training), wall seconds and processor seconds."""

    done: int
    seconds: float
    cpu_s: float
