"""Patients of the Phenopacket Store: reader of its archive of GA4GH phenopackets (version 2, JSON).

Read of each case: terms present and excluded, OMIM disease, causal gene, sex, PMID. Left out: age and onset of
findings, measurements, the variant itself.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from biomni_lib.errors import DataError


@dataclass(frozen=True)
class Patient:
    """One published case. `gene_hgnc` and `gene_symbol` are empty where no gene is named (chromosomal deletions)."""

    id: str
    cohort: str
    omim: int
    disease: str
    gene_hgnc: str
    gene_symbol: str
    pmid: str
    sex: str
    present: tuple[str, ...]
    excluded: tuple[str, ...]


def members_sha256(path: Path) -> str:
    """What identifies the cases of an archive, whatever packed them: sha256 over `FILE NAME sha256` lines, sorted.

    Raises: DataError when the file is no zip archive.
    """
    lines = sorted(f"{name.name} {hashlib.sha256(content).hexdigest()}\n" for name, content in _cases(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_patients(path: Path) -> list[Patient]:
    """Every case, sorted by id. Raises: DataError when the file is no zip archive or a case is malformed."""
    patients = []
    for name, content in _cases(path):
        try:
            patients.append(_patient(_cohort(name), json.loads(content)))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            fault = f"{type(error).__name__}: {error}"
            raise DataError(f"phenopacket {name} of {path} is malformed ({fault}); run `make data`") from None
    return sorted(patients, key=lambda patient: patient.id)


def _cases(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Cases of a release (VERSION/COHORT/CASE.json) or of the repository (…/COHORT/phenopackets/CASE.json)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist() if name.endswith(".json")]
            of_repository = any(name.parent.name == "phenopackets" for name in names)
            for name in names:
                if name.parent.name == "phenopackets" or not of_repository:
                    yield name, archive.read(str(name))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not an archive of phenopackets ({error}); delete it, then run `make data`"
        ) from None


def _cohort(name: PurePosixPath) -> str:
    return (name.parent.parent if name.parent.name == "phenopackets" else name.parent).name


def _patient(cohort: str, packet: dict[str, Any]) -> Patient:
    diagnoses = [interpretation["diagnosis"] for interpretation in packet["interpretations"]]
    (disease,) = {(one["disease"]["id"], one["disease"]["label"]) for one in diagnoses}
    hgnc, symbol = _gene(diagnoses)
    return Patient(
        id=packet["id"],
        cohort=cohort,
        omim=int(disease[0].removeprefix("OMIM:")),
        disease=disease[1],
        gene_hgnc=hgnc,
        gene_symbol=symbol,
        pmid=packet["metaData"]["externalReferences"][0]["id"],
        sex=packet["subject"].get("sex", "UNKNOWN_SEX"),
        present=_terms(packet, excluded=False),
        excluded=_terms(packet, excluded=True),
    )


def _gene(diagnoses: list[dict[str, Any]]) -> tuple[str, str]:
    """HGNC id and symbol of the one gene that the variants lie in, or two empty texts."""
    contexts = [
        variant["variantInterpretation"]["variationDescriptor"].get("geneContext")
        for diagnosis in diagnoses
        for variant in diagnosis.get("genomicInterpretations", ())
    ]
    genes = {(context["valueId"], context["symbol"]) for context in contexts if context}
    return next(iter(genes)) if len(genes) == 1 else ("", "")


def _terms(packet: dict[str, Any], *, excluded: bool) -> tuple[str, ...]:
    features = packet.get("phenotypicFeatures", ())
    return tuple(sorted({f["type"]["id"] for f in features if bool(f.get("excluded")) is excluded}))
