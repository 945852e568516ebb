"""The lake opened for reading: NumPy arrays, light enough to be shared by forked processes.

Rows are addressed by index; ids are translated by binary search, so the lake holds few Python objects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake.manifest import ARRAYS, REMEDY, LakeManifest, read_lake_manifest, verify_files

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Groups:
    """Rows of variable length stored end to end: row r is `values[starts[r]:starts[r + 1]]`."""

    starts: np.ndarray
    values: np.ndarray

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class Strings:
    """Strings stored end to end as UTF-8."""

    starts: np.ndarray
    data: bytes

    def __getitem__(self, row: int) -> str:
        return self.data[self.starts[row] : self.starts[row + 1]].decode("utf-8")

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class Profiles:
    """Which terms each owner (disease or gene) shows, and how often.

    `terms` and `frequencies` share their row starts; a frequency is 0 to 1, NaN when unknown, 0 for a finding known to
    be absent. `owners` is the inverse: the owners that show a term (absent findings left out).
    """

    terms: Groups
    frequencies: Groups
    owners: Groups


class Lake:
    """Read-only view of a built lake. Open it with `Lake.open`.

    Attributes (T terms, D diseases, G genes):
        term_ids, omims, ensembl_ids: (T,), (D,), (G,) sorted integers; the number inside the database id.
        ic: (T,) information content in nats. phenotypic: (T,) bool. annotated: (T,) diseases that show the term.
        parents, ancestors: `Groups` of term rows (ancestors include the term itself).
        disease_profiles, gene_profiles: annotated terms. disease_closure, gene_closure: with all ancestors.
        genes_of, diseases_of: `Groups`, gene rows of each disease row and the inverse.
    """

    def __init__(self, lake_dir: Path, manifest: LakeManifest, arrays: dict[str, np.ndarray]) -> None:
        self.lake_dir, self.manifest = lake_dir, manifest
        self._set_terms(arrays)
        self._set_owners(arrays)

    @classmethod
    def open(cls, lake_dir: Path) -> "Lake":
        """Check every table against the manifest and load what the tools need.

        Raises: DataError when the lake is missing, unfinished, of another format or altered.
        """
        lake_dir = Path(lake_dir)
        manifest = read_lake_manifest(lake_dir)
        verify_files(lake_dir, manifest)
        try:
            with np.load(lake_dir / ARRAYS, allow_pickle=False) as stored:
                return cls(lake_dir, manifest, dict(stored))
        except (BadZipFile, KeyError, ValueError, OSError) as error:
            raise DataError(f"lake {lake_dir} cannot be read ({error}); {REMEDY}") from error

    def table(self, name: str, columns: list[str] | None = None) -> "pa.Table":
        """One whole table as Arrow, for notebooks and statistics. Raises: DataError for an unknown table."""
        if name not in self.manifest.tables:
            raise DataError(f"lake has no table {name!r}; it has {', '.join(self.manifest.tables)}")
        import pyarrow.parquet as pq

        return pq.read_table(self.lake_dir / self.manifest.tables[name].file, columns=columns)

    def term_row(self, term_id: str) -> int:
        """Row of a term id, retired ids resolved to their successor. Raises: ValueError for an unknown id."""
        number = _number(term_id, "HP:", 7)
        row = _find(self.term_ids, number)
        if row < 0:
            old = _find(self._alternatives, number)
            row = int(self._alternative_rows[old]) if old >= 0 else -1
        if row < 0:
            raise ValueError(f"unknown term {_shown(term_id)}; expected an HPO id like HP:0001250")
        return row

    def disease_row(self, omim: str | int) -> int:
        """Row of an OMIM number, `OMIM:` in front or not. Raises: ValueError for an unknown one."""
        row = _find(self.omims, _number(str(omim), "OMIM:", 6, optional=True))
        if row < 0:
            raise ValueError(f"unknown disease {_shown(omim)}; expected an OMIM number like 154700")
        return row

    def gene_row(self, ensembl_id: str) -> int:
        """Row of an Ensembl gene id. Raises: ValueError for an unknown one."""
        row = _find(self.ensembl_ids, _number(ensembl_id, "ENSG", 11))
        if row < 0:
            raise ValueError(f"unknown gene {_shown(ensembl_id)}; expected an Ensembl id like ENSG00000157764")
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
        self.term_names, self.definitions = _strings(arrays, "term_names"), _strings(arrays, "definitions")
        self.synonyms = _strings(arrays, "synonyms")
        self.parents, self.ancestors = _groups(arrays, "parents"), _groups(arrays, "ancestors")
        self._alternatives, self._alternative_rows = arrays["alternatives"], arrays["alternative_rows"]
        self.term_names_lower = Strings(self.term_names.starts, self.term_names.data.lower())
        self.synonyms_lower = Strings(self.synonyms.starts, self.synonyms.data.lower())

    def _set_owners(self, arrays: dict[str, np.ndarray]) -> None:
        self.omims, self.disease_names = arrays["omims"], _strings(arrays, "disease_names")
        self.ensembl_ids, self.symbols = arrays["ensembl_ids"], _strings(arrays, "symbols")
        self.gene_descriptions, self.chromosomes = (
            _strings(arrays, "gene_descriptions"),
            _strings(arrays, "chromosomes"),
        )
        self.gene_starts, self.gene_lengths = arrays["gene_starts"], arrays["gene_lengths"]
        self.diseases_of, self.genes_of = _groups(arrays, "diseases_of"), _groups(arrays, "genes_of")
        self.disease_profiles, self.disease_closure = (
            _profiles(arrays, name) for name in ("disease_profiles", "disease_closure")
        )
        self.gene_profiles, self.gene_closure = (_profiles(arrays, name) for name in ("gene_profiles", "gene_closure"))


def _number(text: str, prefix: str, digits: int, optional: bool = False) -> int:
    """The number inside a database id, -1 when the text is not such an id."""
    body = str(text).strip()
    if body.upper().startswith(prefix):
        body = body[len(prefix) :]
    elif not optional:
        return -1
    return int(body) if len(body) == digits and body.isascii() and body.isdigit() else -1


def _find(keys: np.ndarray, number: int) -> int:
    row = int(np.searchsorted(keys, number))
    return row if row < len(keys) and keys[row] == number else -1


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _groups(arrays: dict[str, np.ndarray], name: str) -> Groups:
    return Groups(arrays[f"{name}.starts"], arrays[f"{name}.values"])


def _strings(arrays: dict[str, np.ndarray], name: str) -> Strings:
    return Strings(arrays[f"{name}.starts"], arrays[f"{name}.values"].tobytes())


def _profiles(arrays: dict[str, np.ndarray], name: str) -> Profiles:
    return Profiles(*(_groups(arrays, f"{name}.{part}") for part in ("terms", "frequencies", "owners")))
