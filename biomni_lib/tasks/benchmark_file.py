"""The rows of a benchmark's Parquet file: a local one, or one of the Hugging Face hub at a pinned commit.

The file stays where the user or the hub's cache keeps it; nothing of it is ever copied into a run's folder as data.
"""

import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.errors import ConfigError, DataError
from biomni_lib.tasks.base import Instance

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset on the hub: `repo` is OWNER/NAME, `name` the path in it."""

    repo: str
    name: str


def read_rows(file: HubFile, path: Path | None, revision: str | None, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """All rows of a benchmark's file.

    Args:
        path: the local file; None downloads `file`.
        revision: commit of the hub's repository, 40 hex digits; needed for a download alone.
        columns: those to read; the file may have others.
    Returns: one dict a row, in the file's order.
    Raises: DataError when the file cannot be had or read, lacks a column, or has no row; ConfigError for a revision
        that is no commit.
    """
    path = download(file, revision) if path is None else Path(path)
    try:
        missing = set(columns) - set(pq.read_schema(path).names)
        rows = [] if missing else pq.read_table(path, columns=list(columns)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read ({why}); give the Parquet file {file.name} of {file.repo}") from None
    if missing:
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}; is it {file.name} of {file.repo}?")
    if not rows:
        raise DataError(f"{path} has no rows; give the Parquet file {file.name} of {file.repo}")
    return rows


def download(file: HubFile, revision: str | None) -> Path:
    """Fetch a file into the hub's cache, or find it there. Raises: as `read_rows`."""
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{file.repo}: revision {revision!r} is no commit; give the 40 hex digits of one, or a local file"
        )
    import httpx
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(file.repo, file.name, repo_type="dataset", revision=revision))
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise DataError(
            f"{file.name} of {file.repo} at {revision} cannot be downloaded ({type(error).__name__}); "
            "download it where there is internet, and give its path"
        ) from None


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """A cell that must hold text. Raises: DataError that names the row when it is empty or no text."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: column {column} is {reprlib.repr(value)}, not text; is it the benchmark's file?")
    return value


def check_unique(instances: Sequence[Instance], where: str) -> None:
    """Raises: DataError that names an id which comes twice."""
    for id, times in Counter(instance.id for instance in instances).items():
        if times > 1:
            raise DataError(f"{where}: {id} comes {times} times; is it the benchmark's file?")
