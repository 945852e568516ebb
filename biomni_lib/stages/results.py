"""The published results: a small folder beside the code, committed, so that a reader has them without a run.

`summary-PRESET.json` is one run's summary, `seeds-PRESET.parquet` the evaluated rows of several seeds,
`ablations-PRESET.parquet` and `ablation-curves-PRESET.parquet` what `make ablations` found, and
`budgets-PRESET.parquet` the answers under budgets of the summary's run.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.analysis.budgets import ASKED
from biomni_lib.config import RunConfig, project_root
from biomni_lib.errors import DataError
from biomni_lib.evaluate import ROWS, load_rows, read_rows
from biomni_lib.provenance import atomic_path
from biomni_lib.stages.paths import paths

LEFT_OUT = ("answer", "seconds", "generate_seconds", "tool_seconds", "usd")
"""Columns left out of the seeds' table: times, which never repeat, the answers' text, for size, and costs."""
FROM_RUN = ("rl-learning-curves",)
"""Figures that are published and cannot be drawn from the published tables, only by a run."""
TRAINED = frozenset({"base", "sft", "sft_best", "rl"})
"""Models whose weights come out of training; all others repeat exactly."""
SEED_ROWS = pa.schema([field for field in ROWS if field.name not in LEFT_OUT])


def results_dir() -> Path:
    """The folder of the published results."""
    return project_root() / "results"


def summary_file(config: RunConfig) -> Path:
    """The published summary of a preset."""
    return results_dir() / f"summary-{config.preset}.json"


def seeds_file(config: RunConfig) -> Path:
    """The published rows of a preset's seeds."""
    return results_dir() / f"seeds-{config.preset}.parquet"


def figures_dir(config: RunConfig) -> Path:
    """The folder of a preset's published figures."""
    return results_dir() / f"figures-{config.preset}"


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same settings with another seed."""
    return config.model_copy(update={"seed": seed})


def publish_seeds(config: RunConfig, seeds: Iterable[int]) -> pd.DataFrame:
    """Write the evaluated rows of several seeds to the published table; the same rows give the same bytes.

    Raises: DataError when a seed has no evaluated rows.
    """
    rows = load_rows(paths(with_seed(config, seed)).evaluate for seed in seeds)
    rows = rows.sort_values(["seed", "model", "task"], kind="stable", ignore_index=True)[SEED_ROWS.names]
    _write(config, seeds_file(config), pa.Table.from_pandas(rows, schema=SEED_ROWS, preserve_index=False))
    return rows


def published_seeds(config: RunConfig) -> Path | None:
    """The published table of the seeds when it was made with these settings, else None."""
    return _made_with(config, seeds_file(config))


def pooled_rows(config: RunConfig) -> pd.DataFrame:
    """The published rows of all seeds, or this run's own when none were published for its settings.

    Raises: DataError when there are neither.
    """
    file = published_seeds(config)
    if file is None:
        return load_rows([paths(config).evaluate])[SEED_ROWS.names]
    return read_rows(file, SEED_ROWS)


def publish_ablations(config: RunConfig, table: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Write what `make ablations` found: a row an ablation, and a row an ablation and step."""
    for file, rows in zip(ablation_files(config), (table, curves), strict=True):
        _write(config, file, pa.Table.from_pandas(rows, preserve_index=False))


def published_ablations(config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Both published tables when they were made with these settings, else None."""
    table, curves = (_made_with(config, file) for file in ablation_files(config))
    return (pd.read_parquet(table), pd.read_parquet(curves)) if table and curves else None


def ablation_files(config: RunConfig) -> tuple[Path, Path]:
    """The published table and curves of a preset's ablations."""
    names = (f"ablations-{config.preset}.parquet", f"ablation-curves-{config.preset}.parquet")
    return (results_dir() / names[0], results_dir() / names[1])


def publish_budgets(config: RunConfig, rows: pd.DataFrame) -> Path:
    """Write the answers under budgets of one run, with what `analysis.dose_response` reads of them."""
    _write(config, budgets_file(config), pa.Table.from_pandas(rows[ASKED], preserve_index=False))
    return budgets_file(config)


def budgets_file(config: RunConfig) -> Path:
    """The published answers under budgets of a preset."""
    return results_dir() / f"budgets-{config.preset}.parquet"


def _write(config: RunConfig, file: Path, table: pa.Table) -> None:
    """A table that says with which settings it was made."""
    metadata = (table.schema.metadata or {}) | {b"settings": json.dumps(_settings(config), sort_keys=True).encode()}
    with atomic_path(file) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def made_with(file: Path) -> dict[str, Any]:
    """The settings that made a published table, by dotted name; those that did not exist then at their default.

    Raises: DataError when the table does not say.
    """
    then = json.loads((pq.read_schema(file).metadata or {}).get(b"settings", b"{}"))
    if not then:
        raise DataError(f"{file}: does not say which settings made it; publish it again (make seeds, make ablations)")
    return {**_settings(RunConfig()), **then}


def differing(config: RunConfig, file: Path) -> dict[str, tuple[Any, Any]]:
    """The settings in which a published table differs from these: dotted name to (then, now).

    The seed is left aside. A setting that did not exist then counts as at its default, with which it changes nothing;
    one that exists no more is left aside too. Raises: DataError when the table does not say.
    """
    then = made_with(file)
    return {name: (then[name], value) for name, value in _settings(config).items() if then[name] != value}


def _made_with(config: RunConfig, file: Path) -> Path | None:
    """A published table when it was made with these settings, else None."""
    if not file.is_file():
        return None
    try:
        return None if differing(config, file) else file
    except DataError:
        return None


def _settings(config: RunConfig) -> dict[str, Any]:
    """Every setting that decides a result, by its dotted name."""
    sections = config.model_dump(mode="json", exclude={"seed", "runs_root", "environment", "tracking"})
    return {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in (values.items() if isinstance(values, dict) else [("name", values)])
    }
