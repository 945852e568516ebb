"""Tools over the genome: genes, names, places, paralogs, expression and pathogenic variants on GRCh38.

A gene is named by Ensembl id, symbol or unambiguous synonym. Positions are base pairs, 1-based, both ends inside. They
need the public tier (`make data`) and raise DataError without it. What a gene does in a disease is in `functions`.
"""

from biomni_lib.lake import Lake
from biomni_lib.lake.gene_caches import REVIEW_STATUS, SIGNIFICANCE
from biomni_lib.lake.genome import Genome
from biomni_lib.lake.ids import shown
from biomni_lib.tools.arguments import count, whole_number

ALLELE_LETTERS_MAX = 20
REGION_MAX = 2_000_000
"""Base pairs; a list cut short would hide genes, so a longer region is refused instead."""


def gene_info(lake: Lake, gene: str) -> dict[str, object]:
    """Name, place and length of a gene.

    Args:
        gene: Ensembl id, symbol or synonym.
    Returns: {"ensg", "symbol", "description", "chromosome", "start", "end", "length"}; GRCh38, in base pairs.
    Example: gene_info("TP53")["description"] -> "tumor protein p53"
    """
    genome = lake.genome
    row = genome.gene_row(gene)
    start, end = int(genome.gene_starts[row]), int(genome.gene_ends[row])
    return {
        "ensg": genome.ensembl_id(row),
        "symbol": genome.symbols[row],
        "description": genome.descriptions[row],
        "chromosome": genome.chromosomes[int(genome.gene_chromosomes[row])],
        "start": start,
        "end": end,
        "length": end - start + 1,
    }


def resolve_symbol(lake: Lake, name: str) -> list[tuple[str, str]]:
    """The genes that bear a name, as symbol or as synonym; upper and lower case are the same.

    Args:
        name: symbol or synonym.
    Returns: [(Ensembl id, symbol), ...], genes with that symbol first; empty when no gene bears it.
    Example: resolve_symbol("HER2") -> [("ENSG00000141736", "ERBB2")]
    """
    return [_named(lake.genome, row) for row, _ in lake.genome.genes_named(name)]


def synonyms_of(lake: Lake, gene: str) -> list[str]:
    """Other names of a gene.

    Args:
        gene: Ensembl id, symbol or synonym.
    Returns: [name, ...], in alphabetical order; empty when none is known.
    Example: "HER2" in synonyms_of("ERBB2") -> True
    """
    return lake.genome.synonyms_of(lake.genome.gene_row(gene))


def search_genes(lake: Lake, text: str, top: int = 10) -> list[tuple[str, str, str]]:
    """Genes whose description contains every word of a text, shortest description first.

    Args:
        text: words, upper or lower case. top: most results.
    Returns: [(Ensembl id, symbol, description), ...].
    Example: search_genes("fibrillin 1", top=1) -> [("ENSG00000166147", "FBN1", "fibrillin 1")]
    """
    words, genome = str(text).lower().split(), lake.genome
    if not words:
        raise ValueError("search_genes needs at least one word")
    texts = genome.descriptions_lower
    hits = [(texts[row], row) for row in texts.rows_with(max(words, key=len))]
    kept = sorted((len(text), row) for text, row in hits if all(word in text for word in words))
    return [(*_named(genome, row), genome.descriptions[row]) for _, row in kept[: count(top)]]


def genes_in_region(lake: Lake, chromosome: str, start: int, end: int) -> list[tuple[str, str, int, int]]:
    """All genes that share at least one base with a region.

    Args:
        chromosome: 1 to 22, X, Y or MT. start, end: base pairs, GRCh38, at most 2,000,000 apart.
    Returns: [(Ensembl id, symbol, start, end), ...], sorted by start.
    Example: [symbol for _, symbol, _, _ in genes_in_region("15", 48500000, 48600000)] -> ["FBN1"]
    """
    genome, (first, last) = lake.genome, _region(start, end)
    if last - first > REGION_MAX:
        raise ValueError(f"a region may have at most {REGION_MAX} base pairs, not {last - first}")
    rows = genome.genes_between(genome.chromosome_code(chromosome), first, last)
    return [(*_named(genome, row), int(genome.gene_starts[row]), int(genome.gene_ends[row])) for row in rows]


