"""Associations whose causal gene somebody curated, and the genes around a place.

Source: the Open Targets genetics gold standards. A locus is a sentinel variant and what lies within 500 kb of it.
Left out, and counted by the tests: a locus whose gene lies farther away or has no symbol; a locus that has several
curated genes for its trait, since only one answer is asked for. The gene table has no biotype: what counts as an RNA
gene or a pseudogene is read off its description, and a few that say nothing of it stay among the coding genes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.lake.datasets import gold_table
from biomni_lib.lake.genome import Genome
from biomni_lib.lake.ids import number_in, row_of

WINDOW_BP = 500_000
"""To either side of a place."""
CONFIDENT = ("High", "Medium")
_NON_CODING = re.compile(
    r"pseudogene|antisense RNA|non-protein coding|non-?coding|lncRNA|host gene|readthrough|^uncharacterized LOC|^RNA, "
    r"|^microRNA|^small (?:nucleolar|Cajal body)|(?:Y|vault|spliceosomal|ribosomal|recognition particle) RNA"
    r"|(?:divergent|intronic|overlapping) transcript",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Locus:
    """A sentinel variant (base pairs on GRCh38, 1-based), its trait as shown, and the row of the gene held causal.

    `papers` are the PubMed ids of the studies that report it, as far as the source has them.
    """

    chromosome: str
    position: int
    trait: str
    gene: int
    set_label: str
    rsid: str = ""
    papers: tuple[str, ...] = ()


def genes_near(genome: Genome, chromosome: str, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Genes within 500 kb of a place; of several with one symbol the nearest.

    Returns: (rows, base pairs to the nearer end, 0 inside), nearest first.
    """
    rows, distances = genome.distances(genome.chromosome_code(chromosome), position)
    near = np.argsort(distances, kind="stable")
    near = near[distances[near] <= WINDOW_BP]
    first = {genome.symbols[row]: at for at, row in reversed(list(zip(near.tolist(), rows[near], strict=True)))}
    kept = [at for at in near.tolist() if first[genome.symbols[rows[at]]] == at]
    return rows[kept], distances[kept]


def coding_genes(genome: Genome) -> np.ndarray:
    """(G,) whether a gene's description leaves open that it codes for a protein: 20,068 of 32,075."""
    return np.array([not _NON_CODING.search(genome.descriptions[row]) for row in range(len(genome.descriptions))])


def curated_loci(lake: Lake) -> list[Locus]:
    """The loci of 2019 with high or medium confidence, sorted; one each locus, trait and gene, traits by name.

    Raises: DataError when the data are not built.
    """
    return _loci(lake, _confident(lake))


def platform_loci(lake: Lake) -> list[Locus]:
    """The loci of 2023, set `ot_platform`, whose gene and place neither of the other two GWAS gene tasks uses.

    A gene is used when it is a gold gene of 2019 with high or medium confidence, or a drug target of genetic_support; a
    place when such a sentinel or drug target lies within 500 kb. The release names traits by ontology id alone: shown
    is its name in the HPO or in the release of 2019, else what genetic_support calls the trait of a study with that id,
    else the id itself.

    Raises: DataError when the data are not built.
    """
    genome, used = lake.genome, list(_confident(lake))
    targets = set(supported_genes(lake).values())
    genes = {record["ensembl_id"] for record in used} | {genome.ensembl_id(row) for row in targets}
    places = _places(genome, used, targets)
    records = [
        record
        for record in gold_table(lake.lake_dir, "gwas_genes", "gold_standards_2023").to_pylist()
        if record["ensembl_id"] not in genes and _is_free(places[record["chromosome"]], record["position"])
    ]
    names = _trait_names(lake)
    shown = [record | {"trait": _shown(lake, names, record["ontology"])} for record in records]
    return _loci(lake, (record for record in shown if record["set_label"] == "ot_platform"))


