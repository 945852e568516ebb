"""The genome opened for reading: every gene on GRCh38, its names, paralogs, expression and pathogenic variants.

The part of the public tier that tools read. Genes are addressed by row, as in `Lake`, but the rows are others: the
genome knows 32,075 genes, the bundled lake those of the HPO. Nothing here says which gene a study held to be causal.
"""

from bisect import bisect_left
from pathlib import Path

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake.columns import Strings, groups_of, read_arrays, strings_of
from biomni_lib.lake.ids import number_in, row_of, shown
from biomni_lib.lake.manifest import REMEDY, LakeManifest, read_lake_manifest, verify_files


class Genome:
    """Read-only view of the genome's tables. Open it with `Genome.open`.

    Attributes (G genes, V variants sorted by chromosome and position, F rows of expression):
        ensembl_ids: (G,) sorted integers; the number inside the id. gene_starts, gene_ends: (G,) base pairs, 1-based.
        expression: `Groups` of rows of expression_tissues (F,) and expression_summaries (F, 5): minimum, quartiles,
        maximum in transcripts per million.
        trait_ids, trait_names, trait_words (lower case, all names), trait_studies: by trait, sorted by ontology id.
        variant_positions, variant_rsids, variant_clinvar_ids, variant_frequencies (NaN when unknown): (V,).
    """

    def __init__(self, manifest: LakeManifest, arrays: dict[str, np.ndarray]) -> None:
        self.manifest = manifest
        self._set_genes(arrays)
        self._set_variants(arrays)
        self.tissues, self.tissue_samples = strings_of(arrays, "tissues"), arrays["tissue_samples"]
        self.expression = groups_of(arrays, "expression")
        self.expression_tissues = arrays["expression_tissues"]
        self.expression_summaries = arrays["expression_summaries"]
        self.trait_ids, self.trait_names = strings_of(arrays, "trait_ids"), strings_of(arrays, "trait_names")
        self.trait_words, self.trait_studies = strings_of(arrays, "trait_words"), arrays["trait_studies"]

    @classmethod
    def open(cls, folder: Path) -> "Genome":
        """Check every file against the manifest and load the arrays.

        Raises: DataError when the tables are missing, of another format or altered.
        """
        manifest = read_lake_manifest(folder)
        verify_files(folder, manifest)
        try:
            return cls(manifest, read_arrays(folder))
        except KeyError as error:
            raise DataError(f"genome {folder} lacks the array {error}; {REMEDY}") from None

    def gene_row(self, gene: str) -> int:
        """Row of an Ensembl id or a name.

        A symbol that several genes bear stands for the lowest Ensembl id; a synonym counts where it names one gene.

        Raises: ValueError for an unknown gene, or a synonym of several.
        """
        if (number := number_in(gene, "ENSG", 11)) >= 0:
            row = row_of(self.ensembl_ids, number)
            if row < 0:
                raise ValueError(f"unknown gene {shown(gene)}; it is not among the {len(self.ensembl_ids)} genes")
            return row
        found = self.genes_named(gene)
        if not found:
            raise ValueError(f"unknown gene {shown(gene)}; expected an Ensembl id or a symbol like TP53")
        if found[0][1] and len(found) > 1:
            several = ", ".join(self.symbols[row] for row, _ in found[:4])
            raise ValueError(f"{shown(gene)} is a synonym of several genes ({several}); name one")
        return found[0][0]

    def genes_named(self, name: str) -> list[tuple[int, bool]]:
        """(gene row, whether the name is only a synonym) of the genes with a name, symbols first; case is ignored."""
        sought = str(name).strip().upper()
        at, found = bisect_left(range(len(self.names)), sought, key=self.names.__getitem__), []
        while at < len(self.names) and self.names[at] == sought:
            found.append((int(self.name_genes[at]), bool(self.name_is_synonym[at])))
            at += 1
        return found

    def ensembl_id(self, row: int) -> str:
        """Ensembl id of a gene row."""
        return f"ENSG{self.ensembl_ids[row]:011d}"

    def symbol_of(self, number: int) -> str:
        """Symbol of the gene with a number in its Ensembl id; empty for a gene that is not among these."""
        row = row_of(self.ensembl_ids, number)
        return self.symbols[row] if row >= 0 else ""

    def synonyms_of(self, row: int) -> list[str]:
        """Other names of a gene."""
        return [self.synonyms[at] for at in range(self._synonym_starts[row], self._synonym_starts[row + 1])]

    def chromosome_code(self, chromosome: str) -> int:
        """Code of a chromosome, `chr` in front or not. Raises: ValueError for an unknown one."""
        name = str(chromosome).strip()
        name = name[3:] if name.lower().startswith("chr") else name
        code = self._codes.get({"M": "MT"}.get(name.upper(), name.upper()), -1)
        if code < 0:
            raise ValueError(f"unknown chromosome {shown(chromosome)}; expected 1 to 22, X, Y or MT")
        return code

    def distances(self, code: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Genes of a chromosome and how far each is from a position.

        Returns: (rows, base pairs), each (genes of the chromosome,), sorted by start; 0 inside a gene.
        """
        rows = self.genes_on[code]
        return rows, np.maximum(0, np.maximum(self.gene_starts[rows] - position, position - self.gene_ends[rows]))

    def genes_between(self, code: int, start: int, end: int) -> np.ndarray:
        """Rows of the genes that share a base with a region, sorted by start."""
        rows = self.genes_on[code]
        return rows[(self.gene_starts[rows] <= end) & (self.gene_ends[rows] >= start)]

    def paralogs(self, row: int) -> np.ndarray:
        """Numbers inside the Ensembl ids of a gene's paralogs, ascending; some are in no other table."""
        own = self.ensembl_ids[row]
        at = row_of(self._family_genes, int(own))
        members = self._family_members[self._families[at]] if at >= 0 else self.ensembl_ids[:0]
        return members[members != own]

    def variants_between(self, code: int, start: int, end: int) -> range:
        """Rows of the variants that begin in a region, by position."""
        first, last = self._variant_starts[code], self._variant_starts[code + 1]
        low, high = np.searchsorted(self.variant_positions[first:last], (start, end + 1))
        return range(int(first + low), int(first + high))

    def variants_with(self, number: int, kind: str) -> np.ndarray:
        """Rows of the variants with an id.

        Args:
            kind: `rsid` or `clinvar_id`.
        """
        order, ids = {
            "rsid": (self._by_rsid, self.variant_rsids),
            "clinvar_id": (self._by_clinvar_id, self.variant_clinvar_ids),
        }[kind]
        low, high = (np.searchsorted(ids, number, side=side, sorter=order) for side in ("left", "right"))
        return order[low:high]

    def chromosome_of_variant(self, row: int) -> str:
        """Chromosome of a variant row."""
        return self.chromosomes[int(np.searchsorted(self._variant_starts, row, side="right")) - 1]

    def _set_genes(self, arrays: dict[str, np.ndarray]) -> None:
        self.chromosomes = strings_of(arrays, "chromosomes")
        self._codes = {self.chromosomes[code].upper(): code for code in range(len(self.chromosomes))}
        self.ensembl_ids, self.gene_chromosomes = arrays["ensembl_ids"], arrays["gene_chromosomes"]
        self.gene_starts, self.gene_ends = arrays["gene_starts"], arrays["gene_ends"]
        self.genes_on, self.symbols = groups_of(arrays, "genes_on"), strings_of(arrays, "symbols")
        self.descriptions, self.names = strings_of(arrays, "descriptions"), strings_of(arrays, "names")
        self.descriptions_lower = Strings(self.descriptions.starts, self.descriptions.data.lower())
        self.name_genes, self.name_is_synonym = arrays["name_genes"], arrays["name_is_synonym"]
        self.synonyms, self._synonym_starts = strings_of(arrays, "synonyms"), arrays["synonym_starts"]
        self._family_members, self._families = groups_of(arrays, "family_members"), arrays["families"]
        self._family_genes = arrays["family_genes"]

    def _set_variants(self, arrays: dict[str, np.ndarray]) -> None:
        self._variant_starts, self.variant_positions = arrays["variant_starts"], arrays["variant_positions"]
        self.variant_clinvar_ids, self.variant_rsids = arrays["variant_clinvar_ids"], arrays["variant_rsids"]
        self.variant_significance, self.variant_review = arrays["variant_significance"], arrays["variant_review"]
        self.variant_frequencies = arrays["variant_frequencies"]
        self._by_rsid, self._by_clinvar_id = arrays["variants_by_rsid"], arrays["variants_by_clinvar_id"]
        self.variant_references = strings_of(arrays, "variant_references")
        self.variant_alternatives = strings_of(arrays, "variant_alternatives")
