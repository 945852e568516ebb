"""A benchmark's instance is refused by every way into training, whatever way it came."""

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.rl.samples import to_sample
from biomni_lib.rl.train import train_rl
from biomni_lib.sft.pretraining import copy_documents
from biomni_lib.sft.rejection import sample_teacher
from biomni_lib.sft.train import to_example
from biomni_lib.stages.sft import fit_tokenizer
from biomni_lib.stages.stage import StageRun
from biomni_lib.tasks import Instance, refuse_evaluation_only
from biomni_lib.tasks.eval1 import load_eval1
from biomni_lib.tasks.lab_bench import load_lab_bench

OWN = Instance("Which?", "b", "crispr_delivery", "crispr_delivery-train-0-1")


def load_one_of_eval1(folder: Path) -> Instance:
    row = {"instance_id": 7, "task_instance_id": 3, "task_name": "crispr_delivery", "split": "train"}
    pq.write_table(pa.Table.from_pylist([row | {"prompt": "A made-up case?", "answer": "b"}]), folder / "eval1.parquet")
    return load_eval1(folder / "eval1.parquet", subset=True)[0]


def load_one_of_lab_bench(folder: Path) -> Instance:
    row = {"id": "made-up", "question": "A made-up question?", "ideal": "yes", "distractors": ["no"]}
    pq.write_table(pa.Table.from_pylist([row]), folder / "lab.parquet")
    return load_lab_bench("SeqQA", folder / "lab.parquet")[0]


@pytest.fixture(params=[load_one_of_eval1, load_one_of_lab_bench])
def benchmark(request: pytest.FixtureRequest, tmp_path: Path) -> Instance:
    return request.param(tmp_path)


def test_teacher_tokenizer_documents_and_rl_take_no_instance_of_a_benchmark(
    benchmark: Instance, config: RunConfig, tmp_path: Path
) -> None:
    given: Any = [OWN, OWN, benchmark]
    nothing: Any = None  # refused before anything else is touched
    ways: dict[str, Callable[[], object]] = {
        "train_rl": lambda: train_rl(config, given, tmp_path / "no-model", tmp_path / "rl"),
        "copy_documents": lambda: copy_documents(given, nothing, count=1, seed=0),
        "sample_teacher": lambda: sample_teacher(
            given, nothing, nothing, nothing, samples=1, seed=0, concurrency=1
        ).send(None),
        "fit_tokenizer": lambda: fit_tokenizer(StageRun(config, "sft"), given, nothing).send(None),
    }
    for name, way in ways.items():
        with pytest.raises(DataError, match=f"instance {benchmark.id} is of a benchmark.+: {name} refuses it"):
            way()
    assert not (tmp_path / "rl").exists()


@pytest.mark.parametrize("train", [to_example, lambda trajectory: to_sample(trajectory, 1.0)])
def test_no_trajectory_of_a_benchmark_is_learned_from(
    benchmark: Instance, train: Callable[[Trajectory], object], tmp_path: Path
) -> None:
    """Evaluation writes such trajectories down: read from its file, they are refused still."""
    made = [Trajectory(one.task, one.id) for one in (OWN, benchmark)]
    for trajectory in made:
        trajectory.append([1, 2], sampled=False)
        trajectory.append([3, 4], sampled=True, logprobs=[-1.0, -1.0], policy_versions=[0, 0])
    save_trajectories(tmp_path / "evaluated.parquet", made)
    own, evaluated = load_trajectories(tmp_path / "evaluated.parquet")
    train(own)
    with pytest.raises(DataError, match=f"instance {benchmark.id} is of a benchmark"):
        train(evaluated)


@pytest.mark.parametrize(
    "copy",
    [
        lambda one: pickle.loads(pickle.dumps(one)),
        lambda one: dataclasses.replace(one, prompt="another", meta={}),
        lambda one: Instance(**json.loads(json.dumps(dataclasses.asdict(one)))),
    ],
)
def test_the_mark_survives_copies(benchmark: Instance, copy: Callable[[Instance], Instance]) -> None:
    with pytest.raises(DataError, match="for evaluation only: a test refuses it"):
        refuse_evaluation_only([OWN.id, copy(benchmark).id], "a test")


def test_own_instances_are_taken() -> None:
    refuse_evaluation_only([OWN.id, "eval1", "lab_bench_dbqa-train-0-1", ""], "a test")
