"""Every number of the paper, from the published results, as one JSON-ready object that the source reads.

Where the text depends on a result, the choice is here as a word (`above`, `below`, `unclear`; `met`) and the source
only looks it up. Numbers that are not known are null, and the source says so.
"""

import inspect
import itertools
from typing import Any

import pandas as pd

from biomni_lib import __version__
from biomni_lib.analysis import (
    TRUNCATED,
    across_strata,
    article_scores,
    association,
    budget_effects,
    check_targets,
    compare_models,
    dose_response,
    length_odds,
    seed_table,
    tasks_against_models,
    within_instance,
)
from biomni_lib.analysis.article import PUBLISHED
from biomni_lib.analysis.odds import PER
from biomni_lib.config import RunConfig, recipe_names
from biomni_lib.errors import DataError
from biomni_lib.figures.style import look, model_order, task_title, words
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.stages.paper.published import Published
from biomni_lib.stages.results import TRAINED
from biomni_lib.tasks import BUNDLED_TASKS, PUBLIC_TASKS
from biomni_lib.tools import domains_for, tool_names

REFERENCES = ("sft", "sft_best", "teacher", "teacher_best")
"""Models that RL is compared with, where they were evaluated; the heuristic that is best on its tasks beside them."""
CODE_LETTERS = 12
READ_FOR_LENGTH = ("teacher", "sft", "rl")
ROW = ("score", "ci_low", "ci_high", "format", "n", "seeds", "samples", "mean_tokens", "mean_turns")


def verdict(low: float, high: float) -> str:
    """What an interval of a difference or a correlation says: `above` 0, `below` 0, or `unclear`."""
    return "above" if low > 0 else "below" if high < 0 else "unclear"


def numbers(config: RunConfig, published: Published, scores: pd.DataFrame) -> dict[str, Any]:
    """All numbers by place in the paper.

    Args:
        scores: `score_table` of the published rows.
    Raises: DataError when the rows lack a model that the paper cannot do without.
    """
    rows, draws = published.rows, config.evaluate.bootstrap
    if lacking := {"sft", "rl"} - set(rows["model"]):
        raise DataError(f"published rows of the seeds: no model {', '.join(sorted(lacking))}; publish the seeds again")
    models = model_order(list(pd.unique(scores["model"])))
    return _plain(
        {
            "preset": config.preset,
            "version": __version__,
            "code_short": published.summary["code"][:CODE_LETTERS],
            "settings": _nested(published.settings),
            "recipe": load_recipe(published.settings["rl.recipe"]).model_dump(mode="json"),
            "recipes": len(recipe_names()),
            "tools": len({tool for task in pd.unique(rows["task"]) for tool in tool_names(domains_for(task))}),
            "seeds": {"count": rows["seed"].nunique(), "list": sorted(rows["seed"].unique().tolist())},
            "samples": int(rows["sample"].max()) + 1,
            "tasks": [_task(name, rows) for name in pd.unique(rows["task"])],
            "other_tasks": len({*BUNDLED_TASKS, *PUBLIC_TASKS} - set(rows["task"])),
            "models": [_model(name, scores, rows) for name in models],
            "spread": _by_name(seed_table(rows).query("task == 'all'"), "model"),
            "targets": _targets(check_targets(rows, draws=draws)),
            "comparisons": _comparisons(rows, scores, draws),
            "length": _length(rows, draws),
            "article": _article(scores),
            "ablations": _ablations(published),
            "budgets": None if published.budgets is None else _budgets(published.budgets, draws),
            "bench": published.bench,
            "seconds": {**published.summary["seconds"], "all": sum(published.summary["seconds"].values())},
            "missing": published.missing,
        }
    )


