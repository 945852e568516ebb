"""Stage 1: the lake, and the instances of every task and split as files that the later stages read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.lake import Lake, LakeManifest, build_lake, read_lake_manifest
from biomni_lib.lake.cards import data_cards
from biomni_lib.lake.datasets import build_public, public_manifests
from biomni_lib.lake.manifest import MANIFEST
from biomni_lib.lake.public import REMEDY
from biomni_lib.provenance import Manifest, atomic_path
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun, say
from biomni_lib.tasks import Instance, Task, data_lacking, get_task
from biomni_lib.tasks.leaks import benchmarks_at_hand, overlapping
from biomni_lib.tasks.one_call import one_call_rates
from biomni_lib.tasks.splits import SPLITS, Split

DOWNLOADS = "downloads"
"""Folder of downloaded files, beside the lake: shared by all presets."""
SCHEMA = pa.schema([(name, pa.string()) for name in ("task", "id", "prompt", "gold", "meta")])


def open_lake(config: RunConfig) -> Lake:
    """The lake of the run's folder, built when there is none. Raises: DataError when a file of it was altered."""
    if not (config.lake_dir / MANIFEST).is_file():
        build(config)
    return Lake.open(config.lake_dir)


def build(
    config: RunConfig, *, download: bool = False, report: Callable[[str], None] | None = None
) -> dict[str, LakeManifest]:
    """Build the lake anew, whatever is there, then what can be had of the public tier.

    Args:
        download: whether the network may be asked for files of the public tier.
        report: called with one line a step, and one a data set that was not built; the run's progress when None.
    Returns: the manifests of what there is now, by name: `lake` and the data sets of the public tier.
    """
    tell = report or (lambda line: say(config, line))
    lake_dir = config.lake_dir
    manifest = build_lake(lake_dir, lambda line: tell(f"lake: {line}"))
    absent = build_public(lake_dir, lake_dir.with_name(DOWNLOADS), download=download, progress=tell)
    for name, reason in absent.items():
        tell(f"{name} not built: {reason}")
    return {"lake": manifest} | public_manifests(lake_dir)


def card_table(config: RunConfig) -> pd.DataFrame:
    """A data card for each source of the lake: what, version, licence, citation, rows, known limits."""
    return pd.DataFrame(data_cards(config.lake_dir)).set_index("source")


def lake_table(config: RunConfig) -> pd.DataFrame:
    """What the lake holds: table, rows, source, version, licence."""
    tables = read_lake_manifest(config.lake_dir).tables
    rows = [{"table": name, **asdict(entry)} for name, entry in tables.items()]
    return pd.DataFrame(rows)[["table", "rows", "source", "version", "licence"]]


def open_tasks(config: RunConfig, lake: Lake) -> dict[str, Task]:
    """The run's tasks over the lake, by name; one whose data are not built is left out, which is said with the remedy.

    Raises: ConfigError for an unknown task; DataError when no task is left.
    """
    lacking = {name: why for name, why in data_lacking(config.lake_dir).items() if why and name in config.data.tasks}
    for name, why in lacking.items():
        say(config, f"task {name} left out: {why}")
    chosen = [name for name in config.data.tasks if name not in lacking]
    if not chosen:
        raise DataError(f"data.tasks = {', '.join(config.data.tasks)}: no task has its data; {REMEDY}")
    return {name: get_task(name, lake, config.data, config.seed) for name in chosen}


def shared_between_splits(splits: Mapping[str, Split]) -> pd.DataFrame:
    """Diseases and genes that two splits have in common; all zero when nothing leaks."""
    pairs = [(a, b) for number, a in enumerate(SPLITS) for b in SPLITS[number + 1 :]]
    rows = [
        {"splits": f"{a} and {b}"}
        | {kind: len(set(getattr(splits[a], kind)) & set(getattr(splits[b], kind))) for kind in ("diseases", "genes")}
        for a, b in pairs
    ]
    return pd.DataFrame(rows)


