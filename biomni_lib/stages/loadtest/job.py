"""The work that every client of the benchmark of rollouts is given, and how it is asked to do it.

A client is a process that does the whole job for each line on its standard input and then prints one `Round`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """Rollouts to run at once, each `turns` long: their prompts, and the observation that follows every block."""

    prompts: list[str]
    system_prompt: str
    observation: str
    turns: int
    model_dir: str
    program_file: str

    @classmethod
    def load(cls, path: Path) -> "Job":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write to a JSON file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Round:
    """The job done once: assistant turns, wall seconds and processor seconds."""

    turns: int
    seconds: float
    cpu_s: float
