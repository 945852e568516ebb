"""The task `gwas_variant_prioritization`: which of several variants is the sentinel of a trait.

Source: the 227 sentinels of the set ProGeM in the Open Targets gold standards, the only ones with an rsID; most traits
are metabolites. Every candidate is such a sentinel, of the same split and of another trait (no name and no ontology id
in common), so that being in any table gives nothing away. Places are shown, since no tool knows the place of an rsID.
Not covered: two traits that are related, such as two lipids, may share a sentinel's gene and still be two traits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomni_lib.lake.datasets import gold_table
from biomni_lib.tasks import gene_baselines
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.curated import CuratedTask
from biomni_lib.tasks.gene_split import split_of_chromosome
from biomni_lib.tasks.splits import SPLITS

CANDIDATES = 8

_PROMPT = (
    "Task: given a trait and variants with their places (GRCh38), identify the one associated with the trait.\n"
    "Trait: {trait}\nVariants: {variants}\nOutput format: only the rsID"
)


@dataclass(frozen=True)
class Sentinel:
    """The variant of an association; `traits` are its trait's name and ontology ids, `paper` a PubMed id or empty."""

    rsid: str
    chromosome: str
    position: int
    trait: str
    traits: frozenset[str]
    gene: str
    paper: str

    def __str__(self) -> str:
        return f"{self.rsid} ({self.chromosome}:{self.position})"


class GwasVariantPrioritization(CuratedTask[Sentinel]):
    """The sentinel of a trait among those of other traits."""

    name = "gwas_variant_prioritization"
    stream = 6
    data_sets = ("genome", "gwas_genes")

    def read_answers(self) -> dict[str, Sequence[Sentinel]]:
        """Every sentinel with an rsID, sorted by it."""
        table = gold_table(self.lake.lake_dir, "gwas_genes", "gold_standards_2019")
        sentinels = {record["rsid"]: _sentinel(record) for record in table.to_pylist() if record["rsid"]}
        ordered = [sentinels[rsid] for rsid in sorted(sentinels)]
        return {split: [one for one in ordered if split_of_chromosome(one.chromosome) == split] for split in SPLITS}

    def ask(self, answer: Sentinel, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        """Trait, and its sentinel among sentinels of other traits, in random order."""
        own = self._answers[split_of_chromosome(answer.chromosome)]
        others = [one for one in own if one.traits.isdisjoint(answer.traits)]
        chosen = [answer, *(others[at] for at in rng.permutation(len(others))[: CANDIDATES - 1])]
        shown = [chosen[at] for at in rng.permutation(len(chosen))]
        prompt = _PROMPT.format(trait=answer.trait, variants=", ".join(map(str, shown)))
        place = {"chromosome": answer.chromosome, "position": answer.position}
        papers = {"papers": [answer.paper] if answer.paper else []}
        meta = {
            "gene": answer.gene,
            "papers": [answer.paper] if answer.paper else [],
            "candidates": [one.rsid for one in shown],
            "trait": answer.trait,
        }
        return prompt, answer.rsid, meta | place | papers

    def baselines(self) -> dict[str, Callable[[Instance], str]]:
        """Heuristics over the candidates; see `gene_baselines`. No majority: no variant is in two splits."""
        return gene_baselines.variant_baselines(self.lake)


def _sentinel(record: dict[str, Any]) -> Sentinel:
    place = (record["rsid"], record["chromosome"], record["position"])
    traits = frozenset([record["trait"], *record["ontology"]])
    return Sentinel(*place, record["trait"], traits, record["ensembl_id"], record["pmid"])
