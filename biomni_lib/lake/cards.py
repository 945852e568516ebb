"""Data cards: what each source of the lake is, under which terms it may be used, and what it cannot say."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomni_lib.lake import public, sources
from biomni_lib.lake.datasets import public_manifests
from biomni_lib.lake.manifest import LakeManifest, read_lake_manifest


@dataclass(frozen=True)
class DataCard:
    """What a reader should know of a source before using it; version and licence are in the manifest."""

    what: str
    citation: str
    limits: str


HPO_CITATION = "Gargano et al. 2024, Nucleic Acids Research 52, D1333, doi 10.1093/nar/gkad1005"
IDEOGRAM_CITATION = "Weitz, ideogram, https://github.com/eweitz/ideogram"
MINIKEL_CITATION = "Minikel et al. 2024, Nature, https://github.com/ericminikel/genetic_support"
OPEN_TARGETS_CITATION = "Mountjoy et al. 2021, Nature Genetics 53, 1527, doi 10.1038/s41588-021-00945-5"

CARDS: dict[str, DataCard] = {
    sources.ONTOLOGY.name: DataCard(
        "terms of abnormal findings and how they are related",
        HPO_CITATION,
        "living terms alone; retired ids lead to their successors",
    ),
    sources.ANNOTATIONS.name: DataCard(
        "which findings a disease shows, how often, and who says so",
        HPO_CITATION,
        "OMIM diseases alone; many findings without a frequency; small case series count like large ones",
    ),
    sources.GENE_LINKS.name: DataCard(
        "which genes are linked to a disease",
        HPO_CITATION,
        "OMIM diseases alone; symbols that the gene table lacks are left out",
    ),
    sources.GENES.name: DataCard(
        "place and description of the genes that the HPO links to a disease",
        IDEOGRAM_CITATION,
        "one locus a symbol",
    ),
    public.GENES.name: DataCard(
        "every gene that has a symbol: place on GRCh38, description",
        f"{IDEOGRAM_CITATION}; Ensembl release 110",
        "genes without a symbol are absent; no strand, no biotype; 97 symbols name several genes",
    ),
    public.SYNONYMS.name: DataCard(
        "other names of genes",
        IDEOGRAM_CITATION,
        "1,441 synonyms name several genes, 555 are the symbol of another gene; undated",
    ),
    public.PARALOGS.name: DataCard(
        "families of genes that descend from one by duplication",
        IDEOGRAM_CITATION,
        "no degree of similarity; families of up to 1,314 members; some members are in no other table; undated",
    ),
    public.TISSUES.name: DataCard(
        "five-number summary of each gene's expression in up to ten tissues",
        f"{IDEOGRAM_CITATION}; GTEx v8",
        "the ten tissues of highest median alone; older symbols: 22,016 of 40,219 are among the genes; healthy donors",
    ),
    public.VARIANTS.name: DataCard(
        "variants that ClinVar calls pathogenic or likely pathogenic",
        f"{IDEOGRAM_CITATION}; ClinVar 2024-12-15",
        "only those that several submitters or experts agree on; disease and consequence are coded and not read; an "
        "absent variant may be benign, uncertain or unseen; none on Y",
    ),
    public.GOLD_2019.name: DataCard(
        "genes held causal for an association, with confidence and who says so",
        OPEN_TARGETS_CITATION,
        "1,421 distinct locus, trait and gene, 947 of high or medium confidence; the gene lies within 500 kb for 935 "
        "of them; an rsID in the 227 ProGeM rows alone",
    ),
    public.GOLD_2023.name: DataCard(
        "the same, as used in 2023",
        OPEN_TARGETS_CITATION,
        "traits by ontology id alone; no evidence, curator or paper; overlaps the set of 2019",
    ),
    public.SUPPORTED_TARGETS.name: DataCard(
        "drug targets and indications that a human association supports",
        MINIKEL_CITATION,
        "464 pairs of 234 genes; support is not proof of effect; 82 of the genes are Open Targets gold genes; a window "
        "centred on the gene gives the answer away",
    ),
    public.PROGRAMMES.name: DataCard(
        "drug targets, indications and the phase reached",
        MINIKEL_CITATION,
        "29,460 distinct pairs in 29,476 rows; a phase is that of the pair, not of one drug",
    ),
    "BioDiscoveryAgent screens": DataCard(
        "scores by gene of CRISPR screens in human cells, and the question that each asks",
        "Roohani et al. 2024, arXiv 2405.17631",
        "six screens of 18,418 to 18,939 genes and one of 1,055 (Scharenberg22); units differ from screen to screen; "
        "screens of one study share their strongest genes: of 100, IFNG and IL2 36, the two of Sanchez21 26",
    ),
    public.PHENOPACKETS.name: DataCard(
        "published patients: findings present and excluded, OMIM disease, causal gene",
        "Danis et al. 2025, HGG Advances; each case cites its paper",
        "9,255 of 10,580 have three findings and one gene; 4,422 of these come from papers that the HPO annotations "
        "cite for that disease, so that a disease look-up has seen them; diseases and papers are unevenly covered",
    ),
}
"""By `Source.name`."""


def data_cards(lake_dir: Path) -> list[dict[str, Any]]:
    """One card a source that the lake was built from, the public tier included where it was.

    Args:
        lake_dir: folder of the bundled lake.
    Returns: dicts of source, what, version, licence, citation, rows, tables, known limits.
    Raises: DataError when there is no lake.
    """
    manifests = {"lake": read_lake_manifest(lake_dir), **public_manifests(lake_dir)}
    return [card for data_set, manifest in manifests.items() for card in _cards(data_set, manifest)]


def _cards(data_set: str, manifest: LakeManifest) -> list[dict[str, Any]]:
    by_source: dict[str, dict[str, int]] = {}
    for name, entry in manifest.tables.items():
        by_source.setdefault(entry.source, {})[name] = entry.rows
    return [_card(source, data_set, tables, manifest) for source, tables in by_source.items()]


def _card(source: str, data_set: str, tables: Mapping[str, int], manifest: LakeManifest) -> dict[str, Any]:
    entry, card = manifest.tables[next(iter(tables))], CARDS[source]
    return {
        "source": source,
        "data set": data_set,
        "what": card.what,
        "version": entry.version,
        "licence": entry.licence,
        "citation": card.citation,
        "rows": sum(tables.values()),
        "tables": ", ".join(f"{name} {rows:,}" for name, rows in tables.items()),
        "known limits": card.limits,
    }
