"""Readers for the three HPO files: the ontology, the disease annotations and the gene-disease links.

Only OMIM diseases are read: the tasks ask for OMIM numbers, and Orphanet's entries often stand for groups of diseases.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from biomni_lib.errors import DataError

PHENOTYPIC_ABNORMALITY = "HP:0000118"
FREQUENCY_CLASSES = {
    "HP:0040280": 1.0,
    "HP:0040281": 0.895,
    "HP:0040282": 0.545,
    "HP:0040283": 0.17,
    "HP:0040284": 0.025,
    "HP:0040285": 0.0,
}
"""Midpoints of the HPO's classes: obligate 100%, very frequent 80-99%, frequent 30-79%, occasional 5-29%, very rare
1-4%, excluded 0% (subontology HP:0040279)."""


@dataclass(frozen=True)
class Term:
    """A living ontology term; `parents` and `alternatives` are term ids."""

    id: str
    name: str
    definition: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    alternatives: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """One annotation row: an OMIM disease shows (or, when excluded, does not show) a term.

    `affected` of `examined` patients when the source counts them, else -1 of -1; `frequency` from 0 to 1, None if the
    source gives none.
    """

    omim: int
    disease: str
    term: str
    frequency: float | None
    affected: int
    examined: int
    excluded: bool
    aspect: str
    reference: str


def parse_frequency(text: str) -> tuple[float | None, int, int]:
    """Frequency, patients affected and patients examined of a frequency field.

    Args:
        text: empty, `n/m`, a percentage such as `12.5%`, or an HPO frequency class such as `HP:0040283`.
    Returns: (frequency from 0 to 1 or None, affected or -1, examined or -1).
    Raises: DataError for any other text.
    """
    text = text.strip()
    if not text:
        return None, -1, -1
    if text in FREQUENCY_CLASSES:
        return FREQUENCY_CLASSES[text], -1, -1
    if match := re.fullmatch(r"([0-9]+)/([0-9]+)", text):
        affected, examined = int(match[1]), int(match[2])
        if 0 <= affected <= examined and examined > 0:
            return affected / examined, affected, examined
    if (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", text)) and float(match[1]) <= 100:
        return float(match[1]) / 100, -1, -1
    raise DataError(f"frequency {text!r} is neither n/m, a percentage nor an HPO frequency class")


def read_terms(path: Path) -> list[Term]:
    """Living terms of `hp.obo`, sorted by id. Raises: DataError when a term lacks an id or name."""
    stanzas = path.read_text(encoding="utf-8").split("\n[Term]\n")[1:]
    terms = [_term(stanza.split("\n\n")[0]) for stanza in stanzas if "\nis_obsolete: true" not in stanza]
    return sorted(terms, key=lambda term: term.id)


def _term(stanza: str) -> Term:
    fields: dict[str, list[str]] = {}
    for line in stanza.splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    if "id" not in fields or "name" not in fields:
        raise DataError(f"ontology term without id or name: {stanza[:60]!r}; reinstall with `make setup`")
    return Term(
        id=fields["id"][0],
        name=fields["name"][0],
        definition=_quoted(fields["def"][0]) if "def" in fields else "",
        synonyms=tuple(_quoted(synonym) for synonym in fields.get("synonym", ())),
        parents=tuple(parent.split(" ! ")[0].split(" {")[0].strip() for parent in fields.get("is_a", ())),
        alternatives=tuple(fields.get("alt_id", ())),
    )


def _quoted(value: str) -> str:
    match = re.match(r'"((?:[^"\\]|\\.)*)"', value)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else value


def read_annotations(path: Path) -> Iterator[Annotation]:
    """Annotations of OMIM diseases in `phenotype.hpoa`, in file order. Raises: DataError for a malformed row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = (line for line in file if not line.startswith("#"))
        for row in csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["database_id"].startswith("OMIM:"):
                frequency, affected, examined = parse_frequency(row["frequency"])
                yield Annotation(
                    omim=int(row["database_id"][5:]),
                    disease=row["disease_name"],
                    term=row["hpo_id"],
                    frequency=frequency,
                    affected=affected,
                    examined=examined,
                    excluded=row["qualifier"] == "NOT" or frequency == 0,
                    aspect=row["aspect"],
                    reference=row["reference"],
                )


def read_gene_links(path: Path) -> list[tuple[str, int]]:
    """Distinct (gene symbol, OMIM number) pairs of `genes_to_phenotype.txt`, sorted."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        links = {(row["gene_symbol"], row["disease_id"]) for row in rows}
    return sorted((symbol, int(disease[5:])) for symbol, disease in links if disease.startswith("OMIM:"))
