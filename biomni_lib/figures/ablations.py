"""RL runs in which one thing was changed: what each scored in the end, and how it got there."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from biomni_lib.analysis.tables import require
from biomni_lib.figures.scores import INTERVAL, ROW_IN, interval_dots
from biomni_lib.figures.style import (
    BLUE,
    COLUMN_WIDTH_IN,
    FAINT,
    MUTED,
    PAGE_WIDTH_IN,
    VERMILION,
    new_figure,
    panels,
    rows_axis,
    share_axis,
    styled,
)

UNCHANGED = "default"


@styled
def ablation_scores(table: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Score of every run with its interval, and a line where the unchanged run is.

    Args:
        table: ablation, changed (its label), score, ci_low, ci_high; `default` among the ablations.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["ablation", "changed", "score", *INTERVAL], "ablation scores")
    figure = new_figure(width_in, 0.55 + ROW_IN * len(table))
    ax = figure.subplots()
    for position, (_, row) in enumerate(table.iterrows()):
        colour = BLUE if row["ablation"] == UNCHANGED else VERMILION
        ax.axhline(position, color=FAINT, linewidth=0.5, zorder=0)
        interval_dots(ax, row.to_frame().T, "score", np.array([position]), colour, "o")
    for score in table.loc[table["ablation"] == UNCHANGED, "score"]:
        ax.axvline(score, color=BLUE, linewidth=0.8, linestyle=":", zorder=0)
    rows_axis(ax, list(table["changed"]))
    share_axis(ax, "x")
    ax.set_xlabel("Mean score on development instances")
    return figure


@styled
def ablation_curves(curves: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Correctness of the training trajectories by step, a panel a run, the unchanged run in grey behind it.

    Args:
        curves: ablation, changed (its label), step, reward/correctness; `default` among the ablations.
    Raises: DataError when the table is empty or lacks a column.
    """
    column = "reward/correctness"
    require(curves, ["ablation", "changed", "step", column], "ablation curves")
    unchanged = curves[curves["ablation"] == UNCHANGED]
    others = {name: part for name, part in curves.groupby("ablation", sort=False) if name != UNCHANGED}
    figure, axes = panels(len(others), width_in, 1.35, per_row=4 if width_in > 5 else 2, sharey=True)
    for ax, part in zip(axes, others.values(), strict=True):
        ax.plot(unchanged["step"], unchanged[column], color=MUTED, linewidth=0.9)
        ax.plot(part["step"], part[column], color=VERMILION)
        ax.set_title(_in_two_lines(part["changed"].iloc[0]), fontsize=6.8)
        share_axis(ax)
    figure.supxlabel("Learner step", fontsize=7.5)
    figure.supylabel("Mean correctness", fontsize=7.5)
    return figure


def _in_two_lines(text: str) -> str:
    words = text.split()
    return "\n".join(" ".join(part) for part in np.array_split(words, 2)) if len(words) > 3 else text
