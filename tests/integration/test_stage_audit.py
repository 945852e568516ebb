"""`make audit` on bundled data, with and without a made-up benchmark, and the guard before a benchmark's score."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomni_lib import evaluate
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError, RunError
from biomni_lib.provenance import write_manifest
from biomni_lib.stages import audit, build_data
from biomni_lib.tasks import PUBLIC_TASKS, Instance
from biomni_lib.tasks.eval1 import COUNTS
from biomni_lib.tasks.leaks import audit_file, require_audited
from biomni_lib.tasks.leaks.at_hand import EVAL1, LAB_BENCH
from biomni_lib.tasks.leaks.compare import NOT_AUDITED
from biomni_lib.tasks.phenotypes import PATIENT_TASKS
from biomni_lib.tasks.real_patients import RealPatients
from tests.toy_benchmarks import eval1_rows, lab_rows, write
from tests.toy_patients import ToyPatients

QUESTION = Instance("Which?", "b", "crispr_delivery", "eval1/crispr_delivery/0")


@pytest.fixture
def small(make_config: Callable[..., RunConfig], lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run with a lake and saved instances, and no benchmark."""
    monkeypatch.delenv(EVAL1, raising=False)
    monkeypatch.delenv(LAB_BENCH, raising=False)
    monkeypatch.setattr(audit, "ONE_CALL_INSTANCES", 2)
    config = make_config()
    shutil.copytree(lake_dir, config.lake_dir)
    save(config)
    return config


def save(config: RunConfig) -> None:
    build_data.save_instances(config, build_data.open_tasks(config, build_data.open_lake(config)))


def with_gold(rows: list[dict[str, Any]], instance: Instance) -> list[dict[str, Any]]:
    """Made-up questions of Eval1, the first of the instance's task with its gold."""
    at = next(place for place, row in enumerate(rows) if row["task_name"] == instance.task)
    return [row | {"answer": instance.gold} if place == at else row for place, row in enumerate(rows)]


def test_without_benchmarks_they_are_not_audited_and_no_score_is_reported(
    small: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=r"no eval1 score is reported for smoke: .+ were not audited; .+ make audit"):
        require_audited(small, [QUESTION])
    record = audit.run(small)
    assert record.benchmarks == {"eval1": NOT_AUDITED, "lab-bench": NOT_AUDITED} and not record.leaks()
    assert set(record.skipped) == {*PUBLIC_TASKS, audit.PUBLISHED}
    assert all("make data" in why for why in record.skipped.values())
    assert set(record.instances) == {"train", "dev", "heldout"}
    assert json.loads(audit_file(small).read_text())["benchmarks"]["eval1"] == NOT_AUDITED
    stored = pq.read_table(audit_file(small).with_name("findings.parquet")).to_pylist()
    assert stored == record.findings and {row["status"] for row in stored if row["other"] == "eval1"} == {NOT_AUDITED}
    printed = capsys.readouterr().out
    assert f"eval1: {NOT_AUDITED}; download" in printed and f"{NOT_AUDITED} rare_disease_diagnosis" in printed
    assert all(f"{name} skipped: the data of" in printed for name in PUBLIC_TASKS)
    assert {row["task"] for row in record.one_call} >= {"rare_disease_diagnosis", "crispr_delivery"}
    with pytest.raises(RunError, match=rf"no eval1 score is reported for smoke: {NOT_AUDITED} against it; download"):
        require_audited(small, [QUESTION])
    require_audited(small, [])
    with pytest.raises(DataError, match="eval1 is not at hand; download"):
        audit.open_benchmark(small, "eval1")


def test_published_patients_are_audited_in_both_arms(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "task_names", lambda: PATIENT_TASKS)  # of the toy genome the other tasks know nothing
    ToyPatients(build_data.open_lake(small)).build(small.lake_dir, tmp_path / "files")
    tasks, skipped = audit.open_every_task(small, build_data.open_lake(small))
    arms = {f"{name}, {arm}" for name in PATIENT_TASKS for arm in ("leak-free", "leaky")}
    assert arms <= set(tasks) and audit.PUBLISHED not in skipped
    asked = audit.own_instances(small, {name: tasks[name] for name in (*PATIENT_TASKS, *arms)})
    for name in PATIENT_TASKS:
        published = [one for one in asked["heldout"][name] if "arm" in one.meta]
        assert {one.meta["arm"] for one in published} == {"leak-free", "leaky"}
        assert len(asked["heldout"][name]) > len(published)  # beside the simulated ones
    assert not audit.run(small).leaks()
    one = tasks[f"{PATIENT_TASKS[0]}, leaky"].instances("heldout")[0]
    leaky = {"train": [*tasks[f"{PATIENT_TASKS[0]}, leaky"].instances("train"), one], "dev": [], "heldout": [one]}
    monkeypatch.setattr(RealPatients, "instances", lambda task, split: leaky[split])
    with pytest.raises(DataError, match=f"share .+ of sort .+{one.id}"):
        audit.run(small)


