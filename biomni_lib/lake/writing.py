"""Writes a folder of the lake: tables, look-up arrays and manifest, whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake.manifest import ARRAYS, LAKE_FORMAT, MANIFEST, REMEDY, LakeManifest, TableEntry
from biomni_lib.lake.sources import Source
from biomni_lib.provenance import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

Tables = Mapping[str, tuple["pa.Table", Source]]


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, moved into its place when the block succeeds and removed when it fails.

    Raises: DataError when `folder` is a file or holds anything that is no part of a lake.
    """
    _refuse_other_folders(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        _move_into_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_tables(
    tables: Tables, folder: Path, sources: Iterable[Source], arrays: Mapping[str, np.ndarray] | None = None
) -> LakeManifest:
    """Write tables as Parquet, arrays where there are some, and the manifest.

    Args:
        tables: table and the source that it derives from, by name.
        sources: the raw files that were read.
        arrays: what is opened for fast look-up; None for tables that are read as tables alone.
    """
    entries = {name: _write_table(name, table, source, folder) for name, (table, source) in tables.items()}
    arrays_sha256 = ""
    if arrays is not None:
        np.savez(folder / ARRAYS, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        arrays_sha256 = file_sha256(folder / ARRAYS)
    raw = {source.file: source.sha256 for source in sources}
    manifest = LakeManifest(LAKE_FORMAT, entries, raw, arrays_sha256)
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest


def _write_table(name: str, table: "pa.Table", source: Source, folder: Path) -> TableEntry:
    import pyarrow.parquet as pq

    path = folder / f"{name}.parquet"
    pq.write_table(table, path, compression="zstd")
    return TableEntry(
        file=path.name,
        sha256=file_sha256(path),
        rows=table.num_rows,
        columns=table.column_names,
        source=source.name,
        url=source.url,
        version=source.version,
        licence=source.licence,
    )


def _refuse_other_folders(folder: Path) -> None:
    """What is to be replaced must be a lake and nothing else."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, not a lake's folder; remove it, then {REMEDY}")
    strangers = [path.name for path in folder.iterdir()] if folder.exists() else []
    strangers = [name for name in strangers if not name.endswith(".parquet") and name not in (MANIFEST, ARRAYS)]
    if strangers:
        raise DataError(f"{folder} holds {strangers[0]!r}, no part of a lake; name another folder for the lake")


def _move_into_place(staging: Path, folder: Path) -> None:
    """Swap folders; a reader that holds the old files open keeps them."""
    staging.chmod(0o755)
    if folder.exists():
        retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        os.replace(folder, retired / "lake")
        os.replace(staging, folder)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        os.replace(staging, folder)
