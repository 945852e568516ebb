"""Evaluation: every instance rolled out, graded, and written down as one row and one trajectory.

A row is one sample of one model on one instance. The same seeds are used for every model, so that models are compared
on the same instances under the same draws. A model that is already there under the same key is read, not run again; an
evaluation that was stopped goes on with what is missing, and ends with the same rows.
Scores and lengths repeat as far as the engine does; the columns in seconds never do.
"""

import asyncio
import dataclasses
import hashlib
import json
import shutil
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.agent.rollout import rollout_seed
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.provenance import atomic_path, code_hash
from biomni_lib.rewards import correctness, score
from biomni_lib.tasks import Instance, Task, grade, ids_given
from biomni_lib.tasks.leaks import require_audited

RolloutFn = Callable[[Instance, int, int], Awaitable[Trajectory]]
"""(instance, sample, seed) to one trajectory; a rollout that goes wrong is an ending in it, not an exception."""
SEED_DOMAIN = zlib.crc32(b"evaluate")
PART_ROLLOUTS = 16
"""Finished rollouts that are written together; a stopped evaluation loses fewer than these."""
Row = dict[str, object]
Done = dict[int, tuple[Trajectory, Row]]
"""Finished rollouts by their place in the order of instances and samples."""
Progress = Callable[[str, int, int], None]
"""(model, rollouts done, rollouts in all)."""

ROWS = pa.schema(
    [
        ("task", pa.string()),
        ("instance_id", pa.string()),
        ("sample", pa.int32()),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("score", pa.float64()),
        ("ids", pa.int32()),
        ("correctness", pa.float64()),
        ("format", pa.float64()),
        ("tokens", pa.int32()),
        ("turns", pa.int32()),
        ("tool_calls", pa.int32()),
        ("ending", pa.string()),
        ("strategy", pa.string()),
        ("answer", pa.string()),
        ("seconds", pa.float64()),
        ("generate_seconds", pa.float64()),
        ("tool_seconds", pa.float64()),
        ("usd", pa.float64()),
    ]
)
"""Columns of evaluated rows. `score` is the benchmark's grade, `ids` how many different ids the answer gives (more than
the gold has: it hedges), `correctness` the reward's stricter grade; `format` is null for heuristics, which write no
tags; `tokens` are those that the model wrote; `seconds` is wall-clock time; `usd` what an endpoint was paid. A column
that a file was written without reads as null."""


