"""Metrics of a stage, step by step: appended as they come, one Parquet table at the end.

`run_dir/metrics/STAGE.jsonl` has a line for every call of `log`; `STAGE.parquet` a row for every step and a column for
every metric. A resumed stage drops the lines of steps that it will do again. Weights & Biases, when switched on, gets
the same numbers; it runs offline and asks nothing unless WANDB_API_KEY is set.

There a resumed stage goes on under the id that it began with (`STAGE.wandb-id`), and is first given the steps that its
run does not have: offline, where a run cannot be reopened, all of them, so that the newest record is whole. Online a
step that was logged before a crash keeps its first values; the Parquet table has those of the step done again.
"""

import contextlib
import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from biomni_lib.config import RunConfig
from biomni_lib.provenance import atomic_path, atomic_write


class Tracker:
    """Writes the metrics of one stage; use it as a context manager or call `close`."""

    def __init__(self, run_dir: Path, stage: str, config: RunConfig, *, resume_step: int = 0) -> None:
        """
        Args:
            run_dir: folder of the run.
            stage: name of the stage, and of the files.
            config: the run's settings; recorded with the Weights & Biases run.
            resume_step: first step that will be logged; lines of this and later steps are dropped. 0 starts anew, with
                a new run of Weights & Biases.
        """
        self.jsonl = run_dir / "metrics" / f"{stage}.jsonl"
        self.parquet = self.jsonl.with_suffix(".parquet")
        kept = [row for row in _lines(self.jsonl) if row["step"] < resume_step]
        atomic_write(self.jsonl, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.jsonl.open("a", encoding="utf-8", buffering=1)
        self._wandb = None
        if config.tracking.wandb:
            self._wandb = _start_wandb(run_dir, stage, config, self.jsonl.with_suffix(".wandb-id"), resume_step)
            for row in read_metrics(self.jsonl):
                if row["step"] >= self._wandb.step:
                    self._wandb.log(_without_time(row), step=row["step"])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append metrics of a step; several calls for one step add up to one row, the last value of a name counts.

        A value that is not finite is stored as missing.
        """
        row = {name: _number(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **row}) + "\n")
        if self._wandb is not None:
            self._wandb.log({"step": step, **row}, step=step)

    def close(self) -> None:
        """Write the Parquet table; calling it again does nothing."""
        if self._file.closed:
            return
        self._file.close()
        write_table(self.parquet, read_metrics(self.jsonl))
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(jsonl: Path) -> list[dict[str, Any]]:
    """One row a step, in order of the steps, from the lines written so far; also while the stage is running."""
    rows: dict[int, dict[str, Any]] = {}
    for line in _lines(jsonl):
        rows.setdefault(line["step"], {}).update(line)
    return [rows[step] for step in sorted(rows)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as Parquet: `step` and `time` first, then the metrics by name; what a row lacks is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted({name for row in rows for name in row} - {"step", "time"})
    columns = {"step": pa.int64(), "time": pa.float64(), **dict.fromkeys(names, pa.float64())}
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items()))), temporary)


def _lines(jsonl: Path) -> Iterator[dict[str, Any]]:
    if jsonl.is_file():
        for line in jsonl.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run may be cut
                yield json.loads(line)


def _number(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _without_time(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "time"}


def _start_wandb(run_dir: Path, stage: str, config: RunConfig, id_file: Path, resume_step: int) -> Any:
    """A run of Weights & Biases: a new one at step 0, else the one that the file names."""
    import wandb

    if resume_step == 0 or not id_file.is_file():
        atomic_write(id_file, uuid.uuid4().hex[:8])
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    run = wandb.init(
        project="biomni-r0",
        group=run_dir.name,
        name=f"{run_dir.name}-{stage}",
        dir=str(run_dir),
        config=config.model_dump(mode="json"),
        mode=mode,
        id=id_file.read_text(encoding="utf-8"),
        resume=None if mode == "offline" else "allow",
        settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
    )
    run.define_metric("*", step_metric="step")
    return run
