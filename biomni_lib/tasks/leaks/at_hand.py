"""The benchmarks that the user has downloaded, as instances: Eval1 from one file, LAB-Bench from a folder of two.

Without them nothing can be compared with them, and `compare` says so.
"""

import os
from pathlib import Path

from biomni_lib.errors import DataError
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.eval1 import load_eval1
from biomni_lib.tasks.lab_bench import TASKS, load_lab_bench

EVAL1, LAB_BENCH = "BIOMNI_EVAL1", "BIOMNI_LAB_BENCH"
"""Environment variables: Eval1's Parquet file; the folder with LAB-Bench's `DbQA` and `SeqQA`."""
REMEDY = {
    "eval1": f"download biomni/Eval1 and give its Parquet file in {EVAL1}",
    "lab-bench": f"download futurehouse/lab-bench and give its folder in {LAB_BENCH}",
}


def benchmarks_at_hand() -> dict[str, list[Instance]]:
    """Instances of each benchmark that the environment names, by `eval1` and `lab-bench`.

    Raises: DataError when a variable names nothing readable, or something that is not the benchmark.
    """
    found = {}
    if path := os.environ.get(EVAL1):
        found["eval1"] = load_eval1(Path(path))
    if folder := os.environ.get(LAB_BENCH):
        found["lab-bench"] = [one for name in TASKS for one in load_lab_bench(name, _file(Path(folder), name))]
    return found


def _file(folder: Path, subset: str) -> Path:
    files = sorted((folder / subset).glob("*.parquet"))
    if len(files) != 1:
        raise DataError(f"{LAB_BENCH}={folder}: {len(files)} Parquet files in {subset}/, one is expected")
    return files[0]
