"""Who works when: timelines, idle shares, staleness and throughput of real and simulated runs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from biomni_lib.analysis.tables import require
from biomni_lib.figures.style import (
    BLUE,
    COLUMN_WIDTH_IN,
    CYCLE,
    FAINT,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PAGE_WIDTH_IN,
    SKY,
    VERMILION,
    new_figure,
    panels,
    rows_axis,
    share_axis,
    styled,
)

KINDS = {
    "generate": ("Generating, or waiting for it", BLUE),
    "wait": ("Waiting for the sandbox", SKY),
    "tool": ("In a tool", ORANGE),
    "other": ("Other", FAINT),
    "learn": ("Learning", VERMILION),
}
LEARNER_BAND = 0.07
"""Height of the learner's band, in heights of a panel."""


@styled
def timeline(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """What every trajectory and the learner did, over time; a panel a run, a line a trajectory.

    Args:
        table: panel, lane (-1 for the learner), kind (generate, wait, tool, other, learn), began_s, ended_s.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["panel", "lane", "kind", "began_s", "ended_s"], "timeline")
    names = list(pd.unique(table["panel"]))
    figure, axes = panels(len(names), width_in, 1.35, per_row=1)
    for ax, name in zip(axes, names, strict=True):
        part = table[table["panel"] == name]
        lanes = int(part["lane"].max()) + 1
        band = max(1.0, LEARNER_BAND * lanes)
        for kind, (_, colour) in KINDS.items():
            spans = part[part["kind"] == kind]
            low = np.where(spans["lane"] < 0, -1.5 * band, spans["lane"])
            high = np.where(spans["lane"] < 0, -0.5 * band, spans["lane"] + 1)
            _ = ax.add_collection(PolyCollection(list(_boxes(spans, low, high)), facecolors=colour, linewidths=0))
        ax.set_xlim(0, float(part["ended_s"].max()))
        ax.set_ylim(-2 * band, lanes)
        ax.set_yticks([-band, lanes / 2], ["Learner", "Agents"])
        ax.tick_params(axis="y", length=0)
        ax.grid(False)
        ax.set_title(name)
    axes[-1].set_xlabel("Seconds")
    handles = [axes[0].fill_between([], [], [], color=colour, label=label) for label, colour in KINDS.values()]
    figure.legend(handles=handles, loc="outside upper left", ncols=5 if width_in > 5 else 2, borderpad=0)
    return figure


@styled
def idle_by_mode(table: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Share of the time in which engine and learner had nothing to do, a row a mode.

    Args:
        table: mode, engine_idle, learner_idle.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["mode", "engine_idle", "learner_idle"], "idle shares by mode")
    rows = np.arange(len(table))
    figure = new_figure(width_in, 0.7 + 0.42 * len(table))
    ax = figure.subplots()
    sides = {"engine_idle": ("Engine", BLUE, -0.18), "learner_idle": ("Learner", VERMILION, 0.18)}
    for column, (label, colour, shift) in sides.items():
        bars = ax.barh(rows + shift, table[column], height=0.32, color=colour, label=label)
        _ = ax.bar_label(bars, [f"{share:.0%}" for share in table[column]], padding=2, fontsize=7, color=INK)
    rows_axis(ax, list(table["mode"]))
    ax.set_xlim(0, 1.15)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_xlabel("Share of time idle")
    figure.legend(loc="outside upper left", ncols=2, borderpad=0)
    return figure


@styled
def staleness_by_mode(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """How old the oldest token of a trajectory was when it was trained on, a panel a mode.

    Args:
        table: mode, staleness (whole versions), trajectories.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["mode", "staleness", "trajectories"], "staleness by mode")
    modes = list(pd.unique(table["mode"]))
    figure, axes = panels(len(modes), width_in, 1.7, per_row=4 if width_in > 5 else 1, sharey=True)
    most = int(table["staleness"].max())
    for ax, mode in zip(axes, modes, strict=True):
        counts = table[table["mode"] == mode].groupby("staleness")["trajectories"].sum()
        _ = ax.bar(counts.index, counts / counts.sum(), width=0.7, color=GREEN)
        ax.set_title(mode)
        ax.set_xlim(-0.6, most + 0.6)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.set_xlabel("Staleness (versions)")
        ax.grid(False, axis="x")
        share_axis(ax)
    axes[0].set_ylabel("Share of trajectories")
    return figure


@styled
def throughput(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Throughput, and who is idle or lost, over one setting at a time; a panel a setting.

    Args:
        table: setting (its name), value, tokens_per_s, engine_of_limit, learner_idle, dropped.
    Raises: DataError when the table is empty or lacks a column.
    """
    columns = {"engine_of_limit": "Engine, of its limit", "learner_idle": "Learner idle", "dropped": "Groups too old"}
    require(table, ["setting", "value", "tokens_per_s", *columns], "throughput")
    names = list(pd.unique(table["setting"]))
    figure, axes = panels(len(names), width_in, 2.0, per_row=2 if width_in > 5 else 1)
    for ax, name in zip(axes, names, strict=True):
        part = table[table["setting"] == name].sort_values("value")
        best = part["tokens_per_s"].max()
        lines = {"Throughput, of the best": part["tokens_per_s"] / best} | {
            label: part[column] for column, label in columns.items()
        }
        for (label, values), colour, marker in zip(lines.items(), CYCLE, MARKERS, strict=False):
            _ = ax.plot(part["value"], values, color=colour, marker=marker, markersize=3.5, label=label)
        _value_axis(ax, part["value"])
        share_axis(ax)
        ax.set_xlabel(name)
    axes[0].set_ylabel("Share")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4 if width_in > 5 else 2, borderpad=0)
    return figure


@styled
def scaling(table: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Throughput over the number of engines: simulated, and extrapolated with its error.

    Args:
        table: engines, tokens_per_s, kind (simulated or extrapolated), low, high.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["engines", "tokens_per_s", "kind", "low", "high"], "scaling")
    figure = new_figure(width_in, 2.1)
    ax = figure.subplots()
    for kind, colour, marker in (("simulated", BLUE, "o"), ("extrapolated", VERMILION, "D")):
        part = table[table["kind"] == kind].sort_values("engines")
        around = np.clip([part["tokens_per_s"] - part["low"], part["high"] - part["tokens_per_s"]], 0, None)
        _ = ax.errorbar(
            part["engines"], part["tokens_per_s"], around, fmt=marker, color=colour, label=kind.capitalize(), capsize=2
        )
    first = table.sort_values("engines").iloc[0]
    ends = np.array([table["engines"].min(), table["engines"].max()])
    _ = ax.plot(
        ends, first["tokens_per_s"] * ends / first["engines"], color=MUTED, linewidth=0.7, label="In proportion"
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("Engines")
    ax.set_ylabel("Tokens trained on a second")
    ax.legend()
    return figure


def _boxes(spans: pd.DataFrame, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Corners of one box a span, shape (spans, 4, 2)."""
    began, ended = spans["began_s"].to_numpy(float), spans["ended_s"].to_numpy(float)
    x = np.stack([began, ended, ended, began], axis=1)
    y = np.stack([low, low, high, high], axis=1)
    return np.stack([x, y], axis=2)


def _value_axis(ax: Axes, values: pd.Series) -> None:
    """Powers of two in equal steps, small numbers as they are."""
    if values.max() > 16:
        ax.set_xscale("log", base=2)
        ax.set_xticks(values.tolist(), [f"{value:g}" for value in values])
        ax.minorticks_off()
    else:
        ax.set_xticks(values.tolist())
