"""What a lake holds and where it came from: `manifest.json` in the lake's folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from biomni_lib.errors import DataError
from biomni_lib.provenance import file_sha256

MANIFEST = "manifest.json"
ARRAYS = "arrays.npz"
LAKE_FORMAT = 1
"""Raised whenever a table or array changes its content or meaning, so that an older lake is refused."""
REMEDY = "run `make data` to build the lake again"


@dataclass(frozen=True)
class TableEntry:
    """One table: its file, its checksum and where its content comes from."""

    file: str
    sha256: str
    rows: int
    columns: list[str]
    source: str
    url: str
    version: str
    licence: str


@dataclass(frozen=True)
class LakeManifest:
    """What the lake holds; `manifest.json` in the lake's folder."""

    format: int
    tables: dict[str, TableEntry]
    sources: dict[str, str]
    """Raw file name to sha256."""
    arrays_sha256: str
    """Of the arrays that are loaded; they repeat the tables, arranged for fast look-up. Empty where there are none."""


def genome_dir(lake_dir: Path) -> Path:
    """Folder of the genome's tables, beside the bundled lake: the part of the public tier that tools read."""
    return lake_dir.with_name(f"{lake_dir.name}-public") / "genome"


def gold_dir(lake_dir: Path) -> Path:
    """Folder of the tables that hold answers, a folder each: never opened by `Lake`, never shown to a session."""
    return lake_dir.with_name(f"{lake_dir.name}-gold")


def lake_version(lake_dir: Path) -> str:
    """What names everything that tools read from a lake. Raises: DataError when there is no lake in the folder."""
    bundled = read_lake_manifest(lake_dir).arrays_sha256
    genome = genome_dir(Path(lake_dir))
    if not (genome / MANIFEST).is_file():
        return bundled
    return hashlib.sha256(f"{bundled} {read_lake_manifest(genome).arrays_sha256}".encode()).hexdigest()


def read_lake_manifest(lake_dir: Path) -> LakeManifest:
    """The manifest of a built lake. Raises: DataError when it is missing, broken or of another format."""
    path = Path(lake_dir) / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: TableEntry(**entry) for name, entry in raw["tables"].items()}
        manifest = LakeManifest(raw["format"], tables, raw["sources"], raw["arrays_sha256"])
    except FileNotFoundError:
        raise DataError(f"no lake at {lake_dir}; {REMEDY}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"lake manifest {path} is broken ({error}); {REMEDY}") from None
    if manifest.format != LAKE_FORMAT:
        raise DataError(f"lake {lake_dir} has format {manifest.format}, this library reads {LAKE_FORMAT}; {REMEDY}")
    return manifest


def verify_files(lake_dir: Path, manifest: LakeManifest) -> None:
    """Check every file of a lake against its checksum. Raises: DataError naming the file that is missing or altered."""
    expected = {entry.file: entry.sha256 for entry in manifest.tables.values()}
    for name, sha256 in (expected | ({ARRAYS: manifest.arrays_sha256} if manifest.arrays_sha256 else {})).items():
        verify_file(Path(lake_dir) / name, sha256)


def verify_file(path: Path, sha256: str) -> None:
    """Check one file of a lake. Raises: DataError when it is missing or altered."""
    try:
        digest = file_sha256(path)
    except OSError:
        raise DataError(f"lake file {path} is missing or unreadable; {REMEDY}") from None
    if digest != sha256:
        raise DataError(f"lake file {path} has sha256 {digest[:12]}, not {sha256[:12]}; {REMEDY}")
