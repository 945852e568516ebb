"""Builds the bundled lake: raw files in, checked Parquet tables, look-up arrays and a manifest out.

PyArrow is imported only where tables are made or read, so that the processes that run tools stay light.
"""

from collections.abc import Callable
from pathlib import Path

from biomni_lib.lake.genes import read_gene_table
from biomni_lib.lake.hpo import read_annotations, read_gene_links, read_terms
from biomni_lib.lake.manifest import LakeManifest
from biomni_lib.lake.sources import ANNOTATIONS, GENE_LINKS, GENES, ONTOLOGY, source_path
from biomni_lib.lake.writing import replacing, write_tables


def build_lake(lake_dir: Path, progress: Callable[[str], None] | None = None) -> LakeManifest:
    """Build every table from the bundled raw files, offline, in seconds; an existing lake is replaced at the end.

    Args:
        lake_dir: folder of the lake; written beside and moved into place, so it is never half-written.
        progress: called with one line before each step.
    Returns: the manifest written.
    Raises: DataError when a raw file is missing or not the expected one; OSError when the disk is full.
    """
    from biomni_lib.lake.arrays import lake_arrays
    from biomni_lib.lake.tables import lake_tables

    say = progress or (lambda message: None)
    with replacing(Path(lake_dir)) as staging:
        say("reading the ontology")
        terms = read_terms(source_path(ONTOLOGY))
        say("reading the disease annotations")
        annotations = list(read_annotations(source_path(ANNOTATIONS)))
        say("reading genes and gene-disease links")
        genes, links = read_gene_table(source_path(GENES)), read_gene_links(source_path(GENE_LINKS))
        say("computing ancestors, profiles and information content")
        tables = lake_tables(terms, annotations, genes, links)
        say(f"writing {len(tables)} tables")
        arrays = lake_arrays({name: table for name, (table, _) in tables.items()})
        return write_tables(tables, staging, (ONTOLOGY, ANNOTATIONS, GENE_LINKS, GENES), arrays)
