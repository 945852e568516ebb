"""Scores of models, acceptance of the teacher's strategies, and gains seed by seed, as dots with intervals."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomni_lib.analysis.tables import require, select
from biomni_lib.errors import DataError
from biomni_lib.figures.style import (
    BLUE,
    COLUMN_WIDTH_IN,
    CYCLE,
    FAINT,
    INK,
    MARKERS,
    MUTED,
    PAGE_WIDTH_IN,
    VERMILION,
    look,
    model_order,
    new_figure,
    panels,
    rows_axis,
    share_axis,
    styled,
    task_title,
    words,
)

ROW_IN = 0.19
INTERVAL = ["ci_low", "ci_high"]


@styled
def headline(table: pd.DataFrame, *, task: str = "all", width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Score of every model on one task, by default on all together.

    Args:
        table: `analysis.score_table`: task, model, score, ci_low, ci_high.
    Raises: DataError when the table is empty, lacks a column or the task.
    """
    chosen = select(
        require(table, ["task", "model", "score", *INTERVAL], "headline figure"), "headline figure", task=task
    )
    models = _models(chosen)
    figure = new_figure(width_in, 0.55 + ROW_IN * len(models))
    ax = figure.subplots()
    _model_rows(ax, chosen, models, values=True)
    ax.set_xlabel("Mean score on held-out instances")
    return figure


@styled
def score_by_task(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Score of every model on every task, a panel a task; a model that was not run on a task has an empty row there.

    Args:
        table: `analysis.score_table`: task, model, score, ci_low, ci_high.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["task", "model", "score", *INTERVAL], "score by task")
    models = _models(table)
    figure, axes = _task_panels(list(pd.unique(table["task"])), len(models), width_in)
    for task, ax in axes.items():
        _model_rows(ax, table[table["task"] == task], models)
    figure.supxlabel("Mean score on held-out instances", fontsize=7.5)
    return figure


@styled
def acceptance_by_strategy(table: pd.DataFrame, *, width_in: float = COLUMN_WIDTH_IN) -> Figure:
    """Share of the teacher's trajectories that were accepted, by strategy and task.

    Args:
        table: `analysis.acceptance_intervals`: task, strategy, accepted, ci_low, ci_high.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["task", "strategy", "accepted", *INTERVAL], "acceptance by strategy")
    strategies, tasks = list(pd.unique(table["strategy"])), list(pd.unique(table["task"]))
    figure = new_figure(width_in, 0.6 + (0.08 + 0.08 * len(tasks)) * len(strategies) + 0.14 * len(tasks))
    ax = figure.subplots()
    for number, task in enumerate(tasks):
        of_task = table[table["task"] == task]
        rows = np.array([strategies.index(name) for name in of_task["strategy"]])
        shift = (number - (len(tasks) - 1) / 2) * 0.3
        colour, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
        interval_dots(ax, of_task, "accepted", rows + shift, colour, marker, words(task))
    rows_axis(ax, [words(name) for name in strategies])
    share_axis(ax, "x")
    ax.set_xlabel("Share of trajectories accepted")
    figure.legend(loc="outside upper left", ncols=1, borderpad=0, handletextpad=0.3)
    return figure


@styled
def seed_differences(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """The gain of one model over another, a panel a task: all seeds pooled, and each.

    Args:
        table: `analysis.difference_by_seed`: task, seed, model, reference, difference, ci_low, ci_high.
    Raises: DataError when the table is empty, lacks a column, or compares more than one pair of models.
    """
    require(table, ["task", "seed", "model", "reference", "difference", *INTERVAL], "differences by seed")
    pairs = table[["model", "reference"]].drop_duplicates()
    if len(pairs) > 1:
        raise DataError(f"differences by seed: {len(pairs)} pairs of models; select one")
    seeds = sorted(pd.unique(table["seed"]), key=lambda seed: seed != "pooled")
    figure, axes = _task_panels(list(pd.unique(table["task"])), len(seeds), width_in)
    for task, ax in axes.items():
        ax.axvline(0, color=MUTED, linewidth=0.8)
        for position, seed in enumerate(seeds):
            colour, marker = (VERMILION, "D") if seed == "pooled" else (BLUE, "o")
            row = table[(table["task"] == task) & (table["seed"] == seed)]
            interval_dots(ax, row, "difference", np.full(len(row), position), colour, marker)
        rows_axis(ax, ["all seeds" if seed == "pooled" else f"seed {seed}" for seed in seeds])
        ax.set_xlim(min(0, table["ci_low"].min()) - 0.03, max(0, table["ci_high"].max()) + 0.03)
    model, reference = (look(name).label for name in pairs.iloc[0])
    figure.supxlabel(f"Score of {model} minus {reference}", fontsize=7.5)
    return figure


def _task_panels(tasks: list[str], rows: int, width_in: float) -> tuple[Figure, dict[str, Axes]]:
    """A panel of so many rows for each task, named, side by side where the figure is as wide as a page."""
    wide = width_in > 5
    height_in = (0.75 if wide else 0.65) + ROW_IN * rows
    figure, axes = panels(len(tasks), width_in, height_in, per_row=5 if wide else 1, sharey=wide)
    for ax, task in zip(axes, tasks, strict=True):
        ax.set_title(textwrap.fill(task_title(task), 16) if wide else task_title(task))
    return figure, dict(zip(tasks, axes, strict=True))


def _models(table: pd.DataFrame) -> list[str]:
    """Heuristics by rising score, then the teacher and the trained models."""
    return model_order(list(table.groupby("model")["score"].mean().sort_values(kind="stable").index))


def _model_rows(
    ax: Axes, table: pd.DataFrame, models: list[str], *, column: str = "score", values: bool = False
) -> None:
    for position, model in enumerate(models):
        row = table[table["model"] == model]
        if row.empty:
            continue
        _, colour, marker = look(model)
        ax.axhline(position, color=FAINT, linewidth=0.5, zorder=0)
        interval_dots(ax, row, column, np.array([position]), colour, marker)
        if values:
            ax.annotate(
                f"{row[column].iloc[0]:.2f}",
                (1.0, position),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=INK,
            )
    rows_axis(ax, [look(model).label for model in models])
    share_axis(ax, "x", step=0.25 if values else 0.5)


@styled
def failure_endings(table: pd.DataFrame, *, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Share of answers that failed in each way, a panel a way, a row a model.

    Args:
        table: `analysis.failure_endings`: model, failure, share, ci_low, ci_high.
    Raises: DataError when the table is empty or lacks a column.
    """
    require(table, ["model", "failure", "share", *INTERVAL], "endings of answers")
    failures, models = list(pd.unique(table["failure"])), model_order(list(pd.unique(table["model"])))
    per_row = 4 if width_in > 5 else 2
    figure, axes = panels(len(failures), width_in, 0.6 + ROW_IN * len(models), per_row=per_row, sharey=True)
    for ax, failure in zip(axes, failures, strict=True):
        _model_rows(ax, table[table["failure"] == failure], models, column="share")
        ax.set_title(words(failure.removeprefix("error:")))
        ax.set_xlabel("Share of answers")
    return figure


def interval_dots(
    ax: Axes, table: pd.DataFrame, column: str, rows: np.ndarray, colour: str, marker: str, label: str | None = None
) -> None:
    """A dot and its interval for each row of a table, at the given heights."""
    values, low, high = (table[name].to_numpy(dtype=float) for name in (column, *INTERVAL))
    ax.hlines(rows, low, high, color=colour, linewidth=1.3)
    ax.plot(values, rows, marker, color=colour, label=label, markersize=4, markeredgewidth=0)
