"""From the Typst source and the numbers to a PDF: offline, in seconds, the same bytes for the same inputs.

Nothing of the machine enters: the fonts are those inside the `typst` wheel, the date is fixed, no package is fetched.
"""

import importlib.util
from pathlib import Path
from typing import Literal

from biomni_lib.errors import RunError

TIMESTAMP = 0
"""The PDF's date, in seconds since 1970: a date of its own would make every PDF another file."""


def available() -> bool:
    """Whether the `typst` wheel is installed."""
    return importlib.util.find_spec("typst") is not None


def compile_pdf(source: Path) -> bytes:
    """A Typst file, which may read what lies in its folder, as a PDF.

    Raises: RunError when the wheel is missing, or the source cannot be compiled, with Typst's own message.
    """
    return _compiled(source, "pdf")[0]


def compile_pages(source: Path, *, ppi: float = 110) -> list[bytes]:
    """The same as one PNG a page. Raises: as `compile_pdf`."""
    return _compiled(source, "png", ppi=ppi)


def _compiled(source: Path, kind: Literal["pdf", "png"], ppi: float | None = None) -> list[bytes]:
    if not available():
        raise RunError("the paper needs the package typst, which is not installed; run `make setup`")
    import typst

    compiler = typst.Compiler(str(source), root=str(source.parent), ignore_system_fonts=True)
    try:
        pages = compiler.compile(format=kind, ppi=ppi, timestamp=TIMESTAMP)
    except typst.TypstError as error:
        hints = "".join(f" ({hint})" for hint in error.hints)
        raise RunError(f"{source.name} cannot be compiled: {error.message}{hints}") from None
    return [page for page in (pages if isinstance(pages, list) else [pages]) if page is not None]
