"""The published results: a small folder beside the code, committed, so that a reader has them without a run.

`summary-PRESET.json` is one run's summary; `seeds-PRESET.parquet` the evaluated rows of several seeds.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.config import RunConfig, project_root
from biomni_lib.evaluate import ROWS, load_rows
from biomni_lib.provenance import atomic_path
from biomni_lib.stages.paths import paths

UNREPEATABLE = ("answer", "seconds", "generate_seconds", "tool_seconds")
"""Columns left out of the seeds' table: times, which never repeat, and the answers' text, for size."""
SEED_ROWS = pa.schema([field for field in ROWS if field.name not in UNREPEATABLE])


def results_dir() -> Path:
    """The folder of the published results."""
    return project_root() / "results"


def summary_file(config: RunConfig) -> Path:
    """The published summary of a preset."""
    return results_dir() / f"summary-{config.preset}.json"


def seeds_file(config: RunConfig) -> Path:
    """The published rows of a preset's seeds."""
    return results_dir() / f"seeds-{config.preset}.parquet"


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same settings with another seed."""
    return config.model_copy(update={"seed": seed})


def publish_seeds(config: RunConfig, seeds: Iterable[int]) -> pd.DataFrame:
    """Write the evaluated rows of several seeds to the published table; the same rows give the same bytes.

    Raises: DataError when a seed has no evaluated rows.
    """
    rows = load_rows(paths(with_seed(config, seed)).evaluate for seed in seeds)
    rows = rows.sort_values(["seed", "model", "task"], kind="stable", ignore_index=True)[SEED_ROWS.names]
    table = pa.Table.from_pandas(rows, schema=SEED_ROWS, preserve_index=False)
    with atomic_path(seeds_file(config)) as temporary:
        marked = table.replace_schema_metadata({"settings": json.dumps(_settings(config), sort_keys=True)})
        pq.write_table(marked, temporary, compression="zstd")
    return rows


def published_seeds(config: RunConfig) -> Path | None:
    """The published table of the seeds when it was made with these settings, else None.

    The seed is left aside. A setting that did not exist then must be at its default, with which it changes nothing;
    one that exists no more is left aside too.
    """
    file = seeds_file(config)
    if not file.is_file():
        return None
    then = json.loads((pq.read_schema(file).metadata or {}).get(b"settings", b"{}"))
    expected = {**_settings(RunConfig()), **then}
    return file if then and all(expected[name] == value for name, value in _settings(config).items()) else None


def pooled_rows(config: RunConfig) -> pd.DataFrame:
    """The published rows of all seeds, or this run's own when none were published for its settings.

    Raises: DataError when there are neither.
    """
    file = published_seeds(config)
    if file is None:
        return load_rows([paths(config).evaluate])[SEED_ROWS.names]
    return pq.read_table(file).to_pandas()[SEED_ROWS.names]


def _settings(config: RunConfig) -> dict[str, Any]:
    """Every setting that decides a result, by its dotted name."""
    sections = config.model_dump(mode="json", exclude={"seed", "runs_root", "environment", "tracking"})
    return {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in (values.items() if isinstance(values, dict) else [("name", values)])
    }