def nearest_genes(lake: Lake, chromosome: str, position: int, top: int = 5) -> list[tuple[str, str, int]]:
    """Genes closest to a position.

    Args:
        chromosome: 1 to 22, X, Y or MT. position: base pairs, GRCh38. top: most results.
    Returns: [(Ensembl id, symbol, distance in base pairs to the gene's nearer end, 0 inside it), ...], closest first.
    Example: nearest_genes("15", 48600000, top=1) -> [("ENSG00000166147", "FBN1", 0)]
    """
    genome = lake.genome
    rows, distances = genome.distances(genome.chromosome_code(chromosome), whole_number("position", position))
    best = distances.argsort(kind="stable")[: count(top)]
    return [(*_named(genome, rows[at]), int(distances[at])) for at in best]


def distance_to_gene(lake: Lake, gene: str, chromosome: str, position: int) -> int | None:
    """How far a position is from a gene.

    Args:
        gene: Ensembl id, symbol or synonym. chromosome: of the position. position: base pairs, GRCh38.
    Returns: base pairs to the gene's nearer end, 0 inside it; None on another chromosome.
    Example: distance_to_gene("FBN1", "15", 48000000) -> 408313
    """
    genome = lake.genome
    row, at = genome.gene_row(gene), whole_number("position", position)
    if genome.gene_chromosomes[row] != genome.chromosome_code(chromosome):
        return None
    return max(0, int(genome.gene_starts[row]) - at, at - int(genome.gene_ends[row]))


def paralogs_of(lake: Lake, gene: str, top: int = 20) -> list[tuple[str, str]]:
    """Genes that descend from the same ancestral gene by duplication.

    Args:
        gene: Ensembl id, symbol or synonym. top: most results; families of zinc fingers have hundreds of members.
    Returns: [(Ensembl id, symbol, empty where unknown), ...], ascending by id.
    Example: [symbol for _, symbol in paralogs_of("TP53")] -> ["TP63", "TP73"]
    """
    genome = lake.genome
    found = genome.paralogs(genome.gene_row(gene))[: count(top)]
    return [(f"ENSG{number:011d}", genome.symbol_of(int(number))) for number in found]


def tissue_expression(lake: Lake, gene: str, top: int = 5) -> list[tuple[str, float]]:
    """Tissues of healthy donors (GTEx v8) that express a gene most.

    Args:
        gene: Ensembl id, symbol or synonym. top: most tissues; the source keeps ten.
    Returns: [(tissue, median in transcripts per million), ...], highest first; empty when none is known.
    Example: tissue_expression("ALB", top=1)[0][0] -> "Liver"
    """
    genome = lake.genome
    rows = genome.expression[genome.gene_row(gene)][: count(top)]
    medians = genome.expression_summaries[rows, 2]
    tissues = [genome.tissues[int(at)] for at in genome.expression_tissues[rows]]
    return [(tissue, round(float(median), 2)) for tissue, median in zip(tissues, medians, strict=True)]


def expression_in_tissue(lake: Lake, gene: str, tissue: str) -> dict[str, object] | None:
    """How a gene's expression is spread over the donors of one tissue (GTEx v8).

    Args:
        gene: Ensembl id, symbol or synonym. tissue: its name as `tissue_expression` prints it.
    Returns: {"tissue", "samples", "minimum", "q1", "median", "q3", "maximum" (transcripts per million)}; None when the
        tissue is not among the gene's ten highest.
    Example: expression_in_tissue("ALB", "Liver")["samples"] -> 226
    """
    genome = lake.genome
    names = [genome.tissues[at].lower() for at in range(len(genome.tissues))]
    if str(tissue).strip().lower() not in names:
        raise ValueError(f"unknown tissue {shown(tissue)}; expected one as tissue_expression prints it, like Liver")
    code = names.index(str(tissue).strip().lower())
    for row in genome.expression[genome.gene_row(gene)]:
        if genome.expression_tissues[row] == code:
            numbers = [round(float(number), 2) for number in genome.expression_summaries[row]]
            summary = zip(("minimum", "q1", "median", "q3", "maximum"), numbers, strict=True)
            return {"tissue": genome.tissues[code], "samples": int(genome.tissue_samples[code]), **dict(summary)}
    return None


def pathogenic_variants_of_gene(lake: Lake, gene: str, top: int = 10) -> list[tuple[str, str, str]]:
    """ClinVar variants inside a gene that several submitters or an expert panel call pathogenic or likely so.

    Args:
        gene: Ensembl id, symbol or synonym. top: most results.
    Returns: [(chromosome:position:reference:alternative, significance, rsID or empty), ...], by position.
    Example: pathogenic_variants_of_gene("APOE")[-1] -> ("19:44908791:GCTC:G", "Pathogenic", "rs515726148")
    """
    place = gene_info(lake, gene)
    return variants_in_region(lake, str(place["chromosome"]), place["start"], place["end"], top)  # type: ignore[arg-type]


