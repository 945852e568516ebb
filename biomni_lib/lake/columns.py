"""How the lake's arrays are read: rows of variable length and strings, stored end to end (`arrays` writes them)."""

import re
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from biomni_lib.errors import DataError
from biomni_lib.lake.manifest import ARRAYS, REMEDY


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

    def rows_with(self, text: str) -> list[int]:
        """Rows that contain a text, ascending."""
        sought = text.encode("utf-8")
        found = np.array([match.start() for match in re.finditer(re.escape(sought), self.data)], np.int64)
        rows = np.searchsorted(self.starts, found, side="right") - 1
        whole = found + len(sought) <= self.starts[rows + 1]
        return np.unique(rows[whole]).tolist()


@dataclass(frozen=True)
class Profiles:
    """Which terms each owner (disease or gene) shows, and how often.

    `terms` and `frequencies` share their row starts; a frequency is 0 to 1, NaN when unknown, 0 for a finding known to
    be absent. `owners` is the inverse: the owners that show a term (absent findings left out).
    """

    terms: Groups
    frequencies: Groups
    owners: Groups


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder of the lake. Raises: DataError when they cannot be read."""
    try:
        with np.load(folder / ARRAYS, allow_pickle=False) as stored:
            return dict(stored)
    except (BadZipFile, ValueError, OSError) as error:
        raise DataError(f"lake {folder} cannot be read ({error}); {REMEDY}") from error


def groups_of(arrays: dict[str, np.ndarray], name: str) -> Groups:
    """Rows of variable length, by name."""
    return Groups(arrays[f"{name}.starts"], arrays[f"{name}.values"])


def strings_of(arrays: dict[str, np.ndarray], name: str) -> Strings:
    """Strings, by name."""
    return Strings(arrays[f"{name}.starts"], arrays[f"{name}.values"].tobytes())


def profiles_of(arrays: dict[str, np.ndarray], name: str) -> Profiles:
    """Profiles, by name."""
    return Profiles(*(groups_of(arrays, f"{name}.{part}") for part in ("terms", "frequencies", "owners")))
