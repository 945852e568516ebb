"""The paper's tables as LaTeX fragments in the manner of booktabs, for readers who write in LaTeX.

Each file holds one `tabular`: `\\usepackage{booktabs}`, then `\\input{tables/scores.tex}` inside a table of your own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

EMPTY = "--"
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
}


def latex_tables(numbers: Mapping[str, Any]) -> dict[str, str]:
    """File name to content, of every table that the numbers have something for.

    Args:
        numbers: as `paper.numbers` gives them.
    """
    tables = {
        "scores": _scores(numbers),
        "seeds": _seeds(numbers),
        "targets": _targets(numbers),
        "comparisons": _comparisons(numbers),
        "tasks-against-models": _article(numbers),
        "ablations": _ablations(numbers["ablations"]) if numbers["ablations"] else None,
        "budgets": _budgets(numbers["budgets"]) if numbers["budgets"] else None,
        "bench": _bench(numbers["bench"]) if numbers["bench"] else None,
    }
    return {f"{name}.tex": table for name, table in tables.items() if table is not None}


def tabular(header: Sequence[str], rows: Iterable[Sequence[Any]], align: str | None = None) -> str:
    """A booktabs `tabular`.

    Args:
        header: text of the columns. rows: cells; text is escaped, numbers get three decimals, None is `--`.
        align: LaTeX's column letters; the first column to the left and the rest to the right when None.
    """
    columns = align or "l" + "r" * (len(header) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _line(header), r"\midrule", *map(_line, rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def _line(cells: Sequence[Any]) -> str:
    return " & ".join(_cell(cell) for cell in cells) + r" \\"


def _cell(value: Any) -> str:
    if value is None:
        return EMPTY
    if isinstance(value, float):
        return f"{value:.3f}".replace("-", "$-$")
    return escaped(str(value))


def _span(row: Mapping[str, Any]) -> str | None:
    if row["ci_low"] is None:
        return None
    return f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"


def _scores(numbers: Mapping[str, Any]) -> str:
    rows = []
    for task in ["all", *(task["name"] for task in numbers["tasks"])]:
        for model in numbers["models"]:
            if row := model["tasks"].get(task):
                tokens = None if row["format"] is None else f"{row['mean_tokens']:.0f}"
                rows.append([task, model["label"], row["score"], _span(row), row["format"], tokens, row["n"]])
    return tabular(["Task", "Model", "Score", "95% interval", "Format", "Tokens", "n"], rows, "llrrrrr")


def _seeds(numbers: Mapping[str, Any]) -> str:
    rows = [
        [model["label"], row["mean"], row["sd"], row["low"], row["high"], row["seeds"]]
        for model in numbers["models"]
        if (row := numbers["spread"].get(model["name"]))
    ]
    return tabular(["Model", "Mean", "SD over seeds", "Worst seed", "Best seed", "Seeds"], rows)


def _targets(numbers: Mapping[str, Any]) -> str:
    rows = [
        [row["criterion"], row["measured"], _span(row), row["target"], row["met"]] for row in numbers["targets"]["rows"]
    ]
    return tabular(["Target", "Measured", "95% interval", "Asked for", "Met"], rows, "lrrll")


def _comparisons(numbers: Mapping[str, Any]) -> str:
    rows = [
        [row["task"], f"RL minus {row['label']}", row["difference"], _span(row), row["p_holm"]]
        for row in numbers["comparisons"]
    ]
    return tabular(["Task", "Comparison", "Difference", "95% interval", "p (Holm)"], rows, "llrrr")


def _article(numbers: Mapping[str, Any]) -> str:
    article = numbers["article"]
    header = ["Task", *(column["name"] for column in article["columns"])]
    return tabular(header, ([row["title"], *row["values"]] for row in article["rows"]))


def _ablations(ablations: Mapping[str, Any]) -> str:
    rows = [[row["changed"], row["score"], _span(row), row["format"], row["n"]] for row in ablations["rows"]]
    return tabular(["Changed", "Score", "95% interval", "Format", "n"], rows)


def _budgets(budgets: Mapping[str, Any]) -> str:
    header = ["Model", "Budget", "Right", "95% interval", "No answer when told", "Minus no budget", "95% interval"]
    rows = []
    for model in budgets["models"]:
        for row in model["doses"]:
            told = f"{row['budget']:g} {row['unit']}"
            effect = row["effect"]
            rows.append(
                [model["label"], told, row["right"], _span(row), row["truncated"], effect["difference"], _span(effect)]
            )
        free = model["free"]
        rows.append([model["label"], "none", free["right"], _span(free), free["truncated"], None, None])
    return tabular(header, rows, "llrrrrr")


def _bench(bench: Mapping[str, Any]) -> str:
    rows = [[row["key"], row["result"], row["measured"], row["against"] or None] for row in bench["rows"]]
    return tabular(["Key", "Result", "Measured", "Against"], rows, "lrll")
