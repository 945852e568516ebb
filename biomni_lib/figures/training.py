"""Training as it went: rewards, response length, staleness of the tokens trained on, idle time.

Input is the tracked metrics as one table, one row a step, columns by their dashboard names. With a column `seed`, each
seed is a thin line and their mean a thick one.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from biomni_lib.analysis.tables import require
from biomni_lib.figures.style import (
    BLUE,
    COLUMN_WIDTH_IN,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    PAGE_WIDTH_IN,
    VERMILION,
    new_figure,
    panels,
    share_axis,
    styled,
)

PANEL_IN = 1.75
Lines = Mapping[str, tuple[str, str]]
"""Column to (label, colour)."""


@styled
def learning_curves(metrics: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Correctness and format of the training trajectories, by step.

    Args:
        metrics: step, reward/correctness, reward/format; optionally seed.
    Raises: DataError when the table is empty or lacks a column.
    """
    figure, axes = panels(2, width_in, PANEL_IN if width_in > 5 else 1.5, per_row=2 if width_in > 5 else 1)
    _curves(axes[0], metrics, {"reward/correctness": ("Correctness", VERMILION)}, "learning curves")
    _curves(axes[1], metrics, {"reward/format": ("Format", BLUE)}, "learning curves")
    for ax, title in zip(axes, ("Correctness", "Format"), strict=True):
        ax.set_title(title)
        ax.set_ylabel("Mean reward")
        share_axis(ax)
    return figure


@styled
def response_length(metrics: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Tokens that the model writes in a trajectory, and its turns, by step.

    Args:
        metrics: step, response/tokens, response/turns; optionally seed.
    Raises: DataError when the table is empty or lacks a column.
    """
    figure, axes = panels(2, width_in, PANEL_IN if width_in > 5 else 1.5, per_row=2 if width_in > 5 else 1)
    _curves(axes[0], metrics, {"response/tokens": ("Tokens", VERMILION)}, "response length over training")
    _curves(axes[1], metrics, {"response/turns": ("Turns", BLUE)}, "response length over training")
    for ax, title in zip(axes, ("Tokens a response", "Turns a response"), strict=True):
        ax.set_title(title)
        ax.set_ylabel("Mean over the batch")
    return figure


@styled
def loss_curve(metrics: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Loss of supervised training, by step.

    Args:
        metrics: step, sft/loss; optionally seed.
    Raises: DataError when the table is empty or lacks a column.
    """
    figure = new_figure(width_in, 1.9)
    ax = figure.subplots()
    _curves(ax, metrics, {"sft/loss": ("Loss", VERMILION)}, "loss curve")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("Nats a token")
    return figure


@styled
def idle_time(metrics: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Share of the time in which the engine and the learner had nothing to do, by step.

    Args:
        metrics: step, perf/engine_idle_fraction, perf/learner_idle_fraction; optionally seed.
    Raises: DataError when the table is empty or lacks a column.
    """
    figure = new_figure(width_in, 1.9)
    ax = figure.subplots()
    lines = {"perf/engine_idle_fraction": ("Engine", BLUE), "perf/learner_idle_fraction": ("Learner", VERMILION)}
    _curves(ax, metrics, lines, "idle time")
    share_axis(ax)
    ax.set_ylabel("Share of time idle")
    figure.legend(loc="outside upper left", ncols=2, borderpad=0)
    return figure


@styled
def staleness(table: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """How many learner versions lie between sampling a trajectory's oldest token and training on it.

    Args:
        table: staleness (whole numbers) and tokens, one row a trained trajectory or one row a staleness.
    Raises: DataError when the table is empty, lacks a column or counts no token.
    """
    require(table, ["staleness", "tokens"], "staleness of tokens")
    counts = table.groupby("staleness")["tokens"].sum()
    require(table[table["tokens"] > 0], ["tokens"], "staleness of tokens above zero")
    shares = counts / counts.sum()
    figure = new_figure(width_in, 1.8)
    ax = figure.subplots()
    bars = ax.bar(shares.index, shares, width=0.7, color=GREEN)
    ax.bar_label(
        bars, [f"{share:.0%}" if share >= 0.005 else "<1%" for share in shares], padding=1, fontsize=7, color=INK
    )
    ax.set_xticks(range(int(shares.index.min()), int(shares.index.max()) + 1))
    ax.set_ylim(0, 1.12)
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.grid(False, axis="x")
    ax.set_xlabel("Staleness of the oldest token (versions)")
    ax.set_ylabel("Share of tokens trained on")
    return figure


def _curves(ax: Axes, metrics: pd.DataFrame, lines: Lines, what: str) -> None:
    require(metrics, ["step", *lines], what)
    for (column, (label, colour)), shape in zip(lines.items(), MARKERS, strict=False):
        known = require(metrics.dropna(subset=[column]), [column], f"{what}, {column}").sort_values("step")
        seeds = [part for _, part in known.groupby("seed")] if "seed" in known else [known]
        mean = known.groupby("step")[column].mean()
        if len(seeds) > 1:
            for part in seeds:
                _ = ax.plot(part["step"], part[column], color=colour, alpha=0.4, linewidth=0.7)
        marker = shape if len(mean) <= 40 else ""
        _ = ax.plot(mean.index, mean, color=colour, label=label, marker=marker, markersize=2.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.set_xlabel("Learner step")
    ax.spines["left"].set_color(MUTED)
