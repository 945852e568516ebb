"""The lake opened for reading: NumPy arrays over the Parquet tables, light enough to be shared by forked processes.

Rows are addressed by index; ids are translated by binary search, so the lake holds few Python objects.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.errors import DataError
from biomni_lib.lake.build import LAKE_FORMAT, MANIFEST, LakeManifest, TableEntry
from biomni_lib.provenance import file_sha256

REMEDY = "run `make data` to build the lake again"


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

    def __init__(self, lake_dir: Path, manifest: LakeManifest) -> None:
        self.lake_dir, self.manifest = lake_dir, manifest
        self._load_terms()
        self._load_owners()

    @classmethod
    def open(cls, lake_dir: Path) -> "Lake":
        """Check every table against the manifest and load what the tools need.

        Raises: DataError when the lake is missing, unfinished, of another format or altered.
        """
        lake_dir = Path(lake_dir)
        manifest = read_lake_manifest(lake_dir)
        for entry in manifest.tables.values():
            _verify(lake_dir / entry.file, entry)
        try:
            return cls(lake_dir, manifest)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"lake {lake_dir} cannot be read ({error}); {REMEDY}") from error

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One whole table as Arrow, for notebooks and statistics. Raises: DataError for an unknown table."""
        if name not in self.manifest.tables:
            raise DataError(f"lake has no table {name!r}; it has {', '.join(self.manifest.tables)}")
        path = self.lake_dir / self.manifest.tables[name].file
        with pa.OSFile(str(path)) as file:
            return pq.ParquetFile(file).read(columns=columns, use_threads=False)

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
        row = _find(
            self.omims, _number(str(omim).upper() if isinstance(omim, int) else omim, "OMIM:", 6, optional=True)
        )
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

    def _load_terms(self) -> None:
        terms = self.table("terms")
        self.term_ids = _numbers(terms["id"], 3)
        self.term_names, self.definitions = _strings(terms["name"]), _strings(terms["definition"])
        self.ic = terms["information_content"].to_numpy()
        self.annotated = terms["diseases"].to_numpy()
        self.phenotypic = terms["phenotypic"].to_numpy()
        synonyms = terms["synonyms"].combine_chunks()
        self.synonyms = _strings(pa.chunked_array([synonyms.flatten()]))
        self.synonym_terms = np.repeat(np.arange(len(terms), dtype=np.int32), np.diff(synonyms.offsets.to_numpy()))
        alternatives = self.table("term_alternatives")
        self._alternatives = _numbers(alternatives["alternative"], 3)
        self._alternative_rows = np.searchsorted(self.term_ids, _numbers(alternatives["id"], 3)).astype(np.int32)
        size = len(self.term_ids)
        self.parents = _groups(self.table("term_parents"), "term", "parent", size)
        self.children = _groups(self.table("term_parents"), "parent", "term", size)
        self.ancestors = _groups(self.table("term_ancestors"), "term", "ancestor", size)

    def _load_owners(self) -> None:
        diseases, genes = self.table("diseases"), self.table("genes")
        self.omims, self.disease_names = diseases["omim"].to_numpy(), _strings(diseases["name"])
        self.ensembl_ids, self.symbols = _numbers(genes["ensembl_id"], 4), _strings(genes["symbol"])
        self.gene_descriptions, self.chromosomes = _strings(genes["description"]), _strings(genes["chromosome"])
        self.gene_starts, self.gene_lengths = genes["start"].to_numpy(), genes["length"].to_numpy()
        links, terms = self.table("gene_disease"), len(self.term_ids)
        self.diseases_of = _groups(links, "gene", "disease", len(self.ensembl_ids))
        self.genes_of = _groups(links, "disease", "gene", len(self.omims))
        self.disease_profiles = _profiles(self.table("disease_profiles"), "disease", len(self.omims), terms)
        self.disease_closure = _profiles(self.table("disease_closure"), "disease", len(self.omims), terms)
        self.gene_profiles = _profiles(self.table("gene_phenotypes"), "gene", len(self.ensembl_ids), terms)
        self.gene_closure = _profiles(self.table("gene_closure"), "gene", len(self.ensembl_ids), terms)


def read_lake_manifest(lake_dir: Path) -> LakeManifest:
    """The manifest of a built lake. Raises: DataError when it is missing, broken or of another format."""
    path = Path(lake_dir) / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: TableEntry(**entry) for name, entry in raw["tables"].items()}
        manifest = LakeManifest(raw["format"], tables, raw["sources"])
    except FileNotFoundError:
        raise DataError(f"no lake at {lake_dir}; {REMEDY}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"lake manifest {path} is broken ({error}); {REMEDY}") from None
    if manifest.format != LAKE_FORMAT:
        raise DataError(f"lake {lake_dir} has format {manifest.format}, this library reads {LAKE_FORMAT}; {REMEDY}")
    return manifest


def _verify(path: Path, entry: TableEntry) -> None:
    if not path.is_file():
        raise DataError(f"lake table {path} is missing; {REMEDY}")
    if file_sha256(path) != entry.sha256:
        raise DataError(f"lake table {path} does not match its checksum {entry.sha256[:12]}; {REMEDY}")


def _number(text: str, prefix: str, digits: int, optional: bool = False) -> int:
    """The number inside a database id, -1 when the text is not such an id."""
    if not isinstance(text, str):
        return -1
    body = text.strip()
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


def _numbers(column: pa.ChunkedArray, prefix_length: int) -> np.ndarray:
    return np.array([int(value[prefix_length:]) for value in column.to_pylist()], np.int64)


def _strings(column: pa.ChunkedArray) -> Strings:
    encoded = [value.encode("utf-8") for value in column.to_pylist()]
    starts = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value) for value in encoded], out=starts[1:])
    return Strings(starts, b"".join(encoded))


def _groups(table: pa.Table, key: str, value: str, size: int) -> Groups:
    owners, values = table[key].to_numpy(), table[value].to_numpy()
    order = np.argsort(owners, kind="stable")
    return Groups(_starts(owners, size), values[order])


def _starts(owners: np.ndarray, size: int) -> np.ndarray:
    starts = np.zeros(size + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=size), out=starts[1:])
    return starts


def _profiles(table: pa.Table, key: str, size: int, terms: int) -> Profiles:
    """Rows are written in owner order."""
    owners, term, frequency = (table[name].to_numpy() for name in (key, "term", "frequency"))
    starts, shown = _starts(owners, size), frequency != 0
    order = np.argsort(term[shown], kind="stable")
    inverse = Groups(_starts(term[shown], terms), owners[shown][order])
    return Profiles(Groups(starts, term), Groups(starts, frequency), inverse)