def supported_genes(lake: Lake) -> dict[str, int]:
    """Row of each drug target that genetics supports, by its symbol. Raises: DataError when the data are not built."""
    genome = lake.genome
    symbols = set(gold_table(lake.lake_dir, "drug_targets", "supported_targets")["gene"].to_pylist())
    return {symbol: genome.genes_named(symbol)[0][0] for symbol in sorted(symbols) if genome.genes_named(symbol)}


def _confident(lake: Lake) -> Iterator[dict[str, Any]]:
    table = gold_table(lake.lake_dir, "gwas_genes", "gold_standards_2019")
    return (record for record in table.to_pylist() if record["confidence"] in CONFIDENT)


def _loci(lake: Lake, records: Iterable[dict[str, Any]]) -> list[Locus]:
    """Loci with one curated gene that is among the genes near them."""
    genome, found = lake.genome, dict[tuple[str, int, str, int], Locus]()
    papers: dict[tuple[str, int, str, int], set[str]] = defaultdict(set)
    for record in records:
        gene = row_of(genome.ensembl_ids, number_in(record["ensembl_id"], "ENSG", 11))
        key = (record["chromosome"], record["position"], record["trait"], gene)
        papers[key] |= {record["pmid"]} - {""}
        found.setdefault(key, Locus(*key, record["set_label"], record["rsid"]))
    found = {key: replace(locus, papers=tuple(sorted(papers[key]))) for key, locus in found.items()}
    genes = Counter(key[:3] for key in found)
    single = [locus for key, locus in sorted(found.items()) if genes[key[:3]] == 1]
    return [one for one in single if one.gene in genes_near(genome, one.chromosome, one.position)[0]]


def _places(genome: Genome, records: Iterable[dict[str, Any]], targets: Iterable[int]) -> dict[str, list[range]]:
    """What other tasks use of each chromosome: sentinels as ranges of one base, genes as ranges."""
    places: dict[str, list[range]] = defaultdict(list)
    for record in records:
        places[record["chromosome"]].append(range(record["position"], record["position"] + 1))
    for row in targets:
        chromosome = genome.chromosomes[int(genome.gene_chromosomes[row])]
        places[chromosome].append(range(int(genome.gene_starts[row]), int(genome.gene_ends[row]) + 1))
    return places


def _is_free(places: list[range], position: int) -> bool:
    return all(position + WINDOW_BP < one.start or position - WINDOW_BP >= one.stop for one in places)


def _trait_names(lake: Lake) -> dict[str, str]:
    """The most common name of each ontology id: the standard name where the release of 2019 gives it to that id alone,
    else what genetic_support calls the trait of a study that the release of 2023 gives that id."""
    standard: dict[str, Counter[str]] = defaultdict(Counter)
    reported: dict[str, Counter[str]] = defaultdict(Counter)
    for record in gold_table(lake.lake_dir, "gwas_genes", "gold_standards_2019").to_pylist():
        if len(record["ontology"]) == 1:
            standard[record["ontology"][0]][record["trait"]] += 1
    supported = gold_table(lake.lake_dir, "drug_targets", "supported_targets").to_pylist()
    trait_of = {one["original_link"].rpartition("/study/")[2]: one["original_trait"] for one in supported}
    for record in gold_table(lake.lake_dir, "gwas_genes", "gold_standards_2023").to_pylist():
        if trait_of.get(record["study"]):
            reported[record["ontology"][0]][trait_of[record["study"]]] += 1
    return {id: min(names, key=lambda name: (-names[name], name)) for id, names in (reported | standard).items()}


def _shown(lake: Lake, names: dict[str, str], ontology: list[str]) -> str:
    """Name of a trait where one is known, else its ontology id."""
    id = ontology[0] if ontology else ""
    row = row_of(lake.term_ids, number_in(id.replace("_", ":"), "HP:", 7))
    return lake.term_names[row] if row >= 0 else names.get(id, id)
