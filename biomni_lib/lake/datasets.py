"""The data sets of the public tier: what each is read from, and the tables that it becomes.

`genome` is what tools read: genes, and the names of GWAS traits without their genes and places. The others hold answers
(the causal gene, the target, the score, the diagnosis): they lie in a folder apart, which `Lake` does not open and a
session is not shown; tasks read them with `gold_table`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake import public
from biomni_lib.lake.manifest import MANIFEST, LakeManifest, genome_dir, gold_dir, read_lake_manifest, verify_file
from biomni_lib.lake.sources import Source
from biomni_lib.lake.writing import replacing, write_tables

if TYPE_CHECKING:
    import pyarrow as pa

Files = Mapping[Source, Path]
Built = tuple[dict[str, tuple["pa.Table", Source]], dict[str, np.ndarray] | None]

SUPPORTED_COLUMNS: dict[str, type] = {
    "ti_uid": str,
    "gene": str,
    "indication_mesh_id": str,
    "indication_mesh_term": str,
    "ccat": str,
    "assoc_mesh_id": str,
    "assoc_mesh_term": str,
    "original_trait": str,
    "original_link": str,
    "similarity": float,
    "l2g_share": float,
    "l2g_rank": int,
    "year_launch": int,
    "areas": str,
    "genetic_insight": str,
    "launched": bool,
}
PROGRAMME_COLUMNS: dict[str, type] = {
    "ti_uid": str,
    "gene": str,
    "indication_mesh_id": str,
    "indication_mesh_term": str,
    "ccat": str,
    "orphan": bool,
    "year_launch": int,
}


@dataclass(frozen=True)
class DataSet:
    """Some files of the public tier and the folder of tables that they become.

    `build` takes the paths of the files and gives tables with their sources, and arrays where tools read it.
    """

    name: str
    sources: tuple[Source, ...]
    build: Callable[[Files], Built]

    def folder(self, lake_dir: Path) -> Path:
        """Where its tables lie, beside the bundled lake."""
        return genome_dir(lake_dir) if self.name == "genome" else gold_dir(lake_dir) / self.name


def _genome(files: Files) -> Built:
    from biomni_lib.lake import gene_caches, genome_tables, gold_files

    tables = genome_tables.genome_tables(
        gene_caches.read_genes(files[public.GENES]),
        gene_caches.read_synonyms(files[public.SYNONYMS]),
        gene_caches.read_paralogs(files[public.PARALOGS]),
        gene_caches.read_tissues(files[public.TISSUES]),
        gene_caches.read_expression(files[public.TISSUES]),
        gene_caches.read_variants(files[public.VARIANTS]),
        gold_files.traits_of(gold_files.read_gold_standards(files[public.GOLD_2019])),
    )
    of = {"genes": public.GENES, "gene_synonyms": public.SYNONYMS, "pathogenic_variants": public.VARIANTS}
    of |= {"paralog_families": public.PARALOGS, "paralog_family": public.PARALOGS}
    of |= {"tissues": public.TISSUES, "tissue_expression": public.TISSUES, "gwas_traits": public.GOLD_2019}
    return {name: (table, of[name]) for name, table in tables.items()}, genome_tables.genome_arrays(tables)


def _gwas_genes(files: Files) -> Built:
    from biomni_lib.lake.genome_tables import records_table
    from biomni_lib.lake.gold_files import GoldStandard, read_gold_standards

    names = {public.GOLD_2019: "gold_standards_2019", public.GOLD_2023: "gold_standards_2023"}
    read = {source: read_gold_standards(files[source]) for source in names}
    return {names[source]: (records_table(GoldStandard, rows), source) for source, rows in read.items()}, None


def _drug_targets(files: Files) -> Built:
    import pyarrow as pa

    from biomni_lib.lake.gold_files import read_table

    supported = read_table(files[public.SUPPORTED_TARGETS], SUPPORTED_COLUMNS)
    programmes = read_table(files[public.PROGRAMMES], PROGRAMME_COLUMNS)
    return {
        "supported_targets": (pa.Table.from_pylist(supported), public.SUPPORTED_TARGETS),
        "programmes": (pa.Table.from_pylist(programmes), public.PROGRAMMES),
    }, None


def _screens(files: Files) -> Built:
    import pyarrow as pa

    from biomni_lib.lake.gold_files import read_question, read_screen

    screens, scores = [], []
    for name, source in public.SCREEN_SCORES.items():
        task, measurement = read_question(files[public.SCREEN_QUESTIONS[name]])
        rows = [{"screen": name, "gene": gene, "score": score} for gene, score in read_screen(files[source])]
        study = public.SCREENS[name]
        screens.append({"screen": name, "study": study, "task": task, "measurement": measurement, "rows": len(rows)})
        scores += rows
    source = next(iter(public.SCREEN_SCORES.values()))
    return {"screens": (pa.Table.from_pylist(screens), source), "scores": (pa.Table.from_pylist(scores), source)}, None


def _patients(files: Files) -> Built:
    from biomni_lib.lake.genome_tables import records_table
    from biomni_lib.lake.phenopackets import Patient, read_patients

    patients = read_patients(files[public.PHENOPACKETS])
    return {"patients": (records_table(Patient, patients), public.PHENOPACKETS)}, None


DATA_SETS = (
    DataSet(
        "genome",
        (public.GENES, public.SYNONYMS, public.PARALOGS, public.TISSUES, public.VARIANTS, public.GOLD_2019),
        _genome,
    ),
    DataSet("gwas_genes", (public.GOLD_2019, public.GOLD_2023), _gwas_genes),
    DataSet("drug_targets", (public.SUPPORTED_TARGETS, public.PROGRAMMES), _drug_targets),
    DataSet("screens", (*public.SCREEN_SCORES.values(), *public.SCREEN_QUESTIONS.values()), _screens),
    DataSet("patients", (public.PHENOPACKETS,), _patients),
)


def build_public(
    lake_dir: Path, downloads: Path, *, download: bool, progress: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Build the tables of every data set whose files can be had; what was built before of the others stays.

    Args:
        lake_dir: folder of the bundled lake; the public tier lies beside it.
        downloads: folder of downloaded files.
        download: whether the network may be asked.
        progress: called with one line before each data set.
    Returns: why a data set was not built, by its name; empty when all were.
    Raises: DataError when a file that is at hand is not the one pinned.
    """
    say, absent = progress or (lambda message: None), dict[str, str]()
    for data_set in DATA_SETS:
        if not download and (lacking := public.missing(data_set.sources, downloads)):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            absent[data_set.name] = f"{lacking[0].file}{more} missing; {public.REMEDY}"
            continue
        try:
            files = {source: public.obtain(source, downloads, download=download) for source in data_set.sources}
        except public.DownloadError as error:
            absent[data_set.name] = str(error)
            continue
        say(f"building {data_set.name}")
        tables, arrays = data_set.build(files)
        with replacing(data_set.folder(lake_dir)) as staging:
            write_tables(tables, staging, data_set.sources, arrays)
    return absent


def public_manifests(lake_dir: Path) -> dict[str, LakeManifest]:
    """Manifest of every data set that has been built, by name."""
    folders = {data_set.name: data_set.folder(lake_dir) for data_set in DATA_SETS}
    return {name: read_lake_manifest(path) for name, path in folders.items() if (path / MANIFEST).is_file()}


def gold_table(lake_dir: Path, data_set: str, name: str) -> "pa.Table":
    """One table of answers. Raises: DataError when its data set is unknown, has not been built, or was altered."""
    known = [one.name for one in DATA_SETS if one.name != "genome"]
    if data_set not in known:
        raise DataError(f"no data set {data_set!r}; those with answers are {', '.join(known)}")
    folder = gold_dir(lake_dir) / data_set
    if not (folder / MANIFEST).is_file():
        raise DataError(f"the data set {data_set} is not built; run `make data` with a network or with {public.MIRROR}")
    tables = read_lake_manifest(folder).tables
    if name not in tables:
        raise DataError(f"data set {data_set} has no table {name!r}; it has {', '.join(tables)}")
    verify_file(folder / tables[name].file, tables[name].sha256)
    import pyarrow.parquet as pq

    return pq.read_table(folder / tables[name].file)
