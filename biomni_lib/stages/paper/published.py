"""What `results/` holds for a preset, read once and checked to be of one version: what the paper stands on.

The summary and the rows of the seeds must be there; ablations, answers under budgets, benchmarks and figures of
training may be missing, which the paper then says. A published part that was made with other settings than the rest is
left out and named.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from biomni_lib.analysis import score_table
from biomni_lib.analysis.bootstrap import INSTANCE
from biomni_lib.analysis.budgets import ASKED, FREE
from biomni_lib.analysis.tables import require
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.stages import results
from biomni_lib.stages.results import FROM_RUN

COMPARED = ("score", "format")
NAMED_MAX = 3
BENCH_ROW = re.compile(r"^\| `(?P<key>[\w.]+)` \| \*\*(?P<result>[^*]+)\*\* \|(?P<rest>.*)\|$")


@dataclass(frozen=True)
class Published:
    """The published results of a preset.

    Attributes:
        summary: `summary-PRESET.json`. summary_seed: the seed whose rows it summarises.
        rows: evaluated rows of all seeds. settings: what made them, by dotted name.
        ablations: the table and the curves, or None.
        budgets: answers under budgets, as `analysis.dose_response` reads them, or None.
        bench: as `read_bench` gives it, or None.
        figures: files by name of those that only a run can draw.
        missing: what is not there or was left out, a sentence each.
    """

    summary: dict[str, Any]
    summary_seed: int
    rows: pd.DataFrame
    settings: dict[str, Any]
    ablations: tuple[pd.DataFrame, pd.DataFrame] | None
    budgets: pd.DataFrame | None
    bench: dict[str, Any] | None
    figures: dict[str, Path]
    missing: list[str] = field(default_factory=list)


def read_published(config: RunConfig) -> Published:
    """Read and check everything that was published for a preset.

    Raises: DataError, one line with the file and the remedy, when the summary or the rows are missing, cannot be read,
        are of another preset or other settings, or are not of one version.
    """
    summary, (rows, settings) = _summary(config), _rows(config)
    missing: list[str] = []
    return Published(
        summary=summary,
        summary_seed=_seed_of(config, summary, rows),
        rows=rows,
        settings=settings,
        ablations=_ablations(config, missing),
        budgets=_budgets(config, rows, missing),
        bench=_bench(config, missing),
        figures=_figures(config, missing),
        missing=missing,
    )


def read_bench(file: Path) -> dict[str, Any]:
    """A published page of benchmarks, taken apart.

    Returns: `machine`, the page's line on it, and `rows`, a dict a measurement: key, result, measured, against, beside.
    Raises: DataError when it is not such a page.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [match for line in lines if (match := BENCH_ROW.match(line))]
    machine = next((line for line in lines if line.startswith("Made by")), "")
    if not found or not machine:
        raise DataError(f"{file}: not a page of benchmarks; write it again (make bench, then --publish)")
    rows = []
    for match in found:
        cells = [cell.strip() for cell in match["rest"].split(" |")]
        if len(cells) < 3:
            raise DataError(
                f"{file}: the row of {match['key']} has {len(cells) + 2} cells, not 5; write the page again"
            )
        rows.append({"key": match["key"], "result": match["result"]} | dict(zip(_CELLS, cells, strict=False)))
    return {"machine": machine.replace("`", ""), "rows": rows}


_CELLS = ("measured", "against", "beside")


def _summary(config: RunConfig) -> dict[str, Any]:
    file = results.summary_file(config)
    if not file.is_file():
        raise DataError(
            f"{file} is missing: no results were published for preset {config.preset}; "
            f"run `make reproduce PRESET={config.preset}`, then publish it"
        )
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        preset, models = found["preset"], found["tasks"]["all"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a readable summary ({error}); restore it from the repository") from None
    if preset != config.preset:
        raise DataError(f"{file}: is of preset {preset}, not {config.preset}; restore it from the repository")
    if lacking := {"sft", "rl"} - set(models):
        raise DataError(f"{file}: has no model {', '.join(sorted(lacking))}; finish the evaluation and publish again")
    return found


def _rows(config: RunConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    file = results.seeds_file(config)
    if not file.is_file():
        raise DataError(f"{file} is missing; run `make seeds PRESET={config.preset}`, or restore it")
    try:
        rows = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}); restore it from the repository") from None
    rows = require(rows, results.SEED_ROWS.names, str(file))
    if changed := results.differing(config, file):
        raise DataError(
            f"{file}: made with other settings than preset {config.preset} has now: {told(changed)}; "
            f"run `make seeds PRESET={config.preset}` again"
        )
    return rows, results.made_with(file)


