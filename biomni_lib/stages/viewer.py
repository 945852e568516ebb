"""Every trajectory that a run recorded, as one page to look at, and two of one question for a notebook.

Whole trajectories are those of the evaluation, of the answers under budgets (`length`), of any model that was asked
(`models`), of the scripted teacher, and of the steps of RL whose ledgers were kept.
A run that is unfinished is shown as far as it is, which the page says; a folder that another preset made is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib import evaluate
from biomni_lib.agent.ledger import load_trajectories
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, RunError
from biomni_lib.provenance import Manifest, atomic_write, config_hash, read_manifest
from biomni_lib.stages.build_data import load_instances
from biomni_lib.stages.paths import paths
from biomni_lib.tasks import Instance
from biomni_lib.tasks.base import EVALUATION_ONLY
from biomni_lib.tasks.splits import SPLITS
from biomni_lib.viewer import Conversations, Entry, render_page, select, show
from biomni_lib.viewer.records import NAN

STAGES = ("sft", "rl", "evaluate")
TRAJECTORIES = ".trajectories.parquet"
Report = Callable[[str], None]


def run(
    config: RunConfig,
    *,
    sources: Iterable[str] = (),
    tasks: Iterable[str] = (),
    models: Iterable[str] = (),
    report: Report = print,
) -> Path:
    """Write the page of a run.

    Args:
        sources, tasks, models: what to show, as in `viewer.select`; everything when none is named.
        report: told what is read, and in a sentence each what is missing or does not fit.
    Returns: the file, `viewer.html` in the run's folder.
    Raises: DataError when nothing was recorded or chosen; RunError when another preset or seed made the folder.
    """
    notes = faults(config)
    entries = select(recorded(config, report, notes), sources=sources, tasks=tasks, models=models)
    questions = _questions(config, notes)
    notes += _about_questions(entries, questions)
    for note in notes:
        report(f"note: {note}")
    prompt = system_prompts(config.prompt.tools, config.prompt.biomni_tools)
    made = render_page(
        entries,
        questions,
        title=f"Trajectories of {config.preset}" + (f", seed {config.seed}" if config.seed else ""),
        systems={task: prompt(task) for task in sorted({entry.trajectory.task for entry in entries})},
        about={"facts": _facts(config), "notes": notes},
    )
    target = paths(config).viewer
    atomic_write(target, made)
    report(f"{target}: {len(entries):,} trajectories, {len(made) / 1e6:.1f} MB")
    return target


def before_and_after(config: RunConfig, *, instance: str | None = None) -> Conversations:
    """SFT and RL on the same held-out question, beside each other, for a notebook.

    Args:
        instance: id of the question; when None, the first that RL answers better, or else the first of all.
    Raises: DataError when one of the two was not evaluated, or neither was asked that question; RunError when another
        preset or seed made the folder.
    """
    faults(config)
    before, after = (load_trajectories(_evaluated(config, model)) for model in ("sft", "rl"))
    there = {(t.task, t.instance_id, t.sample): t for t in before}
    pairs = [(there[key], t) for t in after if (key := (t.task, t.instance_id, t.sample)) in there]
    if instance is not None:
        pairs = [pair for pair in pairs if pair[1].instance_id == instance]
    if not pairs:
        asked = "any question" if instance is None else f"question {instance!r}"
        raise DataError(f"{paths(config).evaluate}: sft and rl were not both asked {asked}; evaluate them together")
    gained = [pair for pair in pairs if pair[1].correctness > pair[0].correctness]
    return show((gained or pairs)[0], load_instances(config, "heldout"))


def faults(config: RunConfig, stages: Sequence[str] = STAGES) -> list[str]:
    """What a reader should know of some of the run's stages: unfinished, of other settings, of different code.

    Raises: RunError when a stage of the folder was run by another preset or with another seed.
    """
    notes, folder = [], paths(config).run_dir
    made = {stage: read_manifest(config, stage) for stage in stages}
    for stage, manifest in made.items():
        if manifest is None:
            notes.append(_unfinished(stage))
            continue
        if (manifest.preset, manifest.seed) != (config.preset, config.seed):
            raise RunError(
                f"{folder}: stage {stage} was run by preset {manifest.preset} with seed {manifest.seed}, not by"
                f" {config.preset} with {config.seed}; name that preset and seed, or another --runs-root"
            )
        if manifest.config_hash != config_hash(config, stage):
            notes.append(f"Stage {stage} was run with other settings than preset {config.preset} has now.")
    codes = {stage: manifest.code_hash[:12] for stage, manifest in made.items() if manifest}
    if len(set(codes.values())) > 1:
        told = ", ".join(f"{stage} {code}" for stage, code in codes.items())
        notes.append(f"The stages were run by different versions of the code: {told}.")
    return notes


def recorded(config: RunConfig, report: Report, notes: list[str]) -> list[Entry]:
    """Every whole trajectory of a run; to `notes` are added the parts that are not there.

    Raises: DataError when there is none, or a file cannot be read.
    """
    here = paths(config)
    steps = sorted((here.rl / "ledgers").glob("step-*.parquet"))
    answered = [path for folder in (here.length, here.models) for path in sorted(folder.glob(f"*/*{TRAJECTORIES}"))]
    answered = [*sorted(here.evaluate.glob(f"*{TRAJECTORIES}")), *answered]
    parts = [(str(path.relative_to(here.run_dir)).removesuffix(TRAJECTORIES), path) for path in answered]
    parts += [(f"sft/{path.stem}", path) for path in (here.teacher, here.teacher_best) if path.is_file()]
    parts += [(f"rl/{path.stem}", path) for path in steps]
    lacking = set(STAGES) - {source.partition("/")[0] for source, _ in parts}
    if not parts:
        remedy = f"run `make reproduce PRESET={config.preset}`"
        raise DataError(f"{here.run_dir}: no trajectory was recorded by sft, rl or evaluate; {remedy}")
    for stage in filter(lacking.__contains__, STAGES):
        nothing = f"Nothing was recorded by stage {stage}."
        notes[:] = [note for note in notes if note != _unfinished(stage)] + [nothing]
    entries = []
    for source, path in parts:
        report(f"viewer: reading {source}")
        entries += _entries(config, source, path, notes)
    return entries


def _unfinished(stage: str) -> str:
    return f"Stage {stage} has not finished: what it has recorded so far is shown."


def _entries(config: RunConfig, source: str, path: Path, notes: list[str]) -> list[Entry]:
    trajectories = load_trajectories(path)
    keys = [(t.task, t.instance_id, t.sample) for t in trajectories]
    scores: dict[Any, float] = {}
    accepted: set[Any] | None = None
    if path.name.endswith(TRAJECTORIES):
        scores = _scores(path, keys, notes)
    elif path == paths(config).teacher and paths(config).accepted.is_file():
        accepted = set(_columns(paths(config).accepted, "task", "instance_id", "sample"))
    return [
        Entry(t, source, scores.get(key, NAN), None if accepted is None else key in accepted)
        for t, key in zip(trajectories, keys, strict=True)
    ]


def _scores(trajectories: Path, keys: Sequence[Any], notes: list[str]) -> dict[Any, float]:
    """Score by (task, instance, sample) of the model's rows; empty, with a note, when they are not of these."""
    model = trajectories.name.removesuffix(TRAJECTORIES)
    path = evaluate.rows_file(trajectories.parent, model)
    rows = _columns(path, "task", "instance_id", "sample", "score") if path.is_file() else []
    scores = {key: score for *key_parts, score in rows if (key := tuple(key_parts))}
    if scores.keys() == set(keys):
        return scores
    why = "has no row of scores" if not rows else "and its rows of scores are of different evaluations"
    notes.append(f"Model {model} {why}: its scores are left empty; evaluate it again.")
    return {}


