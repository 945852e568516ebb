"""The whole loop on a tiny model: two processes, weight sync, checkpoints, death and resume."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from biomni_lib.agent.ledger import load_trajectories
from biomni_lib.agent.rollout import rollout_seed
from biomni_lib.config import RunConfig
from biomni_lib.engines.weight_files import shared_memory
from biomni_lib.errors import ConfigError, RunError, TrainingError
from biomni_lib.rl.checkpoints import save_checkpoint
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.scheduler import Group, instance_at
from biomni_lib.rl.train import RLResult, train_rl
from biomni_lib.rl.weights import save_weights
from tests.rl_toy import (
    ToyTask,
    broken_world,
    deaf_world,
    dying_world,
    save_toy_model,
    toy_engine,
    toy_rollout,
    toy_world,
)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(400)  # many processes start here, each with its imports
SAME_EVERY_TIME = ("reward/total", "loss/policy", "policy/entropy", "policy/logprob_abs_diff", "optim/grad_norm")

DASHBOARD = {
    "reward": "correctness format total by_task/toy",
    "response": "tokens turns truncated",
    "async": "staleness_mean staleness_max in_flight queued dropped",
    "policy": "logprob_abs_diff mismatch_kl is_ratio tis_clip_fraction entropy clip_fraction_low clip_fraction_high",
    "optim": "grad_norm lr",
    "time": "step wait_for_batch weight_sync generate tool",
    "perf": "tokens_per_s engine_idle_fraction learner_idle_fraction event_loop_lag",
    "rollout": "errors timeouts malformed",
    "tool": "run_s queue_s",
}
"""Names that people look for, by group; those of an evaluation are logged by its stage."""
LOGGED = [f"{group}/{name}" for group, names in DASHBOARD.items() for name in names.split()]
LOGGED += ["pass_at_k", "all_failed", "all_succeeded"]


@pytest.fixture
def toy_config(make_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def make(**rl: Any) -> RunConfig:
        values = {"steps": 4, "groups_per_step": 4, "group_size": 8, "learning_rate": 4e-3, "checkpoint_every": 2}
        return make_config(engine={"slots": 32}, rl={**values, **rl})

    return make


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return save_toy_model(tmp_path / "toy-model")


def weights(result: RLResult) -> dict[str, torch.Tensor]:
    return load_file(result.model_dir / "model.safetensors")


def assert_same_run(one: RLResult, other: RLResult) -> None:
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert {name: a[name] for name in SAME_EVERY_TIME} == {name: b[name] for name in SAME_EVERY_TIME}
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


async def naive_synchronous(config: RunConfig, model_dir: Path, weights_file: Path) -> list[dict[str, float]]:
    """The reference: one step after the other in one process, nothing overlaps, every group waits for the last."""
    rl, task = config.rl, ToyTask()
    instances = task.instances("train")
    engine = toy_engine(model_dir, config.engine.slots)
    learner = Learner(
        AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), load_recipe(rl.recipe), config
    )
    history, index = [], 0
    for step in range(rl.steps):
        varied: list[Group] = []
        flat: list[Group] = []
        while len(varied) + max(0, len(flat) - rl.groups_per_step) < rl.groups_per_step:
            instance = instances[instance_at(index, len(instances), config.seed)]
            members = [
                await toy_rollout(engine, instance, seed=rollout_seed(config.seed, index, sample), sample=sample)
                for sample in range(rl.group_size)
            ]
            group = Group(index, members)
            (flat if group.flat else varied).append(group)
            index += 1
        batch = varied + flat[: rl.groups_per_step - len(varied)]
        history.append(learner.step(sorted(batch, key=lambda g: g.index)))
        save_weights(learner.model, weights_file)
        await engine.load_weights(step + 1, weights_file)
    await engine.close()
    return history


def test_without_staleness_the_loop_is_the_naive_synchronous_one(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    config = toy_config(max_staleness=0, steps=5)
    result = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.rl.threads)
    expected = asyncio.run(naive_synchronous(config, model_dir, tmp_path / "naive.safetensors"))
    torch.set_num_threads(threads)
    for step, row in enumerate(expected):
        assert {name: result.metrics[step][name] for name in row} == row
    naive, trained = load_file(tmp_path / "naive.safetensors"), weights(result)
    assert all(torch.equal(naive[name], trained[name]) for name in naive)


def test_a_synchronous_run_repeats_and_a_resumed_one_equals_it(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    config = toy_config(max_staleness=0, steps=5)
    whole = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "whole", world=toy_world)

    class Stopped(Exception):
        pass

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == 2:
            raise Stopped  # two steps are in the checkpoint, the third is lost

    with pytest.raises(Stopped):
        train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "cut", stop, world=toy_world)
    seen: list[int] = []
    cut = train_rl(
        config, ToyTask().instances("train"), model_dir, tmp_path / "cut", lambda s, _: seen.append(s), world=toy_world
    )
    assert seen == [2, 3, 4]
    assert_same_run(whole, cut)


def test_a_run_cut_right_after_a_checkpoint_keeps_the_metrics_of_every_step(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_and_stop(*arguments: Any, **options: Any) -> None:
        save_checkpoint(*arguments, **options)
        raise KeyboardInterrupt

    config = toy_config(max_staleness=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("biomni_lib.rl.train.save_checkpoint", save_and_stop)
        train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    resumed = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    assert [row["step"] for row in resumed.metrics] == [0, 1, 2, 3]


def test_a_run_with_an_adapter_leaves_a_plain_model_and_a_resumed_one_equals_it(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    """The engine runs the merged weights throughout: the loop itself refuses to go on when it does not."""
    config, shorter = (toy_config(max_staleness=0, steps=n, lora_rank=4, checkpoint_every=1) for n in (3, 2))
    instances = ToyTask().instances("train")
    whole = train_rl(config, instances, model_dir, tmp_path / "whole", world=toy_world)
    train_rl(shorter, instances, model_dir, tmp_path / "cut", world=toy_world)
    assert_same_run(whole, train_rl(config, instances, model_dir, tmp_path / "cut", world=toy_world))
    start, trained = load_file(model_dir / "model.safetensors"), weights(whole)
    assert {name for name in start if not torch.equal(start[name], trained[name])} == {n for n in start if "proj" in n}
    assert {p.name for p in whole.model_dir.iterdir()} == {p.name for p in model_dir.iterdir()}
    saved = load_file(tmp_path / "whole" / "checkpoints" / "step-00003" / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(whole.model_dir, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_what_a_run_leaves_behind(toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path) -> None:
    config = toy_config(max_staleness=1)
    result = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    table = pq.read_table(result.trajectories).to_pandas()
    assert sorted(table["step"].unique()) == [0, 1, 2, 3]
    assert (table.groupby("step").size() == 4 * 8).all()
    assert table["staleness"].between(0, 1).all()
    assert table["group"].nunique() == 16
    assert [p.name for p in sorted(result.ledgers.glob("*"))] == ["step-00000.parquet", "step-00003.parquet"]
    first = load_trajectories(result.ledgers / "step-00000.parquet")
    assert len(first) == 32 and all(t.oldest_version == 0 for t in first)
    assert set(LOGGED) <= result.metrics[-1].keys()
    assert result.metrics[0]["policy/fresh_abs_diff_max"] < 1e-4
    AutoModelForCausalLM.from_pretrained(result.model_dir)
    assert not list((shared_memory() or tmp_path).glob(f"biomni-weights-{os.getpid()}-*"))


@pytest.mark.parametrize("staleness", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_rl_reaches_the_known_best_policy(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path, staleness: int
) -> None:
    config = toy_config(max_staleness=staleness, steps=65, groups_per_step=8, checkpoint_every=65)
    result = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    rewards = [row["reward/correctness"] for row in result.metrics]
    assert np.mean(rewards[:3]) < 0.3
    assert np.mean(rewards[-5:]) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_rl_reaches_the_best_policy_from_other_seeds(
    make_config: Callable[..., RunConfig], tmp_path: Path, staleness: int, seed: int
) -> None:
    rl = {"steps": 65, "groups_per_step": 8, "group_size": 8, "learning_rate": 4e-3, "max_staleness": staleness}
    config = make_config(seed=seed, engine={"slots": 32}, rl=rl)
    model_dir = save_toy_model(tmp_path / "m", seed=seed)
    result = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    assert np.mean([row["reward/correctness"] for row in result.metrics[-5:]]) >= 0.95


def test_a_rollout_process_that_dies_is_named_and_the_run_resumes(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    config = toy_config(max_staleness=1, checkpoint_every=1)
    with pytest.raises(RunError, match=r"rollout process ended with code 9; .*rollouts\.log"):
        train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=dying_world)
    result = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=toy_world)
    groups = pq.read_table(result.trajectories).to_pandas().groupby("step")["group"].unique()
    used = [index for step in groups for index in step]
    assert len(used) == len(set(used)) == 16
    assert [row["step"] for row in result.metrics] == [0, 1, 2, 3]


def test_a_programming_error_in_a_rollout_reaches_the_driver(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="ZeroDivisionError: in a rollout"):
        train_rl(toy_config(), ToyTask().instances("train"), model_dir, tmp_path / "run", world=broken_world)


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_run_whose_engine_keeps_old_weights_is_stopped_at_the_first_sync(
    max_staleness: int, toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    with pytest.raises(TrainingError, match=r"disagree on a probe after the sync of version 1 by .*engine\.parity_max"):
        train_rl(
            toy_config(max_staleness=max_staleness, learning_rate=0.05),
            ToyTask().instances("train"),
            model_dir,
            tmp_path / "run",
            lambda step, _: steps.append(step),
            world=deaf_world,
        )
    assert steps == []  # the first step was learned, and the second did not begin


def test_asynchronous_without_correction_is_refused_before_anything_starts(
    toy_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    config = toy_config(max_staleness=1)
    with pytest.raises(ConfigError, match="no off-policy correction"):
        train_rl(config, [], model_dir, tmp_path / "run", recipe=load_recipe("as-intended"), world=toy_world)
    assert not (tmp_path / "run").exists()


DRIVER = """
from pathlib import Path
import json
import sys
from biomni_lib.config import load_config
from biomni_lib.rl.train import train_rl
from tests.rl_toy import ToyTask, toy_world
out, rl = Path(sys.argv[1]), json.loads(sys.argv[2])
sizes = {"groups_per_step": 4, "group_size": 4, "checkpoint_every": 1}
config = load_config("smoke", runs_root=out, engine={"slots": 16}, rl=sizes | rl)
train_rl(config, ToyTask().instances("train"), out / "toy-model", out / "run", world=toy_world)
"""


def start_driver(folder: Path, **rl: int) -> subprocess.Popen[bytes]:
    """A run in a process of its own, from the toy model of a folder into the folder `run` beside it."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), json.dumps(rl)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("staleness", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    make_config: Callable[..., RunConfig], model_dir: Path, staleness: int
) -> None:
    """Kill -9 of everything at moments that nobody chose: some time after the first, the third and the fifth step."""
    folder, rl = model_dir.parent, {"steps": 7, "max_staleness": staleness}
    metrics, rng = folder / "run" / "metrics" / "rl.jsonl", np.random.default_rng(staleness)
    for step in (1, 3, 5):
        driver = start_driver(folder, **rl)
        wait_for(lambda at=step: metrics.is_file() and len(metrics.read_text().splitlines()) >= at)
        time.sleep(rng.uniform(0, 0.2))
        for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
            process.kill()
        driver.communicate()
    last = start_driver(folder, **rl)
    last.communicate(timeout=300)
    assert last.returncode == 0
    rows = pq.read_table(folder / "run" / "trajectories").to_pandas()
    used = rows.groupby("step")["group"].unique()
    assert list(used.index) == list(range(7)) and all(len(groups) == 4 for groups in used)
    assert sum(map(len, used)) == len(set(np.concatenate(list(used))))
    assert rows["staleness"].max() <= staleness
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(7))
    if staleness == 0:
        sizes = {"groups_per_step": 4, "group_size": 4, "checkpoint_every": 1}
        config = make_config(engine={"slots": 16}, rl=sizes | rl)
        whole = train_rl(config, ToyTask().instances("train"), model_dir, folder / "whole", world=toy_world)
        ended = load_file(folder / "run" / "model" / "model.safetensors")
        assert all(torch.equal(tensor, ended[name]) for name, tensor in weights(whole).items())


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_when_the_driver_goes_the_rollout_process_goes_too(model_dir: Path, kill: signal.Signals) -> None:
    folder = model_dir.parent
    driver = start_driver(folder, steps=100_000)
    try:
        wait_for(lambda: bool(list((folder / "run" / "checkpoints").glob("step-*"))))
        children = psutil.Process(driver.pid).children(recursive=True)
        assert children
        driver.send_signal(kill)
        driver.communicate(timeout=30)
        wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    finally:
        driver.kill()


def wait_for(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
