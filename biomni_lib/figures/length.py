"""Response length against score."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from biomni_lib.analysis.tables import require
from biomni_lib.figures.style import PAGE_WIDTH_IN, look, model_order, panels, share_axis, styled, words

UNITS = {"tokens": "Response tokens", "turns": "Turns", "tool_calls": "Tool calls"}
PLOTTED = ["outcome", "ci_low", "ci_high", "length_mean"]


@styled
def length_vs_score(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Mean score in bins of response length, a panel a task, a colour a model.

    Args:
        table: `analysis.binned_curve`: task, model, length, length_mean, outcome, ci_low, ci_high.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["task", "model", "length", *PLOTTED], "length against score")
    tasks, models = list(pd.unique(table["task"])), model_order(list(pd.unique(table["model"])))
    per_row = 3 if width_in > 5 else 1
    figure, axes = panels(len(tasks), width_in, 2.1, per_row=per_row)
    for ax, task in zip(axes, tasks, strict=True):
        for model in models:
            part = table[(table["task"] == task) & (table["model"] == model)].sort_values("length_mean")
            values, low, high, x = (part[name].to_numpy(dtype=float) for name in PLOTTED)
            _, colour, marker = look(model)
            bars = np.clip([values - low, high - values], 0, None)
            _ = ax.errorbar(x, values, bars, color=colour, marker=marker, markersize=4, linewidth=0.8, elinewidth=1.0)
        ax.set_title(words(task))
        ax.set_xlabel(" / ".join(UNITS.get(name, words(name)) for name in pd.unique(table["length"])))
        share_axis(ax)
    axes[0].set_ylabel("Mean correctness")
    handles = [
        axes[0].plot([], [], color=look(m).colour, marker=look(m).marker, label=look(m).label)[0] for m in models
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(models), borderpad=0)
    return figure
