"""One split of the genome for every GWAS task: whole chromosomes, as is usual for models of the genome.

A gene, every locus of it and every gene near such a locus lie on one chromosome, so they lie in one split, whichever
task or file they come from; no locus of one split has a gold gene of another among its candidates. The split is the
same for every seed and does not change when a file changes. The chromosomes were sought so that each task has about 15
of 100 questions and genes in `dev` and in `heldout`, and the nearest gene is right about as often in each; 1, 5, 6
(with the HLA genes) and X train. Not covered: paralogs lie on several chromosomes, and a trait may come in every split.
"""

from biomni_lib.lake.genome import Genome
from biomni_lib.tasks.splits import SPLITS

CHROMOSOMES = {"dev": ("11", "15", "17", "22"), "heldout": ("4", "12", "14", "18")}
"""All others train."""


def split_of_chromosome(chromosome: str) -> str:
    """Split of what lies on a chromosome, named without `chr`."""
    return next((split for split in SPLITS if chromosome in CHROMOSOMES.get(split, ())), "train")


def split_of_gene(genome: Genome, row: int) -> str:
    """Split of a gene, by its row of the genome."""
    return split_of_chromosome(genome.chromosomes[int(genome.gene_chromosomes[row])])