def show_progress(model: str, done: int, total: int) -> None:
    """A line on stderr about every tenth of the way."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"evaluate {model}: {done}/{total} rollouts", file=sys.stderr, flush=True)


async def evaluate(
    model: str,
    rollout_fn: RolloutFn,
    instances: Sequence[Instance],
    config: RunConfig,
    out_dir: Path,
    *,
    key: str,
    progress: Progress = show_progress,
    at_once: int | None = None,
) -> pd.DataFrame:
    """Roll a model out on instances, grade, and save rows and trajectories, or go on where the same was stopped.

    Args:
        model: its name in tables and figures: base, sft, rl, teacher, …
        rollout_fn: makes one trajectory.
        instances: of one or more tasks; each is sampled `config.evaluate.samples` times.
        out_dir: gets `MODEL.trajectories.parquet` and, when all is done, `MODEL.rows.parquet`; until then what is
            finished lies in `MODEL.unfinished/`.
        key: what decides the answers beside the settings, such as the checkpoint's sha256. Rows that were made with the
            same key, settings and instances are returned as they are.
        progress: told after every rollout.
        at_once: most rollouts under way; as many as engine and sandbox take when None.
    Returns: the columns of `ROWS`, in the order of instances and samples.
    Raises: DataError when there are no instances; RunError when they are of a benchmark and the run's training data
        were not shown to be apart from it; whatever the rollout raises, which ends the evaluation.
    """
    if not instances:
        raise DataError(f"evaluate {model}: no instances; take them from Task.instances('heldout')")
    require_audited(config, instances)
    rows_path = rows_file(out_dir, model)
    key = _key(key, instances, config)
    trajectories_path = trajectories_file(out_dir, model)
    if trajectories_path.is_file() and _stored_key(rows_path) == key:
        return read_rows(rows_path)
    rows_path.unlink(missing_ok=True)
    jobs = [(instance, sample) for instance in instances for sample in range(config.evaluate.samples)]
    unfinished = _Unfinished(out_dir / f"{model}.unfinished", key, jobs)
    at_once = at_once or min(config.slots, config.sessions)
    await _roll_out(model, rollout_fn, jobs, config, progress, unfinished, at_once)
    done = [unfinished.done[number] for number in range(len(jobs))]
    save_trajectories(trajectories_path, [trajectory for trajectory, _ in done])
    table = _save_rows([row for _, row in done], rows_path, key)
    unfinished.remove()
    return table


def evaluate_baselines(
    tasks: Mapping[str, Task], instances: Sequence[Instance], config: RunConfig, out_dir: Path
) -> pd.DataFrame:
    """Grade each task's heuristics on the instances: rows without trajectories, format null, no tokens.

    Args:
        tasks: by name, one for each task among the instances.
        out_dir: gets `baselines.rows.parquet`.
    Returns: the columns of `ROWS`, `model` being the heuristic's name.
    Raises: DataError when there are no instances, or of a task that is not in `tasks`.
    """
    unknown = {instance.task for instance in instances} - set(tasks)
    if not instances or unknown:
        raise DataError(f"evaluate baselines: no instances or no task for them; missing {', '.join(sorted(unknown))}")
    rows = []
    for name, task in tasks.items():
        of_task = [instance for instance in instances if instance.task == name]
        for heuristic, answer_fn in task.baselines().items():
            rows += [_baseline_row(heuristic, answer_fn, instance, config) for instance in of_task]
    return _save_rows(rows, rows_file(out_dir, "baselines"), _key("baselines", instances, config))


def load_rows(folders: Iterable[Path]) -> pd.DataFrame:
    """All rows in one or more evaluation folders, such as those of several seeds.

    Raises: DataError that names the folder without rows, or the file that cannot be read.
    """
    tables = []
    for folder in folders:
        files = sorted(folder.glob("*.rows.parquet"))
        if not files:
            raise DataError(f"{folder}: no evaluated rows; run the stage evaluate of that run first")
        tables += [_read_rows(path, ROWS) for path in files]
    if not tables:
        raise DataError("evaluated rows: no folder given; name at least one run")
    return pa.concat_tables(tables).to_pandas()


def read_rows(path: Path, schema: pa.Schema = ROWS) -> pd.DataFrame:
    """The rows of one file; a column that it was written without is null.

    Args:
        schema: the columns to read, all of `ROWS` or some.
    Raises: DataError when the file cannot be read.
    """
    return _read_rows(path, schema).to_pandas()


def rows_file(out_dir: Path, model: str) -> Path:
    """Where a model's rows lie."""
    return out_dir / f"{model}.rows.parquet"


def trajectories_file(out_dir: Path, model: str) -> Path:
    """Where a model's trajectories lie."""
    return out_dir / f"{model}.trajectories.parquet"


def code_of(path: Path) -> str:
    """sha256 of the library's sources that evaluated a file of rows; empty where it does not say."""
    return str((pq.read_schema(path).metadata or {}).get(b"code", b"").decode())


class _Unfinished:
    """What a stopped evaluation has finished: rows and trajectories in parts of `PART_ROLLOUTS`, under its key.

    Args:
        folder: of the parts; those of another key are deleted. jobs: (instance, sample) in order.
    """

    def __init__(self, folder: Path, key: str, jobs: Sequence[tuple[Instance, int]]) -> None:
        self.folder, self.key, self.done = folder, key, Done()
        self._waiting: list[int] = []
        self._parts = 0
        places = {(i.task, i.id, sample): number for number, (i, sample) in enumerate(jobs)}
        for path in sorted(folder.glob("*.rows.parquet")):
            if _stored_key(path) != key:
                self.remove()
                break
            self._parts = int(path.name.partition(".")[0]) + 1
            trajectories = load_trajectories(trajectories_file(folder, path.name.partition(".")[0]))
            for trajectory, row in zip(trajectories, _read_rows(path, ROWS).to_pylist(), strict=True):
                self.done[places[row["task"], row["instance_id"], row["sample"]]] = (trajectory, row)

    def add(self, number: int, trajectory: Trajectory, row: Row) -> None:
        """A job is done."""
        self.done[number] = (trajectory, row)
        self._waiting.append(number)
        if len(self._waiting) == PART_ROLLOUTS:
            self.write()

    def write(self) -> None:
        """Write what was not written yet; the rows last, so that a part has both or does not count."""
        if not self._waiting:
            return
        part, found = f"{self._parts:06d}", [self.done[number] for number in self._waiting]
        save_trajectories(trajectories_file(self.folder, part), [trajectory for trajectory, _ in found])
        _save_rows([row for _, row in found], rows_file(self.folder, part), self.key)
        self._waiting, self._parts = [], self._parts + 1

    def remove(self) -> None:
        """Delete the parts."""
        self.done.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


