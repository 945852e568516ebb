"""The scores that the article on Biomni-R0 gives, and a table of tasks against models that has them in columns apart.

They were measured on Biomni-Eval1, ours on this project's held-out instances: columns of the two kinds stand side by
side for the reader and are not to be subtracted. What the article does not say is an empty cell, never a guess.
"""

import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from biomni_lib.analysis.tables import require
from biomni_lib.errors import DataError

ARTICLE = Path(__file__).with_name("article.toml")
PUBLISHED = "published: "
"""What the name of a column of the article's numbers begins with."""


def article_scores(path: Path = ARTICLE) -> dict[str, Any]:
    """What is known of the article: `source`, `models` (key to name), `scores` (task to model's key to score),
    `instances` (of its benchmark, by task).

    Raises: DataError when a part is missing, a model has no name, or a score is no share.
    """
    known: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    if missing := {"source", "models", "scores", "instances"} - set(known):
        raise DataError(f"{path}: no part {', '.join(sorted(missing))}; restore it from the repository")
    for task, scores in known["scores"].items():
        for model, score in scores.items():
            if model not in known["models"] or not 0 <= score <= 1:
                raise DataError(f"{path}: scores.{task}.{model} = {score}: must be a named model's share, 0 to 1")
    return known


def tasks_against_models(scores: pd.DataFrame, known: dict[str, Any] | None = None) -> pd.DataFrame:
    """Mean scores, a row a task and a column a model; behind ours the article's, a column each, marked as published.

    Args:
        scores: `score_table`: task, model, score.
        known: `article_scores()`; read when None.
    Returns: index task (`all` first, then ours, then the rest of the article's benchmark); ours by model, then
        `published: NAME`; NaN where nothing is known.
    Raises: DataError when scores are empty or a column is missing.
    """
    require(scores, ["task", "model", "score"], "scores by task and model")
    known = known or article_scores()
    tasks = dict.fromkeys(["all", *scores["task"], *known["scores"], *known["instances"]])
    ours = scores.pivot_table(index="task", columns="model", values="score", sort=False).reindex(tasks)
    given = {
        PUBLISHED + name: {task: row.get(key) for task, row in known["scores"].items()}
        for key, name in known["models"].items()
    }
    theirs = pd.DataFrame(given, dtype=float).reindex(tasks)
    return pd.concat([ours, theirs], axis=1).rename_axis("task")


def shown(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """A table of numbers to look at: rounded, and an empty cell where nothing is known."""
    return table.round(digits).astype(object).where(table.notna(), "")
