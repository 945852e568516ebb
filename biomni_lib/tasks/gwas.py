"""The two tasks that ask for the gene behind a GWAS association that somebody curated.

`gwas_causal_gene_opentargets`: Open Targets gold standards of 2019, high and medium confidence.
`gwas_causal_gene_gwas_catalog`: not the GWAS Catalog but the set `ot_platform` of the Open Targets gold standards of
2023, as far as neither other task of causal genes uses gene or place. The Catalog's own file of associations is not
read: it maps genes to variants by place, which is no answer, and this project could verify neither a pinned address nor
a checksum of it.

The candidates are the nearest coding genes within 500 kb, whatever the answer is, in random order: they give nothing
away that the place does not. A locus whose gene is not among them, or alone, is left out. Of 947 associations of 2019
866 are left, of 229 of 2023 208. The cap takes 5 loci, and the nearest gene is right in 58.1% where it was in 57.9%;
with RNA genes and pseudogenes among the genes it would be right in 48.9%. The place itself tells much: compare a model
with the baseline `nearest_gene`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.tasks import gene_baselines
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.curated import CuratedTask
from biomni_lib.tasks.gene_split import split_of_chromosome
from biomni_lib.tasks.loci import Locus, coding_genes, curated_loci, genes_near, platform_loci
from biomni_lib.tasks.splits import SPLITS

CANDIDATES_MAX = 20
"""The median locus has 10 coding genes within 500 kb, the densest more than 60."""

_PROMPT = (
    "Task: given a GWAS trait, a locus and the genes near it, identify the causal gene.\n"
    "Trait: {trait}\nLocus: chromosome {chromosome}, position {position} (GRCh38)\nCandidate genes: {genes}\n"
    "Output format: only the gene symbol"
)


class LocusTask(CuratedTask[Locus]):
    """A curated locus among its nearest genes."""

    loci: Callable[[Lake], list[Locus]]

    def read_answers(self) -> dict[str, Sequence[Locus]]:
        """Loci whose gene is among the candidates and not alone."""
        self._coding = coding_genes(self.genome)
        fit = [locus for locus in type(self).loci(self.lake) if self._is_fit(locus)]
        return {split: [one for one in fit if split_of_chromosome(one.chromosome) == split] for split in SPLITS}

    def candidates(self, locus: Locus) -> np.ndarray:
        """Rows of the coding genes nearest to a locus, nearest first."""
        rows = genes_near(self.genome, locus.chromosome, locus.position)[0]
        return rows[self._coding[rows]][:CANDIDATES_MAX]

    def ask(self, answer: Locus, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        """Trait, place and candidates in random order."""
        symbols = [self.genome.symbols[row] for row in rng.permutation(self.candidates(answer))]
        place = {"chromosome": answer.chromosome, "position": answer.position}
        meta = {"gene": self.genome.ensembl_id(answer.gene), "candidates": symbols, "trait": answer.trait, **place}
        prompt = _PROMPT.format(trait=answer.trait, genes=", ".join(symbols), **place)
        return prompt, self.genome.symbols[answer.gene], meta | {"set": answer.set_label, "papers": list(answer.papers)}

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics over the candidates; see `gene_baselines`. No majority: no gene is in two splits."""
        return gene_baselines.locus_baselines(self.lake)

    def _is_fit(self, locus: Locus) -> bool:
        candidates = self.candidates(locus)
        return len(candidates) > 1 and locus.gene in candidates


class GwasCausalGeneOpenTargets(LocusTask):
    """The gene behind an association, as curated until 2019."""

    name = "gwas_causal_gene_opentargets"
    stream = 3
    data_sets = ("genome", "gwas_genes")
    loci = staticmethod(curated_loci)


class GwasCausalGeneGwasCatalog(LocusTask):
    """The same for the set `ot_platform` of 2023, where neither other task uses gene or place."""

    name = "gwas_causal_gene_gwas_catalog"
    stream = 4
    data_sets = ("genome", "gwas_genes", "drug_targets")
    loci = staticmethod(platform_loci)
