"""A run's results as one JSON object, printed or published."""

import json
from pathlib import Path
from typing import Any

from biomni_lib.analysis import summarize
from biomni_lib.config import RunConfig
from biomni_lib.provenance import atomic_write
from biomni_lib.stages.drawings import save_drawings
from biomni_lib.stages.evaluate import drawings, evaluated_rows
from biomni_lib.stages.results import results_dir, summary_file


def summary(config: RunConfig) -> dict[str, Any]:
    """`analysis.summarize` of a finished run: preset, code, tasks, seconds.

    Raises: RunError when the evaluation has not finished.
    """
    return summarize(evaluated_rows(config), config)


def run(config: RunConfig) -> dict[str, Any]:
    """Print the summary, and nothing else, on stdout."""
    found = summary(config)
    print(json.dumps(found, indent=1))
    return found


def publish(config: RunConfig) -> list[Path]:
    """Write the summary and the evaluation's figures to `results/`, to be committed. Returns: the files."""
    found = summary(config)
    atomic_write(summary_file(config), json.dumps(found, indent=1) + "\n")
    folder = results_dir() / f"figures-{config.preset}"
    save_drawings(drawings(config), folder)
    return [summary_file(config), *sorted(folder.iterdir())]
