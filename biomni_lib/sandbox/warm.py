"""Loaded once before any session is forked: the first uses of pandas that cost time and memory, made in advance.

What a library builds on its first use (lazily imported modules, caches) is then shared by all sessions instead of
being built in each: a session that uses a DataFrame costs 6 MB of its own instead of 11.
"""

import traceback

import numpy as np
import pandas as pd


def warm_up() -> None:
    """Make, select, group, sort, join and show a small table, and format an error."""
    frame = pd.DataFrame({"name": ["a", "b", "a"], "value": np.arange(3.0)})
    joined = frame.merge(frame.groupby("name").mean(), on="name").sort_values("value_x")
    for shown in (frame, frame[frame.value > 0], frame.describe(), frame["name"].value_counts(), joined):
        repr(shown)
    try:
        frame["missing"]
    except KeyError as error:
        "".join(traceback.format_exception(error))


warm_up()
