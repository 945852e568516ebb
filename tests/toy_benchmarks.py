"""Made-up rows in the layout of Eval1 and LAB-Bench; no question of either is here."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomni_lib.tasks.eval1 import COUNTS

Rows = list[dict[str, Any]]


def gold_of(task: str, number: int) -> str:
    """A made-up gold."""
    if task == "rare_disease_diagnosis":
        return json.dumps({"disease_name": "none that exists", "OMIM_ID": str(900_000 + number)})
    if task == "patient_gene_detection":
        return f"ENSG{number:011d}"
    if task == "gwas_variant_prioritization":
        return f"rs{number + 1}"
    return "abcdef"[number % 6] if task in ("crispr_delivery", "lab_bench_dbqa", "lab_bench_seqqa") else f"GENE{number}"


def eval1_rows() -> Rows:
    """As many rows a task as the benchmark has."""
    places = [(task, number) for task, count in COUNTS.items() for number in range(count)]
    return [
        {
            "instance_id": row,
            "task_instance_id": number,
            "task_name": task,
            "split": "val",
            "prompt": f"Made-up question {number} of {task}",
            "answer": gold_of(task, number),
        }
        for row, (task, number) in enumerate(places)
    ]


def write(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lab_rows(count: int = 40) -> Rows:
    return [
        {
            "id": f"made-up-{row}",
            "question": f"Which is option {row}?",
            "ideal": f"the right one of {row}",
            "distractors": [f"wrong {place} of {row}" for place in range(1 + row % 4)],
            "canary": "not the benchmark's",
            "source": None,
            "subtask": "made-up",
        }
        for row in range(count)
    ]
