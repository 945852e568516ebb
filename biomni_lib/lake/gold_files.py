"""Readers for answers that were curated or measured elsewhere: GWAS genes, drug targets, CRISPR screens."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomni_lib.errors import DataError


@dataclass(frozen=True)
class GoldStandard:
    """A gene that someone holds to be causal for an association; positions in base pairs on GRCh38, 1-based.

    `trait` is the curated name, or the study's own where there is none; both are empty in the release of 2023, which
    knows traits by ontology id alone.
    """

    chromosome: str
    position: int
    reference: str
    alternative: str
    rsid: str
    trait: str
    reported_trait: str
    ontology: tuple[str, ...]
    study: str
    pmid: str
    ensembl_id: str
    confidence: str
    set_label: str
    curators: tuple[str, ...]


def read_gold_standards(path: Path) -> list[GoldStandard]:
    """Every record of a file of JSON lines, in file order. Raises: DataError for a malformed record."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(_gold_standard(json.loads(line)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed(path, number, error) from None
    return rows


def _gold_standard(record: dict[str, Any]) -> GoldStandard:
    gold, sentinel, trait = (record[part] for part in ("gold_standard_info", "sentinel_variant", "trait_info"))
    association, locus = record["association_info"], sentinel["locus_GRCh38"]
    reported = trait.get("reported_trait_name") or ""
    return GoldStandard(
        chromosome=str(locus["chromosome"]),
        position=int(locus["position"]),
        reference=sentinel["alleles"]["reference"],
        alternative=sentinel["alleles"]["alternative"],
        rsid=sentinel.get("rsid") or "",
        trait=trait.get("standard_trait_name") or reported,
        reported_trait=reported,
        ontology=tuple(trait.get("ontology") or ()),
        study=association.get("gwas_catalog_id") or association.get("otg_id") or "",
        pmid=association.get("pubmed_id") or "",
        ensembl_id=gold["gene_id"],
        confidence=gold["highest_confidence"],
        set_label=record["metadata"]["set_label"].strip(),
        curators=tuple(sorted({e["curated_by"] for e in gold.get("evidence", ()) if e.get("curated_by")})),
    )


@dataclass(frozen=True)
class Trait:
    """A trait of genome-wide studies: ontology id, name, the studies' own words for it, and how many studies there are.

    Nothing of what the studies found.
    """

    id: str
    name: str
    reported: tuple[str, ...]
    studies: int


def traits_of(standards: Iterable[GoldStandard]) -> list[Trait]:
    """The traits that bear one ontology id and a name, sorted by id; of several names the most frequent."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    reported: dict[str, set[str]] = defaultdict(set)
    studies: dict[str, set[str]] = defaultdict(set)
    for one in standards:
        if len(one.ontology) == 1 and one.trait:
            (id,) = one.ontology
            names[id][one.trait] += 1
            reported[id].add(one.reported_trait)
            studies[id].add(one.study)
    best = {id: min(counts, key=lambda name: (-counts[name], name)) for id, counts in names.items()}
    return [Trait(id, best[id], tuple(sorted(reported[id] - {""})), len(studies[id])) for id in sorted(best)]


def read_table(path: Path, columns: dict[str, type]) -> list[dict[str, Any]]:
    """Some columns of a tab-separated file with a header row.

    Args:
        columns: type (`str`, `int`, `float`, or `bool` for TRUE and FALSE) by column.
    Returns: one dict a row; None for an empty field that is no text.
    Raises: DataError when a column is missing or a value is not of its type.
    """
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t"), 2):
            try:
                rows.append({name: _value(row[name], kind) for name, kind in columns.items()})
            except (KeyError, TypeError, ValueError) as error:
                raise _malformed(path, number, error) from None
    return rows


def read_screen(path: Path) -> Iterator[tuple[str, float]]:
    """(gene symbol, score) of a screen, in file order; the header differs from file to file and is skipped.

    Raises: DataError for a malformed row.
    """
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if number > 1:
                try:
                    gene, score = row
                    yield gene, float(score)
                except ValueError as error:
                    raise _malformed(path, number, error) from None


def read_question(path: Path) -> tuple[str, str]:
    """(task, measurement) that a screen's prompt file states. Raises: DataError when it lacks one."""
    try:
        question = json.loads(path.read_text(encoding="utf-8"))
        return question["Task"].strip(), question["Measurement"].strip()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(path, 1, error) from None


def _value(text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        return {"TRUE": True, "FALSE": False, "": None}[text]
    return kind(text) if text else None


def _malformed(path: Path, line: int, error: Exception) -> DataError:
    return DataError(
        f"{path} line {line} is malformed ({type(error).__name__}: {error}); delete the file, then run `make data`"
    )
