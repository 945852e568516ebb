"""The figures of length against score that notebook 05 and the paper share, with their captions."""

import pandas as pd

from biomni_lib import figures
from biomni_lib.stages.drawings import Drawing


def odds_drawing(table: pd.DataFrame) -> Drawing:
    """The three readings of length against score, as far as they have an estimate.

    Args:
        table: as `length_odds` gives it.
    Raises: DataError when no reading has one.
    """
    known = table.dropna(subset=["odds_ratio"])
    said = "Odds ratio of a right answer for one 10% longer, by what is held fixed"
    note = "Associations, not effects; what has no estimate is not drawn, and an interval goes on at an arrowhead"
    wald = "95% Wald intervals, clustered by instance"
    return Drawing.make("length-odds", figures.length_odds, known, said, interval=wald, note=note)


def dose_drawing(table: pd.DataFrame) -> Drawing:
    """Answers under budgets. Args: table, as `dose_response` gives it."""
    said = "Right answers, and answers that did not come when told to, by budget"
    note = "The models never met the notice in training; without a budget (none) it is the evaluation"
    return Drawing.make("dose-response", figures.dose_response, table, said, note=note)