async def _roll_out(
    model: str,
    rollout_fn: RolloutFn,
    jobs: Sequence[tuple[Instance, int]],
    config: RunConfig,
    progress: Progress,
    unfinished: _Unfinished,
    at_once: int,
) -> None:
    """Do every job that is not done; what is done when one fails or all are stopped is written."""
    waiting = iter([(number, *job) for number, job in enumerate(jobs) if number not in unfinished.done])

    async def work() -> None:
        for number, instance, sample in waiting:
            started = time.perf_counter()
            place = zlib.crc32(f"{instance.task}/{instance.id}".encode())
            trajectory = await rollout_fn(instance, sample, rollout_seed(config.seed, SEED_DOMAIN, place, sample))
            scored = score(dataclasses.replace(trajectory, model=model, sample=sample), instance)
            unfinished.add(number, scored, _row(scored, time.perf_counter() - started, instance, config))
            progress(model, len(unfinished.done), len(jobs))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(jobs))):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        unfinished.write()


def _row(trajectory: Trajectory, seconds: float, instance: Instance, config: RunConfig) -> Row:
    return {
        "task": instance.task,
        "instance_id": instance.id,
        "sample": trajectory.sample,
        "seed": config.seed,
        "model": trajectory.model,
        "score": grade(instance.task, trajectory.answer, instance.gold),
        "ids": ids_given(instance.task, trajectory.answer),
        "correctness": trajectory.correctness,
        "format": trajectory.format,
        "tokens": trajectory.response_tokens,
        "turns": len(trajectory.turns),
        "tool_calls": trajectory.tool_calls,
        "ending": trajectory.ending,
        "strategy": trajectory.strategy,
        "answer": trajectory.answer,
        "seconds": seconds,
        "generate_seconds": sum(turn.generate_s for turn in trajectory.turns),
        "tool_seconds": sum(turn.tool_s for turn in trajectory.turns),
        "usd": trajectory.usd,
    }


def _baseline_row(heuristic: str, answer_fn: Callable[[Instance], str], instance: Instance, config: RunConfig) -> Row:
    started = time.perf_counter()
    answer = answer_fn(instance)
    seconds = time.perf_counter() - started
    return {
        "task": instance.task,
        "instance_id": instance.id,
        "sample": 0,
        "seed": config.seed,
        "model": heuristic,
        "score": grade(instance.task, answer, instance.gold),
        "ids": ids_given(instance.task, answer),
        "correctness": correctness(answer, instance),
        "format": None,
        "tokens": 0,
        "turns": 0,
        "tool_calls": 0,
        "ending": "solved",
        "strategy": "",
        "answer": answer,
        "seconds": seconds,
        "generate_seconds": 0.0,
        "tool_seconds": 0.0,
        "usd": 0.0,
    }


def _save_rows(rows: Sequence[Mapping[str, object]], path: Path, key: str) -> pd.DataFrame:
    table = pa.Table.from_pylist(list(rows), schema=ROWS.with_metadata({"key": key, "code": code_hash()}))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return table.to_pandas()


def _read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: rows cannot be read ({error}); delete the file and evaluate again") from None


def _stored_key(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        stored = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return stored.get(b"key", b"").decode()


def _key(key: str, instances: Sequence[Instance], config: RunConfig) -> str:
    settings = config.model_dump(mode="json", include={"seed", "prompt", "agent", "sandbox", "evaluate"})
    asked = [[instance.task, instance.id, instance.prompt] for instance in instances]
    return hashlib.sha256(json.dumps([key, settings, asked], sort_keys=True).encode()).hexdigest()
