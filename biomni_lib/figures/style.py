"""One style for every figure: print widths, type sizes, colours that colour-blind readers can tell apart, names.

Colours: Okabe and Ito 2008; models differ in marker as well, so that a grey print can be read.
"""

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, ParamSpec

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")

COLUMN_WIDTH_IN = 3.3
PAGE_WIDTH_IN = 6.9
SCREEN_DPI = 110
"""Pixels an inch in a notebook; the picture has twice as many for sharp screens."""

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
CYCLE = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "D", "^", "v", "P")

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
}


class PrintFigure(Figure):
    """A figure that shows itself in a notebook, in the style, whether or not a plotting session is loaded."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        with style_context():
            self.savefig(buffer, format="png", dpi=2 * SCREEN_DPI, metadata={"Software": None})
        width, height = (round(inches * SCREEN_DPI) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


class Look(NamedTuple):
    """How a model is shown."""

    label: str
    colour: str
    marker: str


HEURISTIC_COLOUR = "#8c8c8c"
MODELS = {
    "base": Look("Before SFT", MUTED, "X"),
    "sft": Look("SFT", BLUE, "s"),
    "rl": Look("RL", VERMILION, "o"),
    "teacher": Look("Scripted teacher", GREEN, "D"),
    "teacher_best": Look("Teacher's best strategy", GREEN, "P"),
    "sft_best": Look("SFT on best strategy", SKY, "v"),
    "teacher, sampling": Look("Teacher, sampling", GREEN, "D"),
    "rl, training": Look("RL, training", VERMILION, "o"),
}
SPELT = {
    "gwas": "GWAS",
    "crispr": "CRISPR",
    "lab bench": "LAB-Bench",
    "dbqa": "DbQA",
    "seqqa": "SeqQA",
    "opentargets": "Open Targets",
    "pharmaprojects": "Pharmaprojects",
}
"""What in names is not written as it comes."""


def look(model: str) -> Look:
    """A model's label, colour and marker; what is not in `MODELS` is a heuristic, drawn in grey."""
    return MODELS.get(model, Look(words(model), HEURISTIC_COLOUR, "o"))


def words(name: str) -> str:
    """A task's, strategy's or heuristic's name as a reader says it."""
    text = name.replace("_", " ").strip()
    for plain, spelt in SPELT.items():
        text = re.sub(rf"\b{plain}\b", spelt, text)
    return text[:1].upper() + text[1:]


def task_title(task: str) -> str:
    """A task's name as a title, or that of all together."""
    return "All tasks" if task == "all" else words(task)


def model_order(models: list[str]) -> list[str]:
    """Heuristics first, as they come, then teacher, untrained model, SFT, RL: the story from top to bottom."""
    story = ["teacher", "teacher_best", "base", "sft_best", "sft", "rl"]
    return [name for name in models if name not in story] + [name for name in story if name in models]


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a drawing function use the style and nothing of the session's settings.

    Ticks and text are laid out before the style is left, so that a later display looks the same.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style_context():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
        return figure

    return drawn


def style_context() -> AbstractContextManager[None]:
    """Matplotlib's defaults with the style on top, while the context lasts."""
    return mpl.style.context(["default", STYLE])


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that no plotting session knows, so that a notebook shows it once."""
    return PrintFigure(figsize=(width_in, height_in), layout="constrained")


def panels(
    count: int, width_in: float, panel_height_in: float, *, per_row: int = 3, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows; panels left over in the last row are absent."""
    columns = min(count, per_row)
    lines = math.ceil(count / columns)
    figure = new_figure(width_in, panel_height_in * lines)
    axes = figure.subplots(lines, columns, sharey=sharey, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def share_axis(ax: Axes, axis: Literal["x", "y"] = "y", *, step: float = 0.25) -> None:
    """Fix an axis to a share, 0 to 1, with a little air for the markers at its ends."""
    limits, ticks = (-0.03, 1.03), [n * step for n in range(round(1 / step) + 1)]
    labels = [f"{tick:g}" for tick in ticks]
    if axis == "x":
        ax.set_xlim(*limits)
        ax.set_xticks(ticks, labels)
    else:
        ax.set_ylim(*limits)
        ax.set_yticks(ticks, labels)


def rows_axis(ax: Axes, labels: Sequence[str], positions: Sequence[float] | None = None) -> None:
    """Label a vertical axis of named rows, the first on top, without ticks or horizontal grid.

    Args:
        positions: of the rows, ascending; 0, 1, 2, … when not given.
    """
    rows = list(range(len(labels))) if positions is None else list(positions)
    ax.set_yticks(rows, labels)
    ax.set_ylim(rows[-1] + 0.6, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