async def test_the_evaluation_itself_refuses(small: RunConfig, tmp_path: Path) -> None:
    async def never(instance: Instance, sample: int, seed: int) -> Any:
        raise AssertionError("asked before it was refused")

    with pytest.raises(RunError, match="no eval1 score is reported"):
        await evaluate.evaluate("rl", never, [QUESTION], small, tmp_path / "out", key="k")
    assert not (tmp_path / "out").exists()


def test_a_clean_benchmark_is_opened_until_anything_changes(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EVAL1, str(write(tmp_path / "eval1.parquet", eval1_rows())))
    record = audit.run(small)
    assert record.benchmarks["eval1"] != NOT_AUDITED and not record.leaks()
    assert len(audit.open_benchmark(small, "eval1")) == sum(COUNTS.values())
    other = [row | {"prompt": row["prompt"] + "!"} for row in eval1_rows()]
    monkeypatch.setenv(EVAL1, str(write(tmp_path / "other.parquet", other)))
    with pytest.raises(RunError, match="not the questions that .+ compared"):
        audit.open_benchmark(small, "eval1")
    monkeypatch.setenv(EVAL1, str(tmp_path / "eval1.parquet"))
    train = small.run_dir / "data" / "train.parquet"
    write_manifest(small, "sft", inputs=[train], seconds=1.0)
    audit.open_benchmark(small, "eval1")
    pq.write_table(pq.read_table(train).slice(1), train)
    with pytest.raises(RunError, match="of other training data"):
        audit.open_benchmark(small, "eval1")
    audit.run(small)
    with pytest.raises(RunError, match="stage sft learned from other training data"):
        audit.open_benchmark(small, "eval1")


def test_a_leak_fails_names_the_first_thing_and_is_left_out_when_the_data_are_built_again(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaky = build_data.load_instances(small, "train")[0]
    monkeypatch.setenv(EVAL1, str(write(tmp_path / "eval1.parquet", with_gold(eval1_rows(), leaky))))
    with pytest.raises(DataError, match=rf"{leaky.task}: train and eval1 share 1 of sort 'disease'.+{leaky.id}"):
        audit.run(small)
    with pytest.raises(RunError, match="no eval1 score is reported for smoke: .+ share 1 of sort 'disease'"):
        audit.open_benchmark(small, "eval1")
    save(small)
    assert leaky.id not in {one.id for one in build_data.load_instances(small, "train")}
    audit.run(small)
    audit.open_benchmark(small, "eval1")


def test_lab_bench_is_read_from_its_folder(small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for subset in ("DbQA", "SeqQA"):
        (tmp_path / "lab" / subset).mkdir(parents=True)
        write(tmp_path / "lab" / subset / "train-00000-of-00001.parquet", lab_rows())
    monkeypatch.setenv(LAB_BENCH, str(tmp_path / "lab"))
    record = audit.run(small)
    assert record.benchmarks["lab-bench"] != NOT_AUDITED and record.benchmarks["eval1"] == NOT_AUDITED
    assert len(audit.open_benchmark(small, "lab-bench")) == 80
    shutil.rmtree(tmp_path / "lab" / "SeqQA")
    with pytest.raises(DataError, match=r"0 Parquet files in SeqQA/, one is expected"):
        audit.run(small)


def test_an_audit_that_cannot_be_read_allows_nothing(small: RunConfig) -> None:
    audit_file(small).parent.mkdir(parents=True)
    audit_file(small).write_text("{}")
    with pytest.raises(RunError, match=r"audit.json: no readable audit .+ make audit PRESET=smoke"):
        require_audited(small, [QUESTION])


def test_the_command_exits_with_one_line(small: RunConfig) -> None:
    """A held-out file that holds a training instance, as a mistake would leave it."""
    path = small.run_dir / "data" / "heldout.parquet"
    train, heldout = (pq.read_table(small.run_dir / "data" / f"{split}.parquet") for split in ("train", "heldout"))
    pq.write_table(pa.concat_tables([heldout, train.slice(0, 1)]), path)
    command = [sys.executable, "-m", "biomni_lib.stages", "audit", "--preset", "smoke"]
    options = ["--runs-root", str(small.runs_root)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=110)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    first = train.slice(0, 1).to_pylist()[0]
    assert done.stderr.startswith("error: ") and "train and heldout share" in done.stderr and first["id"] in done.stderr
    assert "LEAK" in done.stdout
