"""The loaders of Eval1 and LAB-Bench, on made-up rows in the layout of their files; no question of either is here."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomni_lib.errors import ConfigError, DataError
from biomni_lib.tasks import Instance, grade
from biomni_lib.tasks.eval1 import COLUMNS, COUNTS, load_eval1
from biomni_lib.tasks.grading import gold_answer
from biomni_lib.tasks.lab_bench import REFUSAL, TASKS, load_lab_bench
from tests.toy_benchmarks import Rows, eval1_rows, lab_rows, write

COMMIT = "0" * 40


def eval1(tmp_path: Path, rows: Rows, **options: Any) -> list[Instance]:
    return load_eval1(write(tmp_path / "eval1.parquet", rows), **options)


def test_eval1_gives_every_question_once_and_grades_it(tmp_path: Path) -> None:
    rows = eval1_rows()
    instances = eval1(tmp_path, rows)
    assert len(instances) == 433 and Counter(i.task for i in instances) == COUNTS
    assert len({i.id for i in instances}) == 433 and all(i.id.startswith("eval1/") for i in instances)
    for row, instance in zip(rows, instances, strict=True):
        assert (instance.prompt, instance.gold, instance.task) == (row["prompt"], row["answer"], row["task_name"])
        assert instance.meta == {"split": "eval1", "instance_id": row["instance_id"]}
        assert grade(instance.task, gold_answer(instance.task, instance.gold), instance.gold) == 1.0
        assert grade(instance.task, "none of these", instance.gold) == 0.0


def test_a_differing_count_names_both_numbers_unless_a_subset_is_wanted(tmp_path: Path) -> None:
    fewer = [row for row in eval1_rows() if row["instance_id"] % 7]
    left = Counter(row["task_name"] for row in fewer)["gwas_causal_gene_gwas_catalog"]
    with pytest.raises(
        DataError, match=rf"{left} questions of gwas_causal_gene_gwas_catalog.+ has 50; pass subset=True"
    ):
        eval1(tmp_path, fewer)
    assert len(eval1(tmp_path, fewer, subset=True)) == len(fewer)


def test_a_missing_task_is_a_differing_count(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 questions of crispr_delivery, the benchmark has 10"):
        eval1(tmp_path, [row for row in eval1_rows() if row["task_name"] != "crispr_delivery"])


def test_even_a_subset_has_no_more_questions_than_the_benchmark(tmp_path: Path) -> None:
    extra = {**eval1_rows()[-1], "task_instance_id": 10}
    with pytest.raises(DataError, match="11 questions of crispr_delivery, the benchmark has 10$"):
        eval1(tmp_path, [*eval1_rows(), extra], subset=True)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    rows = [{name: value for name, value in row.items() if name != column} for row in eval1_rows()]
    with pytest.raises(
        DataError, match=rf"eval1.parquet has no column {column}; is it biomni_eval1_dataset.parquet of"
    ):
        eval1(tmp_path, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_name": "riddle"}, "unknown task 'riddle'"),
        ({"task_name": None}, "column task_name is None, not text"),
        ({"prompt": " "}, "crispr_delivery/9: column prompt is ' ', not text"),
        ({"answer": None}, "crispr_delivery/9: column answer is None, not text"),
        ({"answer": "b or c"}, "crispr_delivery/9: no answer can match its gold 'b or c'"),
        (
            {"task_name": "rare_disease_diagnosis", "task_instance_id": 30, "answer": "{}"},
            "no answer can match its gold",
        ),
        ({"task_instance_id": 8}, "eval1/crispr_delivery/8 comes 2 times"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = eval1_rows()
    with pytest.raises(DataError, match=re.escape(message)):
        eval1(tmp_path, [*rows[:-1], rows[-1] | change], subset=True)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and nothing more"])
def test_a_file_that_cannot_be_read_is_named_with_the_right_one(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "eval1.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"eval1.parquet cannot be read .+ give the Parquet file biomni_eval1_dataset"):
        load_eval1(path)


def test_an_empty_file_is_no_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "eval1.parquet"
    pq.write_table(pa.Table.from_pylist(eval1_rows()).slice(0, 0), path)
    with pytest.raises(DataError, match="has no rows"):
        load_eval1(path, subset=True)


@pytest.mark.parametrize("load", [load_eval1, lambda **pin: load_lab_bench("DbQA", **pin)])
def test_a_download_needs_a_commit_and_says_what_to_do_without_internet(load: Any, tmp_path: Path) -> None:
    for revision in (None, "main", "0" * 39):
        with pytest.raises(ConfigError, match=f"revision {revision!r} is no commit"):
            load(revision=revision)
    with pytest.raises(DataError, match=rf"at {COMMIT} cannot be downloaded .+ give its path") as failure:
        load(revision=COMMIT)
    assert "\n" not in str(failure.value)


def lab_bench(tmp_path: Path, rows: Rows, subset: str = "DbQA", seed: int = 0) -> list[Instance]:
    return load_lab_bench(subset, write(tmp_path / "lab.parquet", rows), seed=seed)


@pytest.mark.parametrize("subset", TASKS)
def test_lab_bench_asks_for_the_letter_of_the_ideal_answer(tmp_path: Path, subset: str) -> None:
    rows = lab_rows()
    for row, instance in zip(rows, lab_bench(tmp_path, rows, subset), strict=True):
        shown = dict(re.findall(r"^([A-Z])\. (.+)$", instance.prompt, re.MULTILINE))
        assert "".join(shown) == "ABCDEFG"[: len(row["distractors"]) + 2]
        assert sorted(shown.values()) == sorted([row["ideal"], *row["distractors"], REFUSAL])
        assert shown[instance.gold] == row["ideal"] and shown[instance.meta["refusal"]] == REFUSAL
        assert list(shown.values()) == instance.meta["options"]
        assert row["question"] in instance.prompt and row["canary"] not in instance.prompt
        assert instance.task == TASKS[subset] and instance.id == f"lab-bench/{subset}/{row['id']}"
        assert sum(grade(instance.task, letter, instance.gold) for letter in shown) == 1.0


def test_the_order_of_options_follows_from_seed_and_id_alone(tmp_path: Path) -> None:
    rows = lab_rows()
    instances, backwards = lab_bench(tmp_path, rows), lab_bench(tmp_path, rows[::-1])
    assert instances == backwards[::-1] == lab_bench(tmp_path, rows, seed=0)
    assert instances != lab_bench(tmp_path, rows, seed=1)


def test_the_right_letter_is_spread_evenly(tmp_path: Path) -> None:
    """600 questions of 5 options: each letter is right 120 times, within 4 standard deviations (39)."""
    rows = [{**row, "distractors": ["p", "q", "r"]} for row in lab_rows(600)]
    counts = Counter(instance.gold for instance in lab_bench(tmp_path, rows))
    assert set(counts) == set("ABCDE") and max(abs(count - 120) for count in counts.values()) < 39


def test_options_that_say_the_same_stand_once(tmp_path: Path) -> None:
    row = lab_rows()[0] | {"ideal": "same", "distractors": [" same", "other", "other "]}
    (instance,) = lab_bench(tmp_path, [row])
    assert sorted(instance.meta["options"]) == sorted(["same", "other", REFUSAL])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ideal": ""}, "lab-bench/DbQA/made-up-39: column ideal is '', not text"),
        ({"question": None}, "column question is None, not text"),
        ({"distractors": None}, "column distractors is None, not a list of texts"),
        ({"distractors": []}, "column distractors is [], not a list of texts"),
        ({"distractors": ["a", None]}, "column distractors is ['a', None], not a list of texts"),
        ({"distractors": ["the right one of 39"]}, "2 different options; a question needs 3 to 26"),
        ({"distractors": [str(n) for n in range(25)]}, "27 different options; a question needs 3 to 26"),
        ({"id": "made-up-0"}, "lab-bench/DbQA/made-up-0 comes 2 times"),
    ],
)
def test_a_wrong_question_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = lab_rows()
    with pytest.raises(DataError, match=re.escape(message)):
        lab_bench(tmp_path, [*rows[:-1], rows[-1] | change])


def test_other_subsets_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown subset 'FigQA' of LAB-Bench"):
        lab_bench(tmp_path, lab_rows(), "FigQA")
    with pytest.raises(DataError, match="has no column distractors, id, ideal, question; is it DbQA/train-00000"):
        lab_bench(tmp_path, eval1_rows())
