"""The task `gwas_causal_gene_pharmaprojects`: which gene of a region is the target of a drug for a disease.

Source: the published table of genetic_support (Minikel et al. 2024), drug targets whose indication human genetics
supports; the Pharmaprojects database itself is not public. Shown is the indication, never the associated trait, which
often names the gene's product. The region is drawn so that it gives nothing away: its centre lies uniformly within
500 kb of the middle of the gene, and its genes are those whose middle lies within 500 kb of the centre, so that from
the place alone each is as likely the target as any other; above the cap the others are thinned out at random, which
keeps that so. Other targets of drugs for the same disease would be right too and are no candidates. Of 464 pairs of
target and indication 445 are asked; the others have no coding gene near. Not covered: targets are long and well-studied
genes, which the baselines `nearest_gene` and `pathogenic_variants` pick up.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomni_lib.lake.datasets import gold_table
from biomni_lib.tasks import gene_baselines
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.curated import CuratedTask
from biomni_lib.tasks.gene_split import split_of_gene
from biomni_lib.tasks.gwas import CANDIDATES_MAX
from biomni_lib.tasks.loci import WINDOW_BP, coding_genes, supported_genes
from biomni_lib.tasks.splits import SPLITS

_PROMPT = (
    "Task: given a disease, a region and genes in it, identify the gene whose product is the target of a drug for the "
    "disease, supported by human genetics.\n"
    "Disease: {disease}\nRegion: chromosome {chromosome}, around position {position} (GRCh38)\n"
    "Candidate genes: {genes}\nOutput format: only the gene symbol"
)


@dataclass(frozen=True)
class Target:
    """A gene, by row, that a drug for a disease acts on; `others` are symbols of the disease's other targets."""

    gene: int
    disease: str
    others: frozenset[str]


class GwasCausalGenePharmaprojects(CuratedTask[Target]):
    """The drug target among the genes of a region that holds it anywhere."""

    name = "gwas_causal_gene_pharmaprojects"
    stream = 5
    data_sets = ("genome", "drug_targets")

    def read_answers(self) -> dict[str, Sequence[Target]]:
        """One answer each target and indication, where the gene has a neighbour to be confused with."""
        self._coding = coding_genes(self.genome)
        lake_dir, rows, targets_of = self.lake.lake_dir, supported_genes(self.lake), defaultdict(set)
        for record in gold_table(lake_dir, "drug_targets", "programmes").to_pylist():
            targets_of[record["indication_mesh_term"]].add(record["gene"])
        supported = gold_table(lake_dir, "drug_targets", "supported_targets").to_pylist()
        pairs = sorted({(one["gene"], one["indication_mesh_term"]) for one in supported if one["gene"] in rows})
        targets = [Target(rows[gene], disease, frozenset(targets_of[disease] - {gene})) for gene, disease in pairs]
        fit = [one for one in targets if len(self._region(one, self._middle(one.gene))) > 1]
        return {split: [one for one in fit if split_of_gene(self.genome, one.gene) == split] for split in SPLITS}

    def ask(self, answer: Target, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        """Disease, centre of the region and candidates in random order."""
        genome, position, rows = self.genome, 0, [answer.gene]
        while position < 1 or len(rows) < 2:
            position = self._middle(answer.gene) + int(rng.integers(-WINDOW_BP, WINDOW_BP + 1))
            rows = self._region(answer, position)
        others = rng.permutation([row for row in rows if row != answer.gene])[: CANDIDATES_MAX - 1]
        symbols = [genome.symbols[row] for row in rng.permutation([answer.gene, *others])]
        place = {"chromosome": genome.chromosomes[int(genome.gene_chromosomes[answer.gene])], "position": position}
        meta = {"gene": genome.ensembl_id(answer.gene), "candidates": symbols, "trait": answer.disease, **place}
        prompt = _PROMPT.format(disease=answer.disease, genes=", ".join(symbols), **place)
        return prompt, genome.symbols[answer.gene], meta

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics over the candidates; see `gene_baselines`. No majority: no gene is in two splits."""
        return gene_baselines.locus_baselines(self.lake)

    def _middle(self, row: int) -> int:
        return int(self.genome.gene_starts[row] + self.genome.gene_ends[row]) // 2

    def _region(self, target: Target, position: int) -> list[int]:
        """Rows of the coding genes whose middle lies within 500 kb, one a symbol, no other target for the disease."""
        genome = self.genome
        rows = genome.genes_on[int(genome.gene_chromosomes[target.gene])]
        rows = rows[self._coding[rows]]
        middles = (genome.gene_starts[rows] + genome.gene_ends[rows]) // 2
        within = rows[np.abs(middles - position) <= WINDOW_BP].tolist()
        by_symbol = {genome.symbols[row]: row for row in [*within, target.gene]}
        return [row for symbol, row in by_symbol.items() if symbol not in target.others]
