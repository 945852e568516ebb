"""Builds the lake: raw files in, checked Parquet tables, look-up arrays and a manifest out.

PyArrow is imported only where tables are made or read, so that the processes that run tools stay light.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake.genes import read_gene_table
from biomni_lib.lake.hpo import read_annotations, read_gene_links, read_terms
from biomni_lib.lake.manifest import ARRAYS, LAKE_FORMAT, MANIFEST, REMEDY, LakeManifest, TableEntry
from biomni_lib.lake.sources import ANNOTATIONS, GENE_LINKS, GENES, ONTOLOGY, Source, source_path
from biomni_lib.provenance import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa


def build_lake(lake_dir: Path, progress: Callable[[str], None] | None = None) -> LakeManifest:
    """Build every table from the bundled raw files, offline, in seconds; an existing lake is replaced at the end.

    Args:
        lake_dir: folder of the lake; written beside and moved into place, so it is never half-written.
        progress: called with one line before each step.
    Returns: the manifest written.
    Raises: DataError when a raw file is missing or not the expected one; OSError when the disk is full.
    """
    from biomni_lib.lake.tables import lake_tables

    say = progress or (lambda message: None)
    lake_dir = Path(lake_dir)
    _refuse_other_folders(lake_dir)
    lake_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{lake_dir.name}-", dir=lake_dir.parent))
    try:
        say("reading the ontology")
        terms = read_terms(source_path(ONTOLOGY))
        say("reading the disease annotations")
        annotations = list(read_annotations(source_path(ANNOTATIONS)))
        say("reading genes and gene-disease links")
        genes, links = read_gene_table(source_path(GENES)), read_gene_links(source_path(GENE_LINKS))
        say("computing ancestors, profiles and information content")
        tables = lake_tables(terms, annotations, genes, links)
        say(f"writing {len(tables)} tables")
        manifest = _write_tables(tables, staging)
        _move_into_place(staging, lake_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _write_tables(tables: dict[str, tuple["pa.Table", Source]], folder: Path) -> LakeManifest:
    import pyarrow.parquet as pq

    from biomni_lib.lake.arrays import lake_arrays

    entries = {}
    for name, (table, source) in tables.items():
        path = folder / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        entries[name] = TableEntry(
            file=path.name,
            sha256=file_sha256(path),
            rows=table.num_rows,
            columns=table.column_names,
            source=source.name,
            url=source.url,
            version=source.version,
            licence=source.licence,
        )
    raw = {source.file: source.sha256 for source in (ONTOLOGY, ANNOTATIONS, GENE_LINKS, GENES)}
    arrays = lake_arrays({name: table for name, (table, _) in tables.items()})
    np.savez(folder / ARRAYS, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    manifest = LakeManifest(LAKE_FORMAT, entries, raw, file_sha256(folder / ARRAYS))
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest


def _refuse_other_folders(lake_dir: Path) -> None:
    """What is to be replaced must be a lake and nothing else."""
    if lake_dir.exists() and not lake_dir.is_dir():
        raise DataError(f"{lake_dir} is a file, not a lake's folder; remove it, then {REMEDY}")
    strangers = [path.name for path in lake_dir.iterdir()] if lake_dir.exists() else []
    strangers = [name for name in strangers if not name.endswith(".parquet") and name not in (MANIFEST, ARRAYS)]
    if strangers:
        raise DataError(f"{lake_dir} holds {strangers[0]!r}, no part of a lake; name another folder for the lake")


def _move_into_place(staging: Path, lake_dir: Path) -> None:
    """Swap folders; a reader that holds the old files open keeps them."""
    staging.chmod(0o755)
    if lake_dir.exists():
        retired = Path(tempfile.mkdtemp(prefix=f".{lake_dir.name}-old-", dir=lake_dir.parent))
        os.replace(lake_dir, retired / "lake")
        os.replace(staging, lake_dir)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        os.replace(staging, lake_dir)