def _columns(path: Path, *names: str) -> list[tuple[Any, ...]]:
    try:
        table = pq.read_table(path, columns=list(names))
        return list(zip(*(table[name].to_pylist() for name in names), strict=True))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}); rerun the stage that writes it") from None


def _questions(config: RunConfig, notes: list[str]) -> dict[tuple[str, str], Instance]:
    """The run's instances by (task, id); a split that is not there is noted."""
    found: dict[tuple[str, str], Instance] = {}
    for split in SPLITS:
        if paths(config).instances(split).is_file():
            found |= {(instance.task, instance.id): instance for instance in load_instances(config, split)}
        else:
            notes.append(f"The instances of split {split} are not in the run's folder.")
    return found


def _about_questions(entries: Sequence[Entry], questions: dict[tuple[str, str], Instance]) -> list[str]:
    asked = {(entry.trajectory.task, entry.trajectory.instance_id) for entry in entries}
    notes = []
    if unknown := sorted(asked - questions.keys()):
        notes.append(f"{len(unknown)} questions are not among the run's instances, such as {unknown[0][1]}.")
    if benchmark := sum(id.startswith(EVALUATION_ONLY) for _, id in asked):
        notes.append(f"{benchmark} questions are of a benchmark, for evaluation only: do not publish this page.")
    return notes


def _facts(config: RunConfig) -> dict[str, str]:
    facts = {"preset": config.preset, "seed": str(config.seed)}
    for stage in STAGES:
        manifest = read_manifest(config, stage)
        facts[f"stage {stage}"] = _told(manifest) if manifest else "not finished"
    return facts


def _told(manifest: Manifest) -> str:
    commit = str(manifest.git.get("commit", "unknown"))[:12] + (", changed" if manifest.git.get("dirty") else "")
    return f"finished {manifest.finished[:16].replace('T', ' ')} UTC, commit {commit}, code {manifest.code_hash[:12]}"


def _evaluated(config: RunConfig, model: str) -> Path:
    path = evaluate.trajectories_file(paths(config).evaluate, model)
    if not path.is_file():
        raise DataError(f"{path}: model {model} was not evaluated; run notebook 04_evaluate")
    return path
