"""Is a run what it says, and what was published? A report, and one verdict.

Every stage's files must be those of its manifest, and the numbers in the manifest must follow again from the rows.
Against the published summary: heuristics and the scripted teacher are promised to be equal; a model's score must lie
in the published 95% interval, and its format within `FORMAT_BAND`. Times and lengths are not promised. The targets are
shown beside, and do not decide: a missed target that was published as missed is a faithful repetition.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from biomni_lib.analysis import check_targets
from biomni_lib.config import RunConfig
from biomni_lib.errors import BiomniError, DataError
from biomni_lib.provenance import STAGE_SETTINGS, read_manifest, stage_state
from biomni_lib.stages.evaluate import STAGE, evaluated_rows
from biomni_lib.stages.results import summary_file
from biomni_lib.stages.summary import summary

TRAINED = frozenset({"base", "sft", "sft_best", "rl"})
"""Models whose weights come out of training; all others repeat exactly."""
EXACT = ("score", "format", "n", "mean_turns")
FORMAT_BAND = 0.05


class Check(NamedTuple):
    """One comparison: what was looked at, what was found, what it had to be, whether it was."""

    what: str
    found: str
    wanted: str
    met: bool


def run(config: RunConfig) -> bool:
    """Print the report. Returns: True when every check is met."""
    checks = list(check_run(config))
    for check in checks:
        print(f"{'ok  ' if check.met else 'MISS'}  {check.what}: {check.found} (wanted {check.wanted})")
    for line in _targets(config):
        print(line)
    missed = sum(not check.met for check in checks)
    print(f"{config.run_dir.name}: {len(checks) - missed} of {len(checks)} checks met, {missed} missed")
    return not missed


def check_run(config: RunConfig) -> Iterator[Check]:
    """Manifests, recomputed numbers, and the published summary, as far as the run has come."""
    for stage in STAGE_SETTINGS:
        state = stage_state(config, stage)
        yield Check(f"stage {stage}", state, "done", state == "done")
    try:
        found = summary(config)
    except BiomniError as error:
        yield Check("results", str(error), "a finished evaluation", False)
        return
    yield _recomputed(config, found)
    if summary_file(config).is_file():
        yield from compare(found["tasks"], published_tasks(config))


def compare(found: dict[str, Any], published: dict[str, Any]) -> Iterator[Check]:
    """Every task and model of the published summary against the same of a run.

    Args:
        found, published: the part `tasks` of a summary.
    """
    for task, models in published.items():
        for model, wanted in models.items():
            own = found.get(task, {}).get(model)
            if own is None:
                yield Check(f"{task}, {model}", "not evaluated", "evaluated", False)
            elif model in TRAINED:
                yield from _in_band(f"{task}, {model}", own, wanted)
            else:
                yield _equal(f"{task}, {model}", own, wanted)


def published_tasks(config: RunConfig) -> dict[str, Any]:
    """The part `tasks` of the published summary. Raises: DataError when the file cannot be read as one."""
    path = summary_file(config)
    try:
        tasks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable summary ({error}); restore it from the repository") from None
    return tasks


def _recomputed(config: RunConfig, found: dict[str, Any]) -> Check:
    manifest = read_manifest(config, STAGE)
    same = manifest is not None and manifest.results.get("tasks") == found["tasks"]
    return Check("results computed from the rows", "the same" if same else "others", "those of the manifest", same)


def _equal(what: str, own: dict[str, Any], wanted: dict[str, Any]) -> Check:
    ours, theirs = ({name: values.get(name) for name in EXACT} for values in (own, wanted))
    return Check(what, _words(ours), f"exactly {_words(theirs)}", ours == theirs)


def _in_band(what: str, own: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Check]:
    low, high = wanted["ci_low"], wanted["ci_high"]
    met = low <= own["score"] <= high and own["n"] == wanted["n"]
    yield Check(what, f"score {own['score']}, n {own['n']}", f"{low} to {high}, n {wanted['n']}", met)
    if wanted["format"] is not None:
        met = own["format"] is not None and abs(own["format"] - wanted["format"]) <= FORMAT_BAND
        yield Check(what, f"format {own['format']}", f"{wanted['format']} within {FORMAT_BAND}", met)


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _targets(config: RunConfig) -> Iterator[str]:
    if not summary_file(config).is_file():
        yield f"no published summary for preset {config.preset}: the run was compared with itself alone"
    try:
        table = check_targets(evaluated_rows(config), draws=config.evaluate.bootstrap, seed=config.seed)
    except BiomniError:
        return
    yield "targets (shown, not part of the verdict):"
    yield table.round(4).to_string(index=False)
