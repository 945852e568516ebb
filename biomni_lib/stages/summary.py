"""A run's results as one JSON object, and as the README's block of results."""

import json
from typing import Any

from biomni_lib.analysis import summarize
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.stages.evaluate import evaluated_rows

BLOCK_START = "<!-- results: written by `python -m biomni_lib.stages publish` -->"
BLOCK_END = "<!-- end of results -->"
_WRITTEN = (("format", 3), ("mean_tokens", 0))


def summary(config: RunConfig) -> dict[str, Any]:
    """`analysis.summarize` of a finished run: preset, code, tasks, seconds.

    Raises: RunError when the evaluation has not finished.
    """
    return summarize(evaluated_rows(config), config)


def run(config: RunConfig) -> dict[str, Any]:
    """Print the summary, and nothing else, on stdout."""
    found = summary(config)
    print(json.dumps(found, indent=1))
    return found


def with_results(readme: str, found: dict[str, Any]) -> str:
    """The README's text with its block of results made from a summary.

    Raises: DataError when the text has no such block.
    """
    before, opening, rest = readme.partition(BLOCK_START)
    _, closing, after = rest.partition(BLOCK_END)
    if not opening or not closing:
        raise DataError(f"README.md has no block between {BLOCK_START!r} and {BLOCK_END!r}; put both lines back")
    return f"{before}{opening}\n{results_block(found)}{closing}{after}"


def results_block(found: dict[str, Any]) -> str:
    """The headline figure, and a table of mean scores on all held-out instances, as Markdown."""
    preset, models = found["preset"], found["tasks"]["all"]
    lines = [
        "",
        f"![Score on held-out instances by model, with intervals](results/figures-{preset}/headline.png)",
        "",
        "| model | score | 95% interval | format | tokens | n | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in models.items():
        form, tokens = ("–" if row[key] is None else f"{row[key]:.{digits}f}" for key, digits in _WRITTEN)
        interval = f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
        lines.append(f"| {name} | {row['score']:.3f} | {interval} | {form} | {tokens} | {row['n']} | {row['seeds']} |")
    return "\n".join([*lines, ""]) + "\n"
