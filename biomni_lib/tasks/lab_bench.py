"""LAB-Bench, subsets DbQA and SeqQA, as multiple-choice instances, for evaluation only.

Options stand in an order that follows from the seed and the question's id, with one option more: that the question
cannot be answered. The ids begin with `lab-bench/`, and whatever is so marked is refused by every way into training;
that the hub calls the only split of these files `train` changes nothing.
Layout taken from public descriptions (columns id, question, ideal, distractors, canary, source, subtask); neither the
files nor the numbers of their questions have been verified here. The words of the prompt are this project's, and the
order of options is not that of other harnesses: scores compare with theirs only so far.
Source: Laurent et al. 2024, LAB-Bench (arXiv 2407.10362), CC BY-SA 4.0.
"""

import reprlib
import string
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from biomni_lib.errors import ConfigError, DataError
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.benchmark_file import HubFile, check_unique, read_rows, text_of

REPO = "futurehouse/lab-bench"
TASKS = {"DbQA": "lab_bench_dbqa", "SeqQA": "lab_bench_seqqa"}
"""Subset to the task by whose rule it is graded."""
COLUMNS = ("id", "question", "ideal", "distractors")
REFUSAL = "There is not enough information to tell."
"""The option that is never right."""
_PROMPT = "Task: answer a question about biology.\nQuestion: {question}\nOptions:\n{options}\nOutput format: {form}"


def load_lab_bench(
    subset: str, path: Path | None = None, *, revision: str | None = None, seed: int = 0
) -> list[Instance]:
    """The public questions of a subset as instances of split `lab-bench`.

    Args:
        subset: `DbQA` or `SeqQA`.
        path: the local Parquet file; None downloads it from the hub.
        revision: commit of `futurehouse/lab-bench` to download, 40 hex digits.
        seed: of the order of options; a question's order depends on nothing else but its id.
    Returns: instances in the file's order; id `lab-bench/SUBSET/ID`, gold a letter, meta `split`, `options` (in order)
        and `refusal` (the letter of the option that is never right).
    Raises: ConfigError for another subset, or a revision that is no commit; DataError when the file cannot be had or is
        not in LAB-Bench's layout.
    """
    if subset not in TASKS:
        raise ConfigError(f"unknown subset {subset!r} of LAB-Bench; those that can be asked are {', '.join(TASKS)}")
    file = HubFile(REPO, f"{subset}/train-00000-of-00001.parquet")
    instances = [_instance(subset, row, seed) for row in read_rows(file, path, revision, COLUMNS)]
    check_unique(instances, str(path or REPO))
    return instances


def _instance(subset: str, row: Mapping[str, Any], seed: int) -> Instance:
    id = f"lab-bench/{subset}/{row['id']}"
    question, ideal = (text_of(row, column, id) for column in ("question", "ideal"))
    options = _options(id, ideal, row["distractors"], seed)
    lettered = dict(zip(string.ascii_uppercase, options, strict=False))
    letters = {option: letter for letter, option in lettered.items()}
    prompt = _PROMPT.format(
        question=question.strip(),
        options="\n".join(f"{letter}. {option}" for letter, option in lettered.items()),
        form=f"one letter from A to {list(lettered)[-1]}",
    )
    meta = {"split": "lab-bench", "options": options, "refusal": letters[REFUSAL]}
    return Instance(prompt, letters[ideal.strip()], TASKS[subset], id, meta)


def _options(id: str, ideal: str, distractors: object, seed: int) -> list[str]:
    """All options in their seeded order; those that say the same stand once."""
    wrong = distractors if isinstance(distractors, list) else []
    if not wrong or not all(isinstance(option, str) for option in wrong):
        raise DataError(
            f"{id}: column distractors is {reprlib.repr(distractors)}, not a list of texts; is it LAB-Bench's file?"
        )
    options = list(dict.fromkeys(option.strip() for option in [ideal, *wrong, REFUSAL]))
    if not 3 <= len(options) <= len(string.ascii_uppercase):
        raise DataError(f"{id}: {len(options)} different options; a question needs 3 to 26")
    rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(id.encode())]))
    return [options[place] for place in rng.permutation(len(options))]
