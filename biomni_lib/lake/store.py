"""The lake opened for reading: NumPy arrays, light enough to be shared by forked processes.

Rows are addressed by index; ids are translated by binary search, so the lake holds few Python objects.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake.columns import Strings, groups_of, profiles_of, read_arrays, strings_of
from biomni_lib.lake.genome import Genome
from biomni_lib.lake.ids import number_in, row_of, shown
from biomni_lib.lake.manifest import (
    MANIFEST,
    REMEDY,
    LakeManifest,
    genome_dir,
    read_lake_manifest,
    verify_files,
)

if TYPE_CHECKING:
    import pyarrow as pa


class Lake:
    """Read-only view of a built lake. Open it with `Lake.open`.

    Attributes (T terms, D diseases, G genes):
        term_ids, omims, ensembl_ids: (T,), (D,), (G,) sorted integers; the number inside the database id.
        ic: (T,) information content in nats. phenotypic: (T,) bool. annotated: (T,) diseases that show the term.
        parents, ancestors: `Groups` of term rows (ancestors include the term itself).
        disease_profiles, gene_profiles: annotated terms. disease_closure, gene_closure: with all ancestors.
        genes_of, diseases_of: `Groups`, gene rows of each disease row and the inverse.
    """

    def __init__(
        self, lake_dir: Path, manifest: LakeManifest, arrays: dict[str, np.ndarray], genome: Genome | None = None
    ) -> None:
        self.lake_dir, self.manifest, self._genome = lake_dir, manifest, genome
        self._set_terms(arrays)
        self._set_owners(arrays)

    @classmethod
    def open(cls, lake_dir: Path) -> "Lake":
        """Check every table against the manifest and load what the tools need, the genome beside it included.

        Raises: DataError when the lake is missing, unfinished, of another format or altered.
        """
        lake_dir = Path(lake_dir)
        manifest = read_lake_manifest(lake_dir)
        verify_files(lake_dir, manifest)
        genome = Genome.open(genome_dir(lake_dir)) if (genome_dir(lake_dir) / MANIFEST).is_file() else None
        try:
            return cls(lake_dir, manifest, read_arrays(lake_dir), genome)
        except KeyError as error:
            raise DataError(f"lake {lake_dir} lacks the array {error}; {REMEDY}") from None

    @property
    def genome(self) -> Genome:
        """All genes and what is known of them. Raises: DataError when the public tier has not been built."""
        if self._genome is None:
            raise DataError("the genome's tables are not built; run `make data`")
        return self._genome

    @property
    def has_genome(self) -> bool:
        """Whether the public tier's genome has been built."""
        return self._genome is not None

    def table(self, name: str, columns: list[str] | None = None) -> "pa.Table":
        """One whole table as Arrow, for notebooks and statistics. Raises: DataError for an unknown table."""
        if name not in self.manifest.tables:
            raise DataError(f"lake has no table {name!r}; it has {', '.join(self.manifest.tables)}")
        import pyarrow.parquet as pq

        return pq.read_table(self.lake_dir / self.manifest.tables[name].file, columns=columns)

    def term_row(self, term_id: str) -> int:
        """Row of a term id, retired ids resolved to their successor. Raises: ValueError for an unknown id."""
        number = number_in(term_id, "HP:", 7)
        row = row_of(self.term_ids, number)
        if row < 0:
            old = row_of(self._alternatives, number)
            row = int(self._alternative_rows[old]) if old >= 0 else -1
        if row < 0:
            raise ValueError(f"unknown term {shown(term_id)}; expected an HPO id like HP:0001250")
        return row

    def disease_row(self, omim: str | int) -> int:
        """Row of an OMIM number, `OMIM:` in front or not. Raises: ValueError for an unknown one."""
        row = row_of(self.omims, number_in(str(omim), "OMIM:", 6, optional=True))
        if row < 0:
            raise ValueError(f"unknown disease {shown(omim)}; expected an OMIM number like 154700")
        return row

    def gene_row(self, ensembl_id: str) -> int:
        """Row of an Ensembl gene id. Raises: ValueError for an unknown one."""
        row = row_of(self.ensembl_ids, number_in(ensembl_id, "ENSG", 11))
        if row < 0:
            raise ValueError(f"unknown gene {shown(ensembl_id)}; expected an Ensembl id like ENSG00000157764")
        return row

    def term_id(self, row: int) -> str:
        """HPO id of a term row."""
        return f"HP:{self.term_ids[row]:07d}"

    def omim(self, row: int) -> str:
        """OMIM number of a disease row, as digits."""
        return str(self.omims[row])

    def ensembl_id(self, row: int) -> str:
        """Ensembl id of a gene row."""
        return f"ENSG{self.ensembl_ids[row]:011d}"

    def _set_terms(self, arrays: dict[str, np.ndarray]) -> None:
        self.term_ids, self.ic, self.annotated = arrays["term_ids"], arrays["ic"], arrays["annotated"]
        self.phenotypic, self.synonym_terms = arrays["phenotypic"], arrays["synonym_terms"]
        self.term_names, self.definitions = strings_of(arrays, "term_names"), strings_of(arrays, "definitions")
        self.synonyms = strings_of(arrays, "synonyms")
        self.parents, self.ancestors = groups_of(arrays, "parents"), groups_of(arrays, "ancestors")
        self._alternatives, self._alternative_rows = arrays["alternatives"], arrays["alternative_rows"]
        self.term_names_lower = Strings(self.term_names.starts, self.term_names.data.lower())
        self.synonyms_lower = Strings(self.synonyms.starts, self.synonyms.data.lower())

    def _set_owners(self, arrays: dict[str, np.ndarray]) -> None:
        self.omims, self.disease_names = arrays["omims"], strings_of(arrays, "disease_names")
        self.ensembl_ids, self.symbols = arrays["ensembl_ids"], strings_of(arrays, "symbols")
        self.gene_descriptions, self.chromosomes = (
            strings_of(arrays, "gene_descriptions"),
            strings_of(arrays, "chromosomes"),
        )
        self.gene_starts, self.gene_lengths = arrays["gene_starts"], arrays["gene_lengths"]
        self.diseases_of, self.genes_of = groups_of(arrays, "diseases_of"), groups_of(arrays, "genes_of")
        self.disease_profiles, self.disease_closure = (
            profiles_of(arrays, name) for name in ("disease_profiles", "disease_closure")
        )
        self.gene_profiles, self.gene_closure = (
            profiles_of(arrays, name) for name in ("gene_profiles", "gene_closure")
        )