def count_pathogenic_variants(lake: Lake, gene: str) -> int:
    """Number of ClinVar variants inside a gene that are called pathogenic or likely so, as above.

    Args:
        gene: Ensembl id, symbol or synonym.
    Returns: how many there are.
    Example: count_pathogenic_variants("APOE") -> 2
    """
    genome = lake.genome
    row = genome.gene_row(gene)
    start, end = int(genome.gene_starts[row]), int(genome.gene_ends[row])
    return len(genome.variants_between(int(genome.gene_chromosomes[row]), start, end))


def variants_in_region(lake: Lake, chromosome: str, start: int, end: int, top: int = 10) -> list[tuple[str, str, str]]:
    """ClinVar variants that begin in a region and are called pathogenic or likely so.

    Args:
        chromosome: 1 to 22, X, Y or MT. start, end: base pairs, GRCh38. top: most results.
    Returns: [(chromosome:position:reference:alternative, significance, rsID or empty), ...], by position.
    Example: variants_in_region("11", 5227002, 5227002)[0][2] -> "rs334"
    """
    genome = lake.genome
    rows = genome.variants_between(genome.chromosome_code(chromosome), *_region(start, end))[: count(top)]
    return [(_variant(genome, row), SIGNIFICANCE[genome.variant_significance[row]], _rsid(genome, row)) for row in rows]


def variant_info(lake: Lake, id: str) -> list[dict[str, object]]:
    """What ClinVar says of a pathogenic or likely pathogenic variant.

    Args:
        id: rsID, or ClinVar's variation id as digits.
    Returns: [{"variant": chromosome:position:reference:alternative, "clinvar": id, "rsid", "significance", "review",
        "frequency": in ExAC, 0 to 1 or None, "genes": [symbols of the genes at that place]}, ...], one an alternative
        allele; empty when the variant is not among them.
    Example: variant_info("rs334")[0]["genes"] -> ["HBB"]
    """
    genome, text = lake.genome, str(id).strip().lower()
    digits = text.removeprefix("rs")
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 2**63):
        raise ValueError(f"unknown variant {shown(id)}; expected an rsID like rs334 or a ClinVar id like 15333")
    rows = genome.variants_with(int(digits), "rsid" if text.startswith("rs") else "clinvar_id")
    return [_variant_record(genome, int(row)) for row in rows]


TOOLS = (
    gene_info,
    resolve_symbol,
    synonyms_of,
    search_genes,
    genes_in_region,
    nearest_genes,
    distance_to_gene,
    paralogs_of,
    tissue_expression,
    expression_in_tissue,
    pathogenic_variants_of_gene,
    count_pathogenic_variants,
    variants_in_region,
    variant_info,
)


def _named(genome: Genome, row: int) -> tuple[str, str]:
    return genome.ensembl_id(row), genome.symbols[row]


def _region(start: int, end: int) -> tuple[int, int]:
    first, last = whole_number("start", start), whole_number("end", end)
    if first > last:
        raise ValueError(f"start {first} lies behind end {last}")
    return first, last


def _variant_record(genome: Genome, row: int) -> dict[str, object]:
    chromosome, position = genome.chromosome_of_variant(row), int(genome.variant_positions[row])
    frequency = float(genome.variant_frequencies[row])
    genes = genome.genes_between(genome.chromosome_code(chromosome), position, position)
    return {
        "variant": _variant(genome, row),
        "clinvar": str(genome.variant_clinvar_ids[row]),
        "rsid": _rsid(genome, row),
        "significance": SIGNIFICANCE[genome.variant_significance[row]],
        "review": REVIEW_STATUS[genome.variant_review[row]],
        "frequency": None if frequency != frequency else round(frequency, 6),
        "genes": [genome.symbols[gene] for gene in genes],
    }


def _variant(genome: Genome, row: int) -> str:
    alleles = (_allele(genome.variant_references[row]), _allele(genome.variant_alternatives[row]))
    return ":".join((genome.chromosome_of_variant(row), str(genome.variant_positions[row]), *alleles))


def _allele(letters: str) -> str:
    return letters if len(letters) <= ALLELE_LETTERS_MAX else f"{letters[:ALLELE_LETTERS_MAX]}...({len(letters)} bp)"


def _rsid(genome: Genome, row: int) -> str:
    return f"rs{genome.variant_rsids[row]}" if genome.variant_rsids[row] else ""
