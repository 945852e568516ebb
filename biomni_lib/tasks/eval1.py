"""Biomni-Eval1, the benchmark itself: its 433 questions as instances, for evaluation only.

`grade` scores them by the benchmark's rules. Their ids begin with `eval1/`, and whatever is so marked is refused by
every way into training; no task of `task_names()` makes them. The columns, tasks and counts are those of the published
data set; the file itself has never been opened by this project, whose tests write made-up rows in its layout.
Not covered: the `hle` questions that the benchmark's scorer knows but its data lack.
"""

import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomni_lib.errors import DataError
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.benchmark_file import HubFile, check_unique, read_rows, text_of
from biomni_lib.tasks.grading import gold_answer, grade

FILE = HubFile("biomni/Eval1", "biomni_eval1_dataset.parquet")
COLUMNS = ("instance_id", "task_instance_id", "task_name", "split", "prompt", "answer")
COUNTS = {
    "gwas_causal_gene_gwas_catalog": 50,
    "gwas_causal_gene_opentargets": 50,
    "gwas_causal_gene_pharmaprojects": 50,
    "gwas_variant_prioritization": 43,
    "lab_bench_dbqa": 50,
    "lab_bench_seqqa": 50,
    "patient_gene_detection": 50,
    "screen_gene_retrieval": 50,
    "rare_disease_diagnosis": 30,
    "crispr_delivery": 10,
}
"""Questions a task, 433 in all."""


def load_eval1(path: Path | None = None, *, revision: str | None = None, subset: bool = False) -> list[Instance]:
    """The benchmark's questions as instances of split `eval1`.

    Args:
        path: the local Parquet file; None downloads it from the hub.
        revision: commit of `biomni/Eval1` to download, 40 hex digits.
        subset: True when the file holds only a part of the questions on purpose.
    Returns: instances in the file's order; id `eval1/TASK/TASK_INSTANCE_ID`, meta `split` and `instance_id`.
    Raises: DataError when the file cannot be had, or is not the benchmark: a column, a task, a number of questions, an
        id, a prompt or an answer is wrong; ConfigError for a revision that is no commit.
    """
    instances = [_instance(row) for row in read_rows(FILE, path, revision, COLUMNS)]
    check_unique(instances, str(path or FILE.repo))
    _check_counts(Counter(instance.task for instance in instances), subset, str(path or FILE.repo))
    return instances


def _check_counts(counts: Mapping[str, int], subset: bool, where: str) -> None:
    for task, expected in COUNTS.items():
        found = counts.get(task, 0)
        if found > expected or (found < expected and not subset):
            remedy = "" if found > expected else "; pass subset=True if a part is wanted"
            raise DataError(f"{where}: {found} questions of {task}, the benchmark has {expected}{remedy}")


def _instance(row: Mapping[str, Any]) -> Instance:
    task, number = text_of(row, "task_name", f"Eval1 question {row['instance_id']}"), row["task_instance_id"]
    where = f"Eval1 question {task}/{number}"
    if task not in COUNTS:
        raise DataError(f"{where}: unknown task {task!r}; the benchmark's tasks are {', '.join(COUNTS)}")
    prompt, gold = (text_of(row, column, where) for column in ("prompt", "answer"))
    if not grade(task, gold_answer(task, gold), gold):
        raise DataError(f"{where}: no answer can match its gold {reprlib.repr(gold)}; is it the benchmark's file?")
    return Instance(prompt, gold, task, f"eval1/{task}/{number}", {"split": "eval1", "instance_id": row["instance_id"]})