def _seed_of(config: RunConfig, summary: dict[str, Any], rows: pd.DataFrame) -> int:
    """The seed whose rows give the summary's numbers. Raises: DataError when none does: two versions are mixed."""
    for seed, part in rows.groupby("seed"):
        table = score_table(part, draws=1)
        found = {(row.task, row.model): (row.score, row.format) for row in table.itertuples()}
        told_of = {(t, m): values for t, models in summary["tasks"].items() for m, values in models.items()}
        if set(found) == set(told_of) and all(_same(found[key], told_of[key]) for key in found):
            return int(str(seed))
    raise DataError(
        f"{results.summary_file(config)} and {results.seeds_file(config).name} are of two versions: the summary's "
        "scores follow from the rows of no seed; publish both from the same runs"
    )


def _same(found: tuple[float, float], told_of: dict[str, Any]) -> bool:
    wanted = [told_of[name] for name in COMPARED]
    return all(pd.isna(a) if b is None else abs(a - b) < 1e-4 for a, b in zip(found, wanted, strict=True))


def told(changed: dict[str, tuple[Any, Any]]) -> str:
    """Differences of settings, the first few by name."""
    first = [f"{name} {then} there, {now} now" for name, (then, now) in list(changed.items())[:NAMED_MAX]]
    rest = len(changed) - len(first)
    return "; ".join(first) + (f"; {rest} more" if rest else "")


def _ablations(config: RunConfig, missing: list[str]) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    files = results.ablation_files(config)
    there = [file for file in files if file.is_file()]
    if not there:
        missing.append("No ablations were published for this preset.")
        return None
    if len(there) < len(files):
        lost = next(file for file in files if file not in there)
        raise DataError(f"{lost} is missing beside {there[0].name}; run `make ablations`, or restore it")
    if changed := {name: pair for file in files for name, pair in results.differing(config, file).items()}:
        missing.append(f"The published ablations were made with other settings and are left out ({told(changed)}).")
        return None
    table, curves = (pd.read_parquet(file) for file in files)
    return require(table, ["changed", "score", "ci_low", "ci_high", "format", "n"], str(files[0])), curves


def _budgets(config: RunConfig, rows: pd.DataFrame, missing: list[str]) -> pd.DataFrame | None:
    """Raises: DataError when the answers without a budget are not those of the seeds' rows: two versions are mixed."""
    file = results.budgets_file(config)
    if not file.is_file():
        missing.append("No answers under budgets were published for this preset.")
        return None
    try:
        found = require(pd.read_parquet(file), ASKED, str(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}); restore it from the repository") from None
    if changed := results.differing(config, file):
        said = "The published answers under budgets were made with other settings and are left out"
        missing.append(f"{said} ({told(changed)}).")
        return None
    names = [*INSTANCE, "sample", "seed", "model", "correctness", "tokens", "ending"]
    free = found.loc[found["unit"] == FREE, names]
    if len(free.merge(rows[names], on=names)) != len(free):
        raise DataError(
            f"{file} and {results.seeds_file(config).name} are of two versions: the answers without a budget are other "
            "ones than the evaluation's; publish both from the same runs"
        )
    return found


def _bench(config: RunConfig, missing: list[str]) -> dict[str, Any] | None:
    file = results.results_dir() / f"bench-{config.preset}.md"
    if not file.is_file():
        missing.append("No benchmarks were published for this preset.")
        return None
    return read_bench(file)


def _figures(config: RunConfig, missing: list[str]) -> dict[str, Path]:
    folder = results.figures_dir(config)
    found = {name: folder / f"{name}.svg" for name in FROM_RUN if (folder / f"{name}.svg").is_file()}
    for name in FROM_RUN:
        if name not in found:
            missing.append(f"The figure {name} was not published for this preset.")
        elif not found[name].with_suffix(".txt").is_file():
            raise DataError(f"{found[name].with_suffix('.txt')} is missing beside its figure; publish the run again")
    return found
