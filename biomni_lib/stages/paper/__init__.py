"""The paper: a Typst source in `paper/` without a number of its own, set with the numbers and figures of `results/`.

It needs no run, only what was published; its folder also has the figures and the tables for LaTeX.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from biomni_lib import figures
from biomni_lib.analysis import (
    binned_curve,
    difference_by_seed,
    dose_response,
    failure_endings,
    length_odds,
    score_table,
)
from biomni_lib.config import RunConfig, project_root
from biomni_lib.errors import DataError
from biomni_lib.figures.saving import BOOTSTRAP_INTERVAL
from biomni_lib.provenance import atomic_write
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.length_drawings import dose_drawing, odds_drawing
from biomni_lib.stages.paper.numbers import READ_FOR_LENGTH, numbers
from biomni_lib.stages.paper.published import Published, read_published
from biomni_lib.stages.paper.tables import latex_tables
from biomni_lib.stages.paper.typesetting import available, compile_pages, compile_pdf
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import results_dir

Draw = Callable[[pd.DataFrame], Figure]
MAIN = "paper.typ"
SOURCES = (MAIN, "template.typ", "references.bib")
SEVERAL_SEEDS = "95% bootstrap intervals over seeds and instances"
BIN_MIN = 20
"""Answers below which a bin of lengths is not drawn: its mean would say nothing."""
PUBLISHED_BYTES_MAX = 1_000_000
"""A PDF beyond this stays out of the repository."""

__all__ = ["available", "compile_pages", "compile_pdf", "prepare", "publish", "run", "sources_dir"]


def sources_dir() -> Path:
    """The folder of the paper's source."""
    return project_root() / "paper"


def run(config: RunConfig) -> Path:
    """Make the paper of a preset and say what it lacks. Returns: the PDF, in the run's folder `paper`.

    Raises: DataError or RunError, one line, as `prepare` and `typesetting.compile_pdf`.
    """
    began = time.perf_counter()
    source, found = prepare(config)
    target = source.with_suffix(".pdf")
    atomic_write(target, compile_pdf(source))
    for sentence in found["missing"]:
        print(f"not in the paper: {sentence}")
    print(f"{target} ({target.stat().st_size:,} bytes, {time.perf_counter() - began:.1f} s)")
    print(f"for LaTeX: {source.parent / 'figures'}/*.pdf, {source.parent / 'tables'}/*.tex")
    return target


def prepare(config: RunConfig) -> tuple[Path, dict[str, Any]]:
    """Lay everything that the paper is set from into the run's folder `paper`: source, numbers, figures, LaTeX tables.

    Returns: the main source there, and the numbers.
    Raises: DataError when results are missing, of another preset or of mixed versions, or the source is not at hand.
    """
    published = read_published(config)
    scores = score_table(published.rows, draws=config.evaluate.bootstrap)
    found = numbers(config, published, scores)
    folder = paths(config).run_dir / "paper"
    shutil.rmtree(folder / "figures", ignore_errors=True)
    shutil.rmtree(folder / "tables", ignore_errors=True)
    drawn = save_drawings(_drawings(config, published, scores), folder / "figures")
    captions = {name: drawing.caption for name, drawing in drawn.items()}
    if "length-vs-score" not in captions:
        found["missing"].append(f"No bin of response lengths has {BIN_MIN} answers, so none is drawn.")
    found["figures"] = captions | _copied(published, folder / "figures")
    atomic_write(folder / "numbers.json", json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n")
    for name, table in latex_tables(found).items():
        atomic_write(folder / "tables" / name, table)
    for name in SOURCES:
        file = sources_dir() / name
        if not file.is_file():
            raise DataError(f"{file} is missing: the paper is made in a checkout of the project; restore the file")
        atomic_write(folder / name, file.read_bytes())
    return folder / MAIN, found


def publish(config: RunConfig) -> Path | None:
    """Make the paper and put the PDF into `results/`. Returns: the file; None where it was not made, which is said."""
    if not available():
        print("no paper: the package typst is not installed (make setup)")
        return None
    try:
        pdf = run(config).read_bytes()
    except DataError as error:
        print(f"no paper: {error}")
        return None
    if len(pdf) > PUBLISHED_BYTES_MAX:
        print(f"the paper is not published: {len(pdf):,} bytes, at most {PUBLISHED_BYTES_MAX:,}")
        return None
    target = results_dir() / f"paper-{config.preset}.pdf"
    atomic_write(target, pdf)
    return target


def _drawings(config: RunConfig, published: Published, scores: pd.DataFrame) -> Iterator[Drawing]:
    """The figures that follow from the published tables, all seeds together."""
    rows, draws = published.rows, config.evaluate.bootstrap
    resampled = SEVERAL_SEEDS if rows["seed"].nunique() > 1 else BOOTSTRAP_INTERVAL

    def drawing(name: str, draw: Draw, table: pd.DataFrame, said: str, note: str = "") -> Drawing:
        return Drawing.make(name, draw, table, said, interval=resampled, note=note)

    together = scores[scores["task"] == "all"]
    yield drawing("headline", figures.headline, together, "Mean score on held-out instances, all tasks")
    yield drawing("score-by-task", figures.score_by_task, scores, "Mean score on held-out instances by task")
    gains = difference_by_seed(rows, draws=draws)
    yield drawing("seeds", figures.seed_differences, gains, "Gain of RL over SFT, seed by seed and pooled")
    curve = binned_curve(rows[rows["model"].isin(READ_FOR_LENGTH)], draws=draws)
    curve = curve[curve["samples"] >= BIN_MIN]
    note = f"Bins of equal counts, those of fewer than {BIN_MIN} answers left out; truncated answers included"
    if not curve.empty:
        yield drawing("length-vs-score", figures.length_vs_score, curve, "Correctness by response length", note)
    failed = failure_endings(rows, draws=draws)
    if len(failed):
        yield drawing("endings", figures.failure_endings, failed, "How answers on held-out instances failed")
    odds = length_odds(rows[rows["model"].isin(READ_FOR_LENGTH)])
    if odds["odds_ratio"].notna().any():
        yield odds_drawing(odds)
    if published.budgets is not None:
        yield dose_drawing(dose_response(published.budgets, draws=draws))
    if published.ablations is not None:
        said = "Mean score after a short RL run in which one thing was changed"
        yield Drawing.make("ablations", figures.ablation_scores, published.ablations[0], said)


def _copied(published: Published, folder: Path) -> dict[str, str]:
    """Take over figures that only a run can draw, each with all its files. Returns: captions by name."""
    captions = {}
    for name, file in published.figures.items():
        for kind in (".pdf", ".svg", ".png", ".csv", ".txt"):
            part = file.with_suffix(kind)
            if not part.is_file():
                raise DataError(f"{part} is missing beside its figure; publish the run again")
            atomic_write(folder / part.name, part.read_bytes())
        captions[name] = file.with_suffix(".txt").read_text(encoding="utf-8").strip()
    return captions