def _task(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    known: dict[str, Any] = {**BUNDLED_TASKS, **PUBLIC_TASKS}
    about = inspect.getdoc(known[name]) if name in known else None
    told = about.splitlines()[0].rstrip(".") if about else words(name)
    return {
        "name": name,
        "title": task_title(name),
        "about": told,
        "n": rows[rows["task"] == name]["instance_id"].nunique(),
    }


def _model(name: str, scores: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Any]:
    kind = (
        "trained" if name in TRAINED else "teacher" if rows[rows["model"] == name]["format"].notna().any() else "rule"
    )
    of_model = _by_name(scores[scores["model"] == name][["task", *ROW]], "task")
    return {"name": name, "label": look(name).label, "kind": kind, "tasks": of_model}


def _targets(table: pd.DataFrame) -> dict[str, Any]:
    last = "pooled" if "pooled" in set(table["seed"]) else table["seed"].iloc[-1]
    shown = table[table["seed"] == last]
    missed = table[table["met"] != "yes"]
    return {
        "rows": shown.to_dict("records"),
        "seed": last,
        "checked": len(table),
        "missed": [f"{row.criterion} (seed {row.seed})" for row in missed.itertuples()],
        "all_met": missed.empty,
        "met": len(table) - len(missed),
    }


def _comparisons(rows: pd.DataFrame, scores: pd.DataFrame, draws: int) -> list[dict[str, Any]]:
    rules = scores[scores["format"].isna() & (scores["task"] != "all")].groupby("model")["score"].mean()
    best = [str(rules.idxmax())] if len(rules) else []
    there = [name for name in (*REFERENCES, *best) if name in set(scores["model"])]
    table = compare_models(rows, [("rl", name) for name in there], draws=draws)
    return [
        {**row, "label": look(row["reference"]).label, "rule": row["reference"] in best}
        | {"verdict": verdict(row["ci_low"], row["ci_high"])}
        for row in table.to_dict("records")
    ]


def _length(rows: pd.DataFrame, draws: int) -> dict[str, Any]:
    """The readings that the published rows allow, all seeds together: tokens against correctness."""
    read = rows[rows["model"].isin(READ_FOR_LENGTH) & rows["format"].notna()]
    within = association(read, draws=draws).query("measure == 'spearman'")
    across = across_strata(read, by="task", draws=draws)
    truncated = read["ending"].isin(TRUNCATED).groupby(read["model"]).mean()
    try:
        same = within_instance(read, draws=draws)
    except DataError:
        same = pd.DataFrame()
    odds = length_odds(read).dropna(subset=["odds_ratio"]).query("adjusted").to_dict("records")
    story = model_order([row["model"] for row in odds])
    odds.sort(key=lambda row: story.index(row["model"]))
    return {
        "odds": [{**row, "label": look(row["model"]).label} for row in odds],
        "longer_percent": round(100 * (PER - 1)),
        "within_task": [_said(row) for row in within.to_dict("records")],
        "over_tasks": [_said(row) for row in across.to_dict("records")],
        "reverses": bool(across["reverses"].any()),
        "same_question": [_said(row) for row in same.to_dict("records")],
        "truncated": truncated.to_dict(),
        "verdicts": sorted({_said(row)["verdict"] for row in within.to_dict("records")}),
    }


def _budgets(rows: pd.DataFrame, draws: int) -> dict[str, Any]:
    """Answers under budgets: of each model every dose, and its difference from no budget over all tasks."""
    doses = dose_response(rows, draws=draws)
    effects = budget_effects(rows, draws=draws).query("task == 'all'")
    changed = {(row["model"], row["unit"], row["budget"]): row for row in effects.to_dict("records")}
    models = []
    for name in model_order(list(pd.unique(doses["model"]))):
        of_model = doses[doses["model"] == name]
        bounded = of_model.dropna(subset=["budget"]).to_dict("records")
        for row in bounded:
            effect = changed[name, row["unit"], row["budget"]]
            row["effect"] = effect | {"verdict": verdict(effect["ci_low"], effect["ci_high"])}
        free = of_model[of_model["budget"].isna()].iloc[0]
        silent = [row for row in bounded if row["truncated"] > 0]
        known = {"name": name, "label": look(name).label, "free": free.to_dict()}
        models.append({**known, "doses": bounded, "silent": silent})
    verdicts = {dose["effect"]["verdict"] for model in models for dose in model["doses"]}
    counts = {"n": doses["instances"].max(), "seeds": doses["seeds"].max()}
    return {"models": models, **counts, "verdicts": sorted(verdicts)}


def _said(row: dict[str, Any]) -> dict[str, Any]:
    known = pd.notna(row["ci_low"])
    names = {"label": look(row["model"]).label} | ({"title": task_title(row["task"])} if "task" in row else {})
    return {**row, **names, "verdict": verdict(row["ci_low"], row["ci_high"]) if known else "unknown"}


def _article(scores: pd.DataFrame) -> dict[str, Any]:
    known = article_scores()
    trained = scores.set_index("model").loc[["sft", "rl"]].reset_index()
    shown = tasks_against_models(trained, known)
    return {
        "source": known["source"],
        "instances": sum(known["instances"].values()),
        "tasks": len(known["instances"]),
        "columns": [{"name": name, "published": name.startswith(PUBLISHED)} for name in map(str, shown)],
        "rows": [
            {"task": task, "title": task_title(str(task)), "values": list(row)}
            for task, row in zip(shown.index, shown.to_numpy(), strict=True)
        ],
        "models": {
            key: {"name": name, **{task: row.get(key) for task, row in known["scores"].items()}}
            for key, name in known["models"].items()
        },
    }


def _ablations(published: Published) -> dict[str, Any] | None:
    if published.ablations is None:
        return None
    table, curves = published.ablations
    base = table[table["ablation"] == "default"].iloc[0] if "default" in set(table["ablation"]) else None
    rows = table.to_dict("records")
    for row in rows:
        apart = base is not None and (row["ci_low"] > base["ci_high"] or row["ci_high"] < base["ci_low"])
        row["apart"] = bool(apart)
    return {"rows": rows, "steps": curves.groupby("ablation")["step"].nunique().max(), "n": table["n"].max()}


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    sections = itertools.groupby(sorted(settings.items()), key=lambda item: item[0].partition(".")[0])
    return {section: {name.partition(".")[2]: value for name, value in items} for section, items in sections}


def _by_name(table: pd.DataFrame, key: str) -> dict[str, Any]:
    return {str(row.pop(key)): row for row in table.to_dict("records")}


def _plain(value: Any) -> Any:
    """JSON's own types: no NaN (null), no numpy numbers; floats at eight significant digits, so that bytes repeat."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return None if pd.isna(value) else float(f"{value:.8g}")
    return None if value is pd.NA else value
