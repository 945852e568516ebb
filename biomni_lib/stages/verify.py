"""Is a run what it says, and what was published? A report, and one verdict; each miss is named with its remedy.

Every stage's files must be those of its manifest, and the numbers in the manifest must follow again from the rows.
Against the published summary: heuristics and the scripted teacher are promised to be equal; a model's score must lie
in the published 95% interval, and its format within `FORMAT_BAND`. Times and lengths are not promised. The pages made
from results (paper, cards, gallery, the README's block) must be the same bytes when made again (`pages`).

Shown beside, and not part of the verdict: the targets (a missed target that was published as missed is a faithful
repetition), and where the code, the lock or the machine's checkout differ from those of the run.
"""

import json
from collections.abc import Iterator
from typing import Any

from biomni_lib.analysis import check_targets
from biomni_lib.config import RunConfig
from biomni_lib.errors import BiomniError, DataError
from biomni_lib.provenance import STAGE_SETTINGS, code_hash, lock_hash, manifest_path, read_manifest, stage_state
from biomni_lib.stages.evaluate import STAGE, evaluated_rows
from biomni_lib.stages.pages import Check, check_pages
from biomni_lib.stages.results import TRAINED, summary_file
from biomni_lib.stages.runner import resume_command
from biomni_lib.stages.summary import summary
from biomni_lib.stages.viewer import faults

EXACT = ("score", "format", "n", "mean_turns")
FORMAT_BAND = 0.05
PUBLISH = "if settings or code were changed on purpose, publish again (python -m biomni_lib.stages publish)"
SAME = f"these repeat exactly with the locked packages (make setup, then run again); {PUBLISH}"
WITHIN = f"one seed may miss by chance (1 in 20): look at more (make seeds); {PUBLISH}"
CODE_LETTERS = 12


def run(config: RunConfig) -> bool:
    """Print the report. Returns: True when every check is met."""
    checks = list(check_run(config))
    for check in checks:
        print(f"{'ok  ' if check.met else 'MISS'}  {check.what}: {check.found} (wanted {check.wanted})")
        if not check.met and check.remedy:
            print(f"      remedy: {check.remedy}")
    for line in (*_notes(config), *_targets(config)):
        print(line)
    missed = sum(not check.met for check in checks)
    print(f"{config.run_dir.name}: {len(checks) - missed} of {len(checks)} checks met, {missed} missed")
    return not missed


def check_run(config: RunConfig) -> Iterator[Check]:
    """Manifests, recomputed numbers, the published summary and the pages made from it, as far as the run has come."""
    again = resume_command(config)
    try:
        faults(config, list(STAGE_SETTINGS))
    except BiomniError as error:
        yield Check("folder", str(error), f"of preset {config.preset}, seed {config.seed}", False)
        return
    for stage in STAGE_SETTINGS:
        state = stage_state(config, stage)
        yield Check(f"stage {stage}", state, "done", state == "done", again)
    try:
        found = summary(config)
    except BiomniError as error:
        yield Check("results", str(error), "a finished evaluation", False, again)
        found = None
    if found is not None:
        yield _recomputed(config, found)
    if summary_file(config).is_file():
        theirs = published(config)
        if found is not None:
            yield from compare(found["tasks"], theirs["tasks"])
        yield from check_pages(config, theirs, of_this_run=found == theirs)


def compare(found: dict[str, Any], published: dict[str, Any]) -> Iterator[Check]:
    """Every task and model of the published summary against the same of a run.

    Args:
        found, published: the part `tasks` of a summary.
    """
    for task, models in published.items():
        for model, wanted in models.items():
            own = found.get(task, {}).get(model)
            if own is None:
                yield Check(f"{task}, {model}", "not evaluated", "evaluated", False, PUBLISH)
            elif model in TRAINED:
                yield from _in_band(f"{task}, {model}", own, wanted)
            else:
                yield _equal(f"{task}, {model}", own, wanted)


def published(config: RunConfig) -> dict[str, Any]:
    """The published summary. Raises: DataError when the file cannot be read as one, or is of another preset."""
    path = summary_file(config)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        preset, _ = found["preset"], found["tasks"]["all"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable summary ({error!r}); restore it from the repository") from None
    if preset != config.preset:
        raise DataError(f"{path}: is of preset {preset}, not {config.preset}; restore it from the repository")
    return found


def _recomputed(config: RunConfig, found: dict[str, Any]) -> Check:
    manifest = read_manifest(config, STAGE)
    same = manifest is not None and manifest.results.get("tasks") == found["tasks"]
    remedy = f"delete {manifest_path(config, STAGE)} and run {resume_command(config)}"
    told = "the same" if same else "others"
    return Check("results computed from the rows", told, "those of the manifest", same, remedy)


def _equal(what: str, own: dict[str, Any], wanted: dict[str, Any]) -> Check:
    ours, theirs = ({name: values.get(name) for name in EXACT} for values in (own, wanted))
    return Check(what, _words(ours), f"exactly {_words(theirs)}", ours == theirs, SAME)


def _in_band(what: str, own: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Check]:
    low, high = wanted["ci_low"], wanted["ci_high"]
    met = low <= own["score"] <= high and own["n"] == wanted["n"]
    yield Check(what, f"score {own['score']}, n {own['n']}", f"{low} to {high}, n {wanted['n']}", met, WITHIN)
    if wanted["format"] is not None:
        met = own["format"] is not None and abs(own["format"] - wanted["format"]) <= FORMAT_BAND
        yield Check(what, f"format {own['format']}", f"{wanted['format']} within {FORMAT_BAND}", met, WITHIN)


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _notes(config: RunConfig) -> Iterator[str]:
    """Where code, lock and checkout are not those of the run: recorded by the manifests, not part of the verdict."""
    for stage in STAGE_SETTINGS:
        try:
            manifest = read_manifest(config, stage)
        except BiomniError:
            continue
        if manifest is None:
            continue
        told = []
        if manifest.code_hash != code_hash():
            told.append(f"by code {manifest.code_hash[:CODE_LETTERS]}, which is now {code_hash()[:CODE_LETTERS]}")
        if manifest.lock_hash != lock_hash():
            told.append("with another lock than that of this environment")
        if manifest.git.get("dirty"):
            told.append(f"from a checkout changed since commit {manifest.git['commit'][:CODE_LETTERS]}")
        if told:
            yield f"note: stage {stage} was made {', '.join(told)}"


def _targets(config: RunConfig) -> Iterator[str]:
    if not summary_file(config).is_file():
        yield f"no published summary for preset {config.preset}: the run was compared with itself alone"
    try:
        table = check_targets(evaluated_rows(config), draws=config.evaluate.bootstrap, seed=config.seed)
    except BiomniError:
        return
    yield "targets (shown, not part of the verdict):"
    yield table.round(4).to_string(index=False)
