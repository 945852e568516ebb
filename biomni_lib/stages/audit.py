"""The audit of a run: what its training data share with what models are judged on, and how far one tool call goes.

Compared are the instances that the run has saved, which are those that its models learn from, and of every other task,
published patients included, the ones that its settings draw. Published and simulated patients of a task are compared
together. What has no data built is skipped by name; a benchmark that is not at hand is NOT AUDITED, and no score on it
is reported (`tasks.leaks.require_audited`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.lake import Lake
from biomni_lib.provenance import atomic_path, atomic_write
from biomni_lib.stages.build_data import load_instances, one_call_scores, open_lake
from biomni_lib.stages.paths import paths
from biomni_lib.tasks import Instance, Task, data_lacking, get_task, task_names
from biomni_lib.tasks.leaks import BENCHMARKS, AuditRecord, Finding, audit_file, benchmarks_at_hand, compare
from biomni_lib.tasks.leaks.at_hand import REMEDY
from biomni_lib.tasks.leaks.compare import APART, COUNTED, LEAK, NOT_AUDITED
from biomni_lib.tasks.leaks.record import digest, require_audited, require_same, saved_sha256, told
from biomni_lib.tasks.one_call import EASY_ABOVE, is_too_easy
from biomni_lib.tasks.real_patients import patients_lacking, real_patient_tasks
from biomni_lib.tasks.splits import SPLITS

PUBLISHED = "published patients"
"""Their name where their data are not built."""
ONE_CALL_INSTANCES = 100
"""Most held-out instances of each task on which single calls are tried; more would take minutes."""


def run(config: RunConfig) -> AuditRecord:
    """Audit, print, and write `audit.json` and `findings.parquet` into the run's folder.

    Raises: DataError that names the first leak, after everything was printed and written.
    """
    lake = open_lake(config)
    tasks, skipped = open_every_task(config, lake)
    for name, why in skipped.items():
        print(f"{name} skipped: {why}")
    benchmarks = benchmarks_at_hand()
    asked = own_instances(config, tasks)
    findings = compare({**asked, **{name: by_task(some) for name, some in benchmarks.items()}}, lake)
    print(*lines(findings), sep="\n")
    for name in BENCHMARKS:
        if name not in benchmarks:
            print(f"{name}: {NOT_AUDITED}; {REMEDY[name]}")
    easiest = best_calls(tasks, lake, min(ONE_CALL_INSTANCES, config.evaluate.instances))
    print(*(_one_call_line(row) for row in easiest), sep="\n")
    record = AuditRecord(
        preset=config.preset,
        seed=config.seed,
        instances=saved_sha256(config, SPLITS),
        benchmarks={name: digest(benchmarks[name]) if name in benchmarks else NOT_AUDITED for name in BENCHMARKS},
        skipped=skipped,
        findings=[asdict(finding) for finding in findings],
        one_call=easiest,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    atomic_write(audit_file(config), record.model_dump_json(indent=1) + "\n")
    with atomic_path(audit_file(config).with_name("findings.parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist(record.findings), temporary, compression="zstd")
    if leaks := record.leaks():
        raise DataError(f"{len(leaks)} leaks in {audit_file(config)}; {told(leaks[0])}")
    return record


def open_every_task(config: RunConfig, lake: Lake) -> tuple[dict[str, Task], dict[str, str]]:
    """The tasks whose data are built, whether the run trains on them or not, those about published patients by arm; and
    what each of the others lacks."""
    lacking = data_lacking(config.lake_dir) | {PUBLISHED: patients_lacking(config.lake_dir)}
    here = {name: get_task(name, lake, config.data, config.seed) for name in task_names() if not lacking.get(name)}
    published = {} if lacking[PUBLISHED] else real_patient_tasks(lake, config.data, config.seed)
    return here | published, {name: why for name, why in lacking.items() if why}


def own_instances(config: RunConfig, tasks: Mapping[str, Task]) -> dict[str, dict[str, list[Instance]]]:
    """Instances by split and task: the run's saved ones where it has them, else those that its settings draw."""
    asked = {}
    for split in SPLITS:
        saved = load_instances(config, split) if paths(config).instances(split).is_file() else []
        missing = set(tasks) - {one.task for one in saved}
        drawn = [one for name in tasks if name in missing for one in tasks[name].instances(split)]
        asked[split] = by_task([*saved, *drawn])
    return asked


def open_benchmark(config: RunConfig, name: str) -> list[Instance]:
    """A benchmark's questions for the evaluation of this run's models: the only way to them from a stage.

    Args:
        name: `eval1` or `lab-bench`.
    Raises: DataError when it is not at hand; RunError when the run's training data were not shown to be apart from it.
    """
    found = benchmarks_at_hand()
    if name not in found:
        raise DataError(f"{name} is not at hand; {REMEDY.get(name, 'the benchmarks are ' + ', '.join(REMEDY))}")
    require_audited(config, found[name])
    require_same(config, name, found[name])
    return found[name]


def by_task(instances: Sequence[Instance]) -> dict[str, list[Instance]]:
    """Instances of each task."""
    names = dict.fromkeys(instance.task for instance in instances)
    return {name: [one for one in instances if one.task == name] for name in names}


def lines(findings: Sequence[Finding]) -> list[str]:
    """One line a task and pair of splits: the verdict, then what is shared of each sort."""
    pairs: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        pairs.setdefault((finding.task, finding.one, finding.other), []).append(finding)
    return [_line(*pair, some) for pair, some in pairs.items()]


def best_calls(tasks: Mapping[str, Task], lake: Lake, most: int) -> list[dict[str, Any]]:
    """The best single call of each task on its first `most` held-out instances, as rows of `one_call_scores`, with
    `easy`: whether it answers too many."""
    table = one_call_scores(tasks, lake, "heldout", most)
    best = table.groupby("task", sort=False).head(1)
    return [row | {"easy": is_too_easy(row["task"], row["rate"])} for row in best.to_dict("records")]


def _line(task: str, one: str, other: str, findings: Sequence[Finding]) -> str:
    statuses = [finding.status for finding in findings]
    verdict = next((status for status in (LEAK, NOT_AUDITED, APART) if status in statuses), COUNTED)
    counts = ", ".join(f"{f.sort} {f.shared} ({f.of_one}|{f.of_other})" for f in findings if f.shared is not None)
    return f"{verdict:11} {task:33} {one}-{other}: {counts or 'not at hand'}"


def _one_call_line(row: Mapping[str, Any]) -> str:
    told = f"{row['task']:33} one call of {row['tool']}: {row['rate']:.2f} of {row['n']}"
    return f"too easy    {told}, above {EASY_ABOVE}; make it harder" if row["easy"] else f"one call    {told}"