def baseline_scores(tasks: Mapping[str, Task], split: str) -> pd.DataFrame:
    """Mean grade of each task's heuristics on a split: columns task, then one a heuristic."""
    rows = []
    for name, task in tasks.items():
        instances = task.instances(split)
        scores = {
            heuristic: sum(task.grade(i, answer(i)) for i in instances) / len(instances)
            for heuristic, answer in task.baselines().items()
        }
        rows.append({"task": name, **scores})
    return pd.DataFrame(rows)


def one_call_scores(tasks: Mapping[str, Task], lake: Lake, split: str, most: int | None = None) -> pd.DataFrame:
    """How often the first result of a single tool call is the answer; see `tasks.one_call`.

    Args:
        most: instances tried of each task; all when None.
    Returns: task, tool, source of the arguments, part of the result, rate, offered, n; best tool of a task first.
    """
    rows = []
    for name, task in tasks.items():
        rows += [{"task": name, **asdict(rate)} for rate in one_call_rates(task, lake, task.instances(split)[:most])]
    return pd.DataFrame(rows)


def save_instances(config: RunConfig, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """Write the instances of every split.

    Where a benchmark is at hand, training and development instances that share something with it are left out, so that
    models may be judged on it.

    Returns: task, split, instances; of patients also diseases (different ones), mean terms shown, share with excluded
        findings.
    """
    rows = []
    for split in SPLITS:
        made = {name: task.instances(split) for name, task in tasks.items()}
        if split != "heldout" and (benchmarks := benchmarks_at_hand()):
            made = _apart(config, split, made, benchmarks)
        _write(config, split, [instance for instances in made.values() for instance in instances])
        rows += [{"task": name, "split": split, **_describe(instances)} for name, instances in made.items()]
    return pd.DataFrame(rows).sort_values(["task", "split"], ignore_index=True)


def load_instances(config: RunConfig, split: str) -> list[Instance]:
    """The saved instances of a split, task after task, equal to those drawn.

    Raises: DataError when the stage has not been run or the file cannot be read.
    """
    path = paths(config).instances(split)
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        remedy = f"run notebook 01_build_data (make notebooks PRESET={config.preset})"
        raise DataError(f"instances {path} cannot be read ({type(error).__name__}); {remedy}") from None
    return [Instance(row["prompt"], row["gold"], row["task"], row["id"], json.loads(row["meta"])) for row in rows]


def first_of_each(instances: Sequence[Instance], count: int) -> list[Instance]:
    """The first instances of each task, task after task."""
    tasks = dict.fromkeys(instance.task for instance in instances)
    return [i for task in tasks for i in [i for i in instances if i.task == task][:count]]


def finish(run: StageRun, table: pd.DataFrame) -> Manifest:
    """Record the stage: its outputs are the lake and the instances."""
    counts = table.groupby("split")["instances"].sum()
    results = {"instances": {str(split): int(count) for split, count in counts.items()}}
    return run.finish(inputs=[], outputs=[run.config.lake_dir, run.paths.data], results=results)


def _write(config: RunConfig, split: str, instances: list[Instance]) -> None:
    rows = [{**asdict(instance), "meta": json.dumps(instance.meta)} for instance in instances]
    with atomic_path(paths(config).instances(split)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")


def _apart(
    config: RunConfig, split: str, made: Mapping[str, list[Instance]], benchmarks: Mapping[str, Sequence[Instance]]
) -> dict[str, list[Instance]]:
    shared = overlapping([one for some in made.values() for one in some], benchmarks, open_lake(config))
    say(config, f"{len(shared)} instances of {split} left out: they share something with {', '.join(benchmarks)}")
    kept = {name: [one for one in some if one.id not in shared] for name, some in made.items()}
    if empty := [name for name, some in kept.items() if made[name] and not some]:
        raise DataError(f"{empty[0]}: every instance of {split} shares something with {', '.join(benchmarks)}")
    return kept


def _describe(instances: list[Instance]) -> dict[str, float]:
    patients = [instance.meta for instance in instances if "excluded" in instance.meta]
    counts: dict[str, float] = {"instances": len(instances)}
    if patients:
        counts["diseases"] = len({meta["disease"] for meta in patients})
        counts["terms"] = sum(len(meta["terms"]) for meta in patients) / len(patients)
        counts["with_excluded"] = sum(bool(meta["excluded"]) for meta in patients) / len(patients)
    return counts
