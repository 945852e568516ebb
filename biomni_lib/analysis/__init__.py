"""Statistics of evaluated trajectories: tables in, tables out.

A row is one trajectory of one model on one instance (see `biomni_lib.evaluate`). The unit of chance is the instance:
samples of one instance are never counted as independent.
"""

from biomni_lib.analysis.article import article_scores, shown, tasks_against_models
from biomni_lib.analysis.bootstrap import bootstrap_mean, compare_models, paired_difference
from biomni_lib.analysis.budgets import budget_effects, dose_response
from biomni_lib.analysis.endings import failure_endings
from biomni_lib.analysis.length import (
    TRUNCATED,
    across_strata,
    association,
    binned_curve,
    outcome_by_level,
    over_training,
    within_instance,
)
from biomni_lib.analysis.odds import length_odds
from biomni_lib.analysis.passes import pass_at_k
from biomni_lib.analysis.seeds import difference_by_seed, seed_table
from biomni_lib.analysis.strategies import acceptance_intervals
from biomni_lib.analysis.summary import evaluation_table, score_table, summarize
from biomni_lib.analysis.targets import check_targets

__all__ = [
    "TRUNCATED",
    "acceptance_intervals",
    "across_strata",
    "article_scores",
    "association",
    "binned_curve",
    "bootstrap_mean",
    "budget_effects",
    "check_targets",
    "compare_models",
    "difference_by_seed",
    "dose_response",
    "length_odds",
    "outcome_by_level",
    "evaluation_table",
    "failure_endings",
    "over_training",
    "paired_difference",
    "pass_at_k",
    "score_table",
    "seed_table",
    "shown",
    "summarize",
    "tasks_against_models",
    "within_instance",
]
