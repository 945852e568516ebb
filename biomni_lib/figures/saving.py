"""A figure's files: PDF, SVG, PNG and the plotted data as CSV, the same bytes for the same data; and its caption.

Dates and versions are left out of the files and the ids in the SVG come from the name. Bytes are the same under the
same matplotlib and font; another version may draw the same figure with other bytes.
"""

import hashlib
import io
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from biomni_lib.analysis.tables import require
from biomni_lib.figures.style import style_context
from biomni_lib.provenance import atomic_write

UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
BOOTSTRAP_INTERVAL = "95% bootstrap intervals over instances"
COUNTS = {"n": "instances", "instances": "instances", "sampled": "trajectories", "samples": "trajectories"}
"""Column that counts what a point stands on, and what it counts; the first that a table has is told."""


def save_figure(fig: Figure, name: str, data: pd.DataFrame, out_dir: Path) -> dict[str, str]:
    """Write `NAME.pdf`, `.svg`, `.png` (300 dpi) and `.csv` (the plotted data, six significant digits).

    Args:
        name: file name without ending, letters, digits, hyphens and underscores.
        data: the table that the figure shows.
    Returns: the manifest's entry: sha256 by file name.
    Raises: DataError when the table is empty; RunError when the disk is full.
    """
    require(data, [], f"figure {name}")
    files = {f"{name}.{kind}": _rendered(fig, name, kind) for kind in UNDATED}
    files[f"{name}.csv"] = data.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
    for file_name, content in files.items():
        atomic_write(out_dir / file_name, content)
    return {file_name: hashlib.sha256(content).hexdigest() for file_name, content in files.items()}


def caption(title: str, table: pd.DataFrame, *, interval: str = BOOTSTRAP_INTERVAL, note: str = "") -> str:
    """A caption that says on how much the figure stands.

    Args:
        title: what is shown, one sentence without its full stop.
        table: the plotted table; one of the columns `COUNTS`, else `step`, and `seeds` or `seed` are read where they
            are. A table that does not speak of seeds is of one run.
        interval: what the bars are; left out where the table has no column `ci_low`.
        note: what the figure does not show, or anything else worth a sentence.
    Raises: DataError when the table is empty.
    """
    require(table, [], "figure caption")
    seeds = seeds_of(table) or 1
    parts = [title, *filter(None, [counted(table)]), f"{seeds} seed{'s' if seeds > 1 else ''}"]
    parts += [interval] if "ci_low" in table else []
    return "".join(f"{part.rstrip('.')}. " for part in [*parts, *([note] if note else [])]).strip()


def counted(table: pd.DataFrame) -> str:
    """On how much each point of a plotted table stands, or how many steps it has; empty where it does not say."""
    column = next((column for column in COUNTS if column in table), None)
    if column is not None:
        return f"n = {_span(table[column])} {COUNTS[column]} a point"
    return f"{table['step'].nunique()} steps" if "step" in table else ""


def seeds_of(table: pd.DataFrame) -> int | None:
    """How many seeds a plotted table speaks of; None where it does not say."""
    if "seeds" in table:
        return int(table["seeds"].max())
    return len(set(table["seed"].astype(str)) - {"pooled"}) if "seed" in table else None


def _rendered(fig: Figure, name: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    with style_context(), mpl.rc_context({"svg.hashsalt": name}):
        fig.savefig(buffer, format=kind, metadata=UNDATED[kind])
    return buffer.getvalue()


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
