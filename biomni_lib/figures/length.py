"""Response length against score: bins, odds ratios by reading, and the dose-response curve of budgets."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from biomni_lib.analysis.tables import require
from biomni_lib.figures.scores import ROW_IN, interval_dots
from biomni_lib.figures.style import (
    BLUE,
    MUTED,
    PAGE_WIDTH_IN,
    VERMILION,
    look,
    model_order,
    panels,
    rows_axis,
    share_axis,
    styled,
    words,
)

UNITS = {"tokens": "Response tokens", "turns": "Turns", "tool_calls": "Tool calls"}
PLOTTED = ["outcome", "ci_low", "ci_high", "length_mean"]
DOSED = {
    "Right": ("right", "ci_low", "ci_high"),
    "No answer when told": ("truncated", "truncated_low", "truncated_high"),
}
"""Row of panels to the columns of its values and interval."""
ODDS_REACH = 2.0
"""An odds ratio's interval is drawn to the end up to this factor from 1, and beyond it as far as the points lie."""


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


@styled
def length_odds(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Odds ratio of a right answer for a longer one, a panel a reading, a row a model, without and with confounders.

    The axis is logarithmic with 1 in its middle; an interval that goes on beyond it ends in an arrowhead.

    Args:
        table: `analysis.length_odds`, those with an estimate: model, reading, adjusted, odds_ratio, ci_low, ci_high.
    Raises: DataError when the table is empty, lacks a column or has no estimate.
    """
    require(table, ["model", "reading", "adjusted", "odds_ratio", "ci_low", "ci_high"], "odds ratios of length")
    known = require(table.dropna(subset=["odds_ratio"]), ["odds_ratio"], "odds ratios of length that were estimated")
    readings, models = list(pd.unique(table["reading"])), model_order(list(pd.unique(table["model"])))
    reach = max(_factor(known["odds_ratio"]) * 1.1, min(_factor(known[["ci_low", "ci_high"]]), ODDS_REACH))
    per_row = 3 if width_in > 5 else 1
    figure, axes = panels(len(readings), width_in, 0.65 + 1.6 * ROW_IN * len(models), per_row=per_row, sharey=True)
    for ax, reading in zip(axes, readings, strict=True):
        _ = ax.axvline(1, color=MUTED, linewidth=0.8)
        for adjusted, (colour, marker, shift) in {False: (BLUE, "o", -0.16), True: (VERMILION, "D", 0.16)}.items():
            part = known[(known["reading"] == reading) & (known["adjusted"] == adjusted)]
            rows = np.array([models.index(name) for name in part["model"]], dtype=float) + shift
            label = "truncation and format held fixed" if adjusted else "all answers"
            shown = part.assign(**part[["ci_low", "ci_high"]].clip(1 / reach, reach))
            interval_dots(ax, shown, "odds_ratio", rows, colour, marker, label if ax is axes[0] else None)
            for column, edge, head in (("ci_low", 1 / reach, "<"), ("ci_high", reach, ">")):
                cut = rows[(shown[column] != part[column]).to_numpy()]
                _ = ax.plot(np.full(len(cut), edge), cut, head, color=colour, markersize=4)
        rows_axis(ax, [look(model).label for model in models])
        ax.set_title(words(reading))
        ax.set_xlabel("Odds ratio, 10% longer")
        _ratio_axis(ax, reach)
    figure.legend(loc="outside upper left", ncols=2, borderpad=0, handletextpad=0.3)
    return figure


def _factor(ratios: pd.DataFrame | pd.Series) -> float:
    """How far from 1 the farthest ratio is, as a factor above 1."""
    return float(np.exp(np.abs(np.log(ratios.to_numpy(dtype=float))).max()))


def _ratio_axis(ax: Axes, reach: float) -> None:
    """A logarithmic axis that holds `1 / reach` to `reach`, with at most two ticks to each side of 1."""
    ax.set_xscale("log")
    ax.set_xlim(1 / reach / 1.05, reach * 1.05)
    step = 2.0 ** np.ceil(np.log2(np.log2(reach) / 3))
    ticks = 2.0 ** (step * np.arange(-2, 3))
    ticks = ticks[np.abs(np.log(ticks)) <= np.log(reach)]
    ax.set_xticks(ticks, [f"{tick:.2f}".rstrip("0").rstrip(".") for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


@styled
def dose_response(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Right answers, and answers that never came, under budgets of turns and of tokens; a colour a model.

    Args:
        table: `analysis.dose_response`: model, unit, budget (null without one, drawn at the right), right, ci_low,
            ci_high, truncated, truncated_low, truncated_high.
    Raises: DataError when the table is empty or lacks a column.
    """
    columns = [name for names in DOSED.values() for name in names]
    require(table, ["model", "unit", "budget", *columns], "dose-response curve")
    units, models = list(pd.unique(table["unit"])), model_order(list(pd.unique(table["model"])))
    per_row = len(units) if width_in > 5 else 1
    figure, axes = panels(2 * len(units), width_in, 1.75, per_row=per_row)
    places = [(said, unit) for said in DOSED for unit in units]
    for ax, (said, unit) in zip(axes, places, strict=True):
        for number, model in enumerate(models):
            shift = (number - (len(models) - 1) / 2) * 0.1
            _dose_line(ax, table[(table["unit"] == unit) & (table["model"] == model)], DOSED[said], model, shift)
        sizes = sorted(table.loc[table["unit"] == unit, "budget"].dropna().unique())
        ax.set_xticks(range(len(sizes) + 1), [*(f"{size:g}" for size in sizes), "none"])
        ax.set_xlim(-0.4, len(sizes) + 0.4)
        share_axis(ax)
        ax.set_title(said)
        ax.set_xlabel(f"Budget of {unit}")
        ax.set_ylabel("Share of answers")
    handles = [
        axes[0].plot([], [], color=look(m).colour, marker=look(m).marker, label=look(m).label)[0] for m in models
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(models), borderpad=0)
    return figure


def _dose_line(ax: Axes, rows: pd.DataFrame, columns: tuple[str, str, str], model: str, shift: float) -> None:
    """Values by budget, joined by a line; the one without a budget last and unjoined."""
    rows = rows.sort_values("budget", na_position="last")
    x = np.arange(len(rows)) + shift
    values, low, high = (rows[name].to_numpy(dtype=float) for name in columns)
    bars = np.clip([values - low, high - values], 0, None)
    _, colour, marker = look(model)
    _ = ax.errorbar(x, values, bars, color=colour, marker=marker, markersize=4, linestyle="", elinewidth=1.0)
    bounded = rows["budget"].notna().to_numpy()
    _ = ax.plot(x[bounded], values[bounded], color=colour, linewidth=0.8)
