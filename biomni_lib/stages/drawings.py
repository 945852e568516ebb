"""Figures with their tables and captions, and where they are written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from matplotlib.figure import Figure

from biomni_lib.figures import caption, save_figure
from biomni_lib.figures.saving import BOOTSTRAP_INTERVAL
from biomni_lib.provenance import atomic_write


@dataclass(frozen=True)
class Drawing:
    """One figure: its file name, the figure, the table that it shows, what it says of itself."""

    name: str
    figure: Figure
    table: pd.DataFrame
    caption: str

    @classmethod
    def make(
        cls,
        name: str,
        draw: Callable[[pd.DataFrame], Figure],
        table: pd.DataFrame,
        title: str,
        *,
        interval: str = BOOTSTRAP_INTERVAL,
        note: str = "",
    ) -> Self:
        """Draw a table. Raises: DataError when the table is empty or lacks a column."""
        return cls(name, draw(table), table, caption(title, table, interval=interval, note=note))


def save_drawings(drawings: Iterable[Drawing], folder: Path) -> dict[str, Drawing]:
    """Write PDF, SVG, PNG, CSV and the caption (TXT) of each. Returns: the drawings by name."""
    drawn = {drawing.name: drawing for drawing in drawings}
    for name, drawing in drawn.items():
        save_figure(drawing.figure, name, drawing.table, folder)
        atomic_write(folder / f"{name}.txt", drawing.caption + "\n")
    return drawn
