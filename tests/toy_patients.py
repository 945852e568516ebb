"""Published patients who are made up over true genes and diseases of the bundled lake, so that every answer is known.

Each split has `GENES` genes, each with one disease of at least eight findings and with five patients: two of a paper
that the annotations of that disease cite, one of a paper that those of another gene's disease cite, two of papers that
none cites. They are called `CASE-SPLIT-GENE-NUMBER`; numbers 0 to 2 are leaky. The first gene's last patient in train
and in held-out are of one paper. The first two genes of held-out are paralogs.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path

from biomni_lib.lake import Lake, public
from biomni_lib.tasks.splits import SPLITS, Split, make_splits
from biomni_lib.tools.scoring import shown_terms
from tests.toy_public import build_toy_public, write_archive, write_files

GENES = 14
PATIENTS = 5
ABSENT = ("HP:0001250", "HP:0000407", "HP:0002664", "HP:0001369")


class ToyPatients:
    """The genes and diseases chosen from a lake, and files of the public tier about them."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        table = lake.table("disease_phenotypes", ["omim", "reference"]).to_pylist()
        papers = ((row["omim"], one) for row in table for one in row["reference"].split(";"))
        self.papers = {omim: paper for omim, paper in papers if paper.startswith("PMID:")}
        self.chosen = {name: self._choose(split) for name, split in make_splits(lake).items()}
        self.paralogs = [gene for gene, _ in self.chosen["heldout"][:2]]

    def build(self, lake_dir: Path, folder: Path) -> None:
        """The toy public tier beside a copy of the lake, with these patients and their genes."""
        files = write_files(folder)
        for source, text in ((public.GENES, self._gene_cache()), (public.PARALOGS, self._paralog_cache())):
            files[source].write_bytes(gzip.compress(text.encode(), mtime=0))
        packets = {f"v1/toy/{packet['id']}.json": packet for packet in self._packets()}
        files[public.PHENOPACKETS] = write_archive(folder / public.PHENOPACKETS.file, packets)
        build_toy_public(lake_dir, files)

    def _choose(self, split: Split) -> list[tuple[int, int]]:
        """Gene and disease rows, each gene with its only disease and the other way round."""
        lake = self.lake
        pairs = [(gene, int(lake.diseases_of[gene][0])) for gene in split.genes.tolist()]
        alone = [pair for pair in pairs if len(lake.diseases_of[pair[0]]) == len(lake.genes_of[pair[1]]) == 1]
        return [pair for pair in alone if len(self._terms(pair[1])) >= 8 and self._paper(pair[1])][:GENES]

    def _terms(self, disease: int) -> list[str]:
        return [self.lake.term_id(row) for row in shown_terms(self.lake.disease_profiles, disease)]

    def _paper(self, disease: int) -> str:
        return self.papers.get(int(self.lake.omims[disease]), "")

    def _packets(self) -> Iterator[dict]:
        for split in SPLITS:
            for at, (gene, disease) in enumerate(self.chosen[split]):
                own, other = self._paper(disease), self._paper(self.chosen[split][at - 1][1])
                uncited = [f"PMID:99{SPLITS.index(split)}{at:03d}{number}" for number in range(2)]
                if at == 0 and split != "dev":
                    uncited[1] = "PMID:99999999"
                for number, paper in enumerate([own, own, other, *uncited]):
                    yield self._packet(f"CASE-{split}-{at}-{number}", gene, disease, paper, number)
        gene, disease = self.chosen["dev"][0]
        yield self._packet("CASE-none", gene, disease, "PMID:1", 0, omim="999999")

    def _packet(self, id: str, gene: int, disease: int, paper: str, number: int, omim: str = "") -> dict:
        """Patient n shows six or seven findings of the disease, a term that is no finding and one of no ontology, and
        lacks n others; one finding is noted as present and as absent."""
        lake, terms = self.lake, self._terms(disease)
        no_finding = lake.term_id(int((~lake.phenotypic).argmax()))
        features = [{"type": {"id": term}} for term in [*terms[: 6 + number % 2], no_finding, "HP:9999999"]]
        absent = [term for term in ABSENT if term not in terms][:number]
        features += [{"type": {"id": term}, "excluded": True} for term in [*absent, terms[0]]]
        context = {"geneContext": {"valueId": "HGNC:1", "symbol": lake.symbols[gene]}}
        diagnosis = {
            "disease": {"id": f"OMIM:{omim or lake.omim(disease)}", "label": lake.disease_names[disease]},
            "genomicInterpretations": [{"variantInterpretation": {"variationDescriptor": context}}],
        }
        return {
            "id": id,
            "subject": {"id": "1"},
            "phenotypicFeatures": features,
            "interpretations": [{"diagnosis": diagnosis}],
            "metaData": {"externalReferences": [{"id": paper}]},
        }

    def _gene_cache(self) -> str:
        lake = self.lake
        rows = [
            f"{lake.chromosomes[gene]}\t{lake.gene_starts[gene]}\t{lake.gene_lengths[gene]}\t{lake.ensembl_ids[gene]}"
            f"\t{lake.symbols[gene]}\tdescribed\t\t"
            for pairs in self.chosen.values()
            for gene, _ in pairs
        ]
        return "\n".join(["# genes", *rows]) + "\n"

    def _paralog_cache(self) -> str:
        (one, first), (two, second) = ((self.lake.symbols[g], self.lake.ensembl_ids[g]) for g in self.paralogs)
        return f"## prefix: ENSG\n{one}\t{first}\t{second}\n{two}\t{second}\t_{one}\t{first}\n"
