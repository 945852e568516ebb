"""What the designs of this project buy in speed, each measured against a peer within one run on one machine.

`MEASURES` names them all; each family has a module of its own. What a measurement needs and is not there yet, the lake
or the preset's SFT model, is made first.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.utils.logging import disable_progress_bar

from biomni_lib.config import RunConfig, project_root
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.provenance import atomic_write
from biomni_lib.stages.bench import engine, learner, orchestration, rl, rl_busy, sandbox
from biomni_lib.stages.bench.measured import Measured
from biomni_lib.stages.bench.table import page
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import results_dir
from biomni_lib.stages.runner import NOTEBOOKS, run_notebooks


@dataclass(frozen=True)
class Measure:
    """How one key of the benchmark is measured, and the last stage whose results that takes, if any."""

    measure: Callable[[RunConfig], Measured]
    needs: Literal["build_data", "sft"] | None


MEASURES: dict[str, Measure] = {
    "engine.vs_generate": Measure(engine.engine_against_generate, "sft"),
    "rl.async_vs_sync": Measure(rl.asynchronous_against_synchronous, "sft"),
    "rl.engine_busy": Measure(rl_busy.engine_busy, "sft"),
    "rl.async_vs_sync_slow_tools": Measure(rl_busy.asynchronous_against_synchronous, "sft"),
    "learner.peak_gb_64k": Measure(learner.peak_memory, None),
    "learner.vs_trl": Measure(learner.steps_against_trl, "sft"),
    "orchestration.vs_verifiers": Measure(orchestration.rollouts_against_verifiers, "sft"),
    "sandbox.start_vs_jupyter": Measure(sandbox.start_against_kernel, "build_data"),
    "sandbox.start_vs_fork": Measure(sandbox.start_against_fork, "build_data"),
    "sandbox.call_ms": Measure(sandbox.call_overhead, "build_data"),
    "sandbox.gb_512_sessions": Measure(sandbox.memory_of_many, "build_data"),
}
"""Key in the output to measurement; `FAMILY.NAME`."""


def run(config: RunConfig, target: Path | None = None, only: Sequence[str] = ()) -> dict[str, Measured]:
    """Measure, print each result, and write them to a file.

    Args:
        target: the file; `bench.json` in the project's folder when None.
        only: keys, or families of them; all when empty. What else the file holds is then kept.
    Raises: ConfigError for an unknown key.
    """
    target = target or project_root() / "bench.json"
    chosen = {name: MEASURES[name] for name in select(only)}
    prepare(config, {measure.needs for measure in chosen.values() if measure.needs})
    measured = {}
    records: dict[str, Any] = json.loads(target.read_text()) if only and target.is_file() else {}
    disable_progress_bar()
    with _threads(config.engine.threads):
        for name, measure in chosen.items():
            measured[name] = measure.measure(config)
            print(f"{name} {measured[name]}", flush=True)
            records[name] = measured[name].record()
            atomic_write(target, json.dumps(records, indent=1) + "\n")  # after each: an interruption loses only one
    print(target)
    return measured


def publish(config: RunConfig, source: Path | None = None) -> Path:
    """Write a page of all that the benchmark's file holds to `results/`, to be committed. Returns: the page.

    Raises: DataError when there is no such file.
    """
    source = source or project_root() / "bench.json"
    if not source.is_file():
        raise DataError(f"{source} is missing; first make bench")
    target = results_dir() / f"bench-{config.preset}.md"
    atomic_write(target, page(json.loads(source.read_text())))
    return target


def select(only: Sequence[str]) -> list[str]:
    """The keys that some names stand for, each a key or a family. Raises: ConfigError for an unknown one."""
    for name in only:
        if not any(_stands_for(name, key) for key in MEASURES):
            raise ConfigError(f"--only {name}: unknown; allowed: {', '.join(MEASURES)}, or what stands before the dot")
    return [key for key in MEASURES if not only or any(_stands_for(name, key) for name in only)]


def prepare(config: RunConfig, needed: set[str]) -> None:
    """Run the notebooks up to the last stage whose results are needed and missing, saying so."""
    made = {"build_data": config.lake_dir, "sft": paths(config).sft_model}
    missing = [stage for stage in NOTEBOOKS if stage in needed and not made[stage].is_dir()]
    if missing:
        print(f"{made[missing[-1]]} is missing: first the notebooks up to {NOTEBOOKS[missing[-1]]}", flush=True)
        run_notebooks(config, last=missing[-1])


def _stands_for(name: str, key: str) -> bool:
    return key == name or key.startswith(f"{name}.")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
