"""Readers for the gene caches of the npm package `ideogram`: genes, synonyms, paralogs, expression, variants.

The formats are compressed by hand; how is read from the scripts that write them (`scripts/python/cache/` of
https://github.com/eweitz/ideogram). Left out: top tissues of the gene cache (the tissue cache says more), the
histograms of expression, and three columns of the variants (disease, kind, molecular consequence), whose codes are
explained in a file apart.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from biomni_lib.errors import DataError

SIGNIFICANCE = ("Likely_pathogenic", "Pathogenic/Likely_pathogenic", "Pathogenic")
REVIEW_STATUS = (
    "criteria_provided,_multiple_submitters,_no_conflicts",
    "reviewed_by_expert_panel",
    "practice_guideline",
)
"""The codes 0, 1, 2 of ClinVar's two columns, in the order of `variant_cache.py`."""
HISTOGRAM_BINS = 10

Row = TypeVar("Row")


@dataclass(frozen=True)
class Gene:
    """A gene on GRCh38; `start` and `end` in base pairs, 1-based, both inside the gene."""

    ensembl_id: str
    symbol: str
    chromosome: str
    start: int
    end: int
    description: str


@dataclass(frozen=True)
class Expression:
    """Expression of a gene in one tissue over the donors of GTEx v8, in transcripts per million."""

    symbol: str
    tissue: int
    minimum: float
    q1: float
    median: float
    q3: float
    maximum: float


@dataclass(frozen=True)
class Variant:
    """A ClinVar variant; `position` in base pairs on GRCh38, 1-based; `rsid` is 0 where dbSNP has none."""

    chromosome: str
    position: int
    clinvar_id: int
    reference: str
    alternative: str
    significance: str
    review_status: str
    allele_frequency: float | None
    rsid: int


def read_genes(path: Path) -> list[Gene]:
    """Every gene, sorted by Ensembl id. The file's length is end minus start. Raises: DataError for a malformed row."""
    return sorted(_read(path, _gene), key=lambda gene: gene.ensembl_id)


def read_synonyms(path: Path) -> list[tuple[str, str]]:
    """(symbol, synonym) pairs, in file order. Raises: DataError for a malformed row."""
    return [(symbol, synonym) for symbol, *synonyms in _read(path, list) for synonym in synonyms]


def read_paralogs(path: Path) -> tuple[list[set[str]], dict[str, int]]:
    """Families of paralogs and the family of each gene; a gene's paralogs are its family without itself.

    A row holds a gene's symbol and id and either the ids of its paralogs or `_SYMBOL` and the id of an earlier gene
    whose family it shares.

    Returns: (Ensembl ids of each family, family by Ensembl id).
    Raises: DataError for a malformed row.
    """
    families: list[set[str]] = []
    family_of: dict[str, int] = {}

    def add(fields: list[str]) -> None:
        _, own, *others = fields
        if others[0].startswith("_"):
            family_of[_ensembl_id(own)] = family_of[_ensembl_id(others[1])]
        else:
            family_of[_ensembl_id(own)] = len(families)
            families.append({_ensembl_id(own), *map(_ensembl_id, others)})

    list(_read(path, add))
    return families, family_of


def read_tissues(path: Path) -> list[tuple[str, int]]:
    """(tissue, samples) in the order that expression rows count. Raises: DataError when the first line lacks them."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            listed = file.readline().removeprefix("## tissues: ").strip().split(";")
        return [(name.replace("_", " "), int(samples)) for name, _, samples in (one.split(",") for one in listed)]
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} does not begin with its tissues ({error}); delete it, then run `make data`") from None


def read_expression(path: Path) -> list[Expression]:
    """Expression in up to ten tissues a gene, highest median first. Raises: DataError for a malformed row."""
    return [row for rows in _read(path, _expression) for row in rows]


def read_variants(path: Path) -> list[Variant]:
    """Every variant, in file order. Raises: DataError for a malformed row."""
    return list(_read(path, _variant))


def _read(path: Path, parse: Callable[[list[str]], Row]) -> Iterator[Row]:
    """Parse each row of a gzipped, tab-separated file; lines that begin with # are skipped."""
    line = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                if not line.startswith("#"):
                    yield parse(line.rstrip("\n").split("\t"))
    except (OSError, EOFError, ValueError, IndexError, KeyError) as error:
        fault = f"{type(error).__name__}: {error}, after {line[:40]!r}"
        raise DataError(f"{path} is not the gene cache expected ({fault}); delete it, then run `make data`") from None


def _ensembl_id(slim: str) -> str:
    return f"ENSG{int(slim):011d}"


def _gene(fields: list[str]) -> Gene:
    chromosome, start, length, slim_id, symbol, description, *_ = fields
    first = int(start)
    return Gene(_ensembl_id(slim_id), symbol, chromosome, first, first + int(length), unquote(description))


def _expression(fields: list[str]) -> list[Expression]:
    symbol, *entries = fields
    return [Expression(symbol, *_summary(entry)) for entry in entries]


def _summary(entry: str) -> tuple[int, float, float, float, float, float]:
    """Tissue and five-number summary; the file leaves zeros in front out, and a number that rounds to 0 blank."""
    tissue, *numbers = entry.split(";")
    box = [float(number or 0) for number in numbers[:-HISTOGRAM_BINS]]
    minimum, q1, median, q3, maximum = [0.0] * (5 - len(box)) + box
    return int(tissue), minimum, q1, median, q3, maximum


def _variant(fields: list[str]) -> Variant:
    chromosome, position, clinvar_id, reference, alternative, _, frequency, review, significance, *rest = fields
    return Variant(
        chromosome,
        int(position),
        int(clinvar_id),
        reference,
        alternative,
        SIGNIFICANCE[int(significance)],
        REVIEW_STATUS[int(review)],
        float(frequency) if frequency else None,
        int(rest[3]) if len(rest) > 3 else 0,
    )
