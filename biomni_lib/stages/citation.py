"""How to cite the code, a figure and the data, from `CITATION.cff` and from the hashes of what is cited."""

from pathlib import Path
from typing import Any

import yaml

from biomni_lib.config import project_root
from biomni_lib.errors import DataError

FIELDS = ("title", "authors", "version", "license")
SHOWN_LETTERS = 12
"""Letters of a hash that are printed."""


def citation(file: Path | None = None) -> dict[str, Any]:
    """The fields of `CITATION.cff`: title, authors, version, license, and whatever else it has.

    Raises: DataError when the file is missing, cannot be read, or lacks one of these.
    """
    file = file or project_root() / "CITATION.cff"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}); restore it from the repository") from None
    if not isinstance(found, dict) or (lacking := [name for name in FIELDS if not found.get(name)]):
        raise DataError(f"{file}: no field {', '.join(lacking) if isinstance(found, dict) else FIELDS[0]}; restore it")
    return found


def authors(cited: dict[str, Any]) -> str:
    """The authors, as a reference gives them."""
    names = [person.get("name") or f"{person['given-names']} {person['family-names']}" for person in cited["authors"]]
    return ", ".join(names)


def cite_code(cited: dict[str, Any], code: str) -> str:
    """One sentence that cites the software. Args: code, the hash of its sources."""
    return f"{authors(cited)}. {cited['title']}. Version {cited['version']}, code {code[:SHOWN_LETTERS]}."


def cite_figure(cited: dict[str, Any], name: str, about: str, preset: str, data_sha256: str) -> str:
    """One sentence that cites a figure and pins the data that it shows.

    Args:
        name: of the figure. about: its title. data_sha256: of its CSV.
    """
    return (
        f"{authors(cited)}. “{about}”. Figure {name}, preset {preset}, data {data_sha256[:SHOWN_LETTERS]}. "
        f"In: {cited['title']}. Version {cited['version']}."
    )


def cite_data(cited: dict[str, Any], lake_version: str) -> str:
    """One sentence that cites the data lake as built; its sources are to be cited beside it."""
    return (
        f"{authors(cited)}. Data lake {lake_version[:SHOWN_LETTERS]}. In: {cited['title']}. "
        f"Version {cited['version']}. Cite the sources as well."
    )


def bibtex(key: str, fields: dict[str, str]) -> str:
    """An entry of type `misc`."""
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}"])


def bibtex_code(cited: dict[str, Any], code: str) -> str:
    """The software as a BibTeX entry."""
    note = f"version {cited['version']}, code {code[:SHOWN_LETTERS]}"
    return bibtex("biomni_r0_reproduction", {"title": cited["title"], "author": f"{{{authors(cited)}}}", "note": note})
