"""A stage under way: its clock, the parts that are finished, what it says of its progress, and its manifest.

A part is a file or folder that took long to make. Beside it lies `NAME.key`: a hash of what decided its content, and
the seconds that it took. A stage that is run again takes up the parts whose key is still right, and counts their
seconds, so that the manifest says what the stage costs and not what the last start of it did.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from biomni_lib.config import RunConfig
from biomni_lib.provenance import Manifest, atomic_write, file_sha256, write_manifest
from biomni_lib.stages.paths import paths

PROGRESS = ".progress"


class StageRun:
    """One run of a stage.

    Args:
        config: the run's settings. name: of the stage, as in `provenance.STAGE_SETTINGS`.
    """

    def __init__(self, config: RunConfig, name: str) -> None:
        self.config, self.name, self.paths = config, name, paths(config)
        self._began = time.perf_counter()
        self._earlier_s: dict[str, float] = {}
        _quiet()

    def has(self, part: Path, key: str) -> bool:
        """True when a part is there and was made under the same key; its seconds then count as the stage's."""
        if not made_under(part, key):
            return False
        self._earlier_s.setdefault(str(part), _record(part)["seconds"])
        return True

    @contextlib.contextmanager
    def making(self, part: Path, key: str) -> Iterator[None]:
        """Make a part in the block; it counts as made when the block succeeds."""
        key_file(part).unlink(missing_ok=True)
        began = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - began, 3)
        self._earlier_s[str(part)] = 0.0  # its seconds are those of this start
        atomic_write(key_file(part), json.dumps({"key": key, "seconds": seconds}) + "\n")

    def add_seconds(self, of: str, seconds: float) -> None:
        """Count work of an earlier start that this one goes on from; `of` names it, and a second call replaces it."""
        self._earlier_s[of] = max(0.0, seconds)

    def say(self, text: str) -> None:
        """Tell whoever runs the notebook how far the stage is."""
        say(self.config, text)

    def finish(
        self, *, inputs: Iterable[Path], outputs: Iterable[Path], results: dict[str, Any] | None = None
    ) -> Manifest:
        """Write the manifest: from now on the stage is done. Raises: RunError when a named file is missing."""
        seconds = time.perf_counter() - self._began + sum(self._earlier_s.values())
        return write_manifest(self.config, self.name, inputs=inputs, outputs=outputs, seconds=seconds, results=results)


def say(config: RunConfig, text: str) -> None:
    """Leave one line on the progress of a run, for the process that runs its notebooks."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / PROGRESS).write_text(text, encoding="utf-8")


def said(config: RunConfig) -> str:
    """The line left last; empty when there is none."""
    with contextlib.suppress(OSError):
        return (config.run_dir / PROGRESS).read_text(encoding="utf-8")
    return ""


def key_of(config: RunConfig, *sections: str, files: Iterable[Path] = ()) -> str:
    """A hash over sections of the settings and over files; a folder stands for the files in it."""
    settings = config.model_dump(mode="json", include=set(sections))
    found = [file for path in files for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]
    told = json.dumps([settings, [(file.name, file_sha256(file)) for file in found]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def made_under(part: Path, key: str) -> bool:
    """Whether a part is there and was made under a key."""
    return part.exists() and _record(part).get("key") == key


def key_file(part: Path) -> Path:
    """Where a part's key lies."""
    return part.with_name(f"{part.stem}.key")


def _quiet() -> None:
    """Switch off the progress bars of libraries: a notebook keeps what is printed into it."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()


def _record(part: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(key_file(part).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}
