"""The figures: a table in, a `Figure` out, no file and no statistics; `save_figure` writes one.

Every function draws in one style at print width, raises DataError by name for a table that is empty or lacks a column,
and never returns an empty plot. Tables come from `biomni_lib.analysis` and from the tracked metrics of training.
"""

from biomni_lib.figures.ablations import ablation_curves, ablation_scores
from biomni_lib.figures.length import dose_response, length_odds, length_vs_score
from biomni_lib.figures.saving import caption, save_figure
from biomni_lib.figures.scheduling import idle_by_mode, scaling, staleness_by_mode, throughput, timeline
from biomni_lib.figures.scores import acceptance_by_strategy, failure_endings, headline, score_by_task, seed_differences
from biomni_lib.figures.style import COLUMN_WIDTH_IN, PAGE_WIDTH_IN
from biomni_lib.figures.training import idle_time, learning_curves, loss_curve, response_length, staleness

__all__ = [
    "COLUMN_WIDTH_IN",
    "PAGE_WIDTH_IN",
    "ablation_curves",
    "ablation_scores",
    "acceptance_by_strategy",
    "caption",
    "dose_response",
    "failure_endings",
    "headline",
    "idle_by_mode",
    "idle_time",
    "learning_curves",
    "length_odds",
    "length_vs_score",
    "loss_curve",
    "response_length",
    "save_figure",
    "scaling",
    "score_by_task",
    "seed_differences",
    "staleness",
    "staleness_by_mode",
    "throughput",
    "timeline",
]
