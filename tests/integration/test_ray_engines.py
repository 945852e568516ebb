"""Engines and sandboxes as Ray actors on a cluster of two nodes: the same run, and what becomes of those that die."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from biomni_lib.config import RunConfig
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.ray_engine import LOSSES_MAX, RayEngines, start_engines
from biomni_lib.engines.weight_files import shared_memory
from biomni_lib.errors import EngineError, EngineLostError, RunError
from biomni_lib.rl.train import RLResult, train_rl
from biomni_lib.rl.weights import untied_state
from biomni_lib.sandbox import start_environment
from tests.acting_toy import reference_logprobs
from tests.ray_nodes import Nodes, kill, process_of
from tests.ray_toy import KILLING_GROUPS, LOST, EndsOnce, hopeless_world, killing_world, ray_world, until, vanish
from tests.rl_toy import PROBE, ToyRenderer, ToyTask, save_toy_model, toy_engine, toy_world

pytestmark = pytest.mark.timeout(400)  # each actor is a process with its imports
LONG = Sampling(1.0, 1.0, 24, (), 0)
NICENESS = """
import os, ray
from biomni_lib import cluster
assert cluster.join(cluster.ALONE, "a test")
class Actor:
    def niceness(self):
        return os.nice(0)
print(os.nice(0), ray.get(ray.remote(Actor).options(num_cpus=0).remote().niceness.remote()))
ray.shutdown()
"""


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return save_toy_model(tmp_path / "toy-model")


@pytest.fixture
def on_ray(make_config: Callable[..., RunConfig], ray_nodes: Nodes) -> Callable[..., RunConfig]:
    def make(rl: dict[str, Any] | None = None, **placement: Any) -> RunConfig:
        values = {"steps": 4, "groups_per_step": 4, "group_size": 8, "learning_rate": 4e-3, "checkpoint_every": 9}
        placed = {"kind": "ray", "address": ray_nodes.cluster.address, "engines": 2, **placement}
        return make_config(engine={"slots": 16}, rl={**values, **(rl or {})}, placement=placed)

    return make


def changed(model_dir: Path, file: Path, seed: int) -> Any:
    """Weights of another toy model in a file. Returns: that model."""
    save_toy_model(model_dir.parent / f"other-{seed}", seed=seed)
    model = Qwen3ForCausalLM.from_pretrained(model_dir.parent / f"other-{seed}", dtype=torch.float32).eval()
    save_file(untied_state(model), file)
    return model


async def assert_serves(engines: RayEngines, version: int, model: Any) -> None:
    """Every engine samples by these weights, under their version."""
    for engine in engines.engines:
        reply = await engine.generate(PROBE, LONG)
        said = reference_logprobs(model, [*PROBE, *reply.ids])[len(PROBE) - 1 :]
        assert set(reply.policy_versions) == {version}
        assert torch.allclose(torch.tensor(reply.logprobs, dtype=torch.float64), said, atol=1e-5)


async def spread_engines(config: RunConfig, model_dir: Path) -> tuple[RayEngines, list[str]]:
    """Engines on both nodes, and their nodes; a node that Ray has only just met may be passed over at first."""
    for _ in range(10):
        engines = start_engines(config, functools.partial(toy_engine, model_dir, 4), ToyRenderer(), heartbeat_s=0.1)
        nodes = [(await engine._running()).node for engine in engines.engines]
        if len(set(nodes)) == 2:
            return engines, nodes
        await engines.close()
    raise AssertionError("all engines went to one node ten times")


async def test_weights_reach_other_nodes_and_every_replacement_has_the_newest_before_it_serves(
    on_ray: Callable[..., RunConfig], model_dir: Path, ray_nodes: Nodes, tmp_path: Path
) -> None:
    """One engine dies by itself, then the other with its node; the files of the weights are gone by then."""
    engines, nodes = await spread_engines(on_ray(), model_dir)
    try:
        model = changed(model_dir, tmp_path / "7.safetensors", seed=7)
        await engines.load_weights(7, tmp_path / "7.safetensors")
        (tmp_path / "7.safetensors").unlink()
        await assert_serves(engines, 7, model)
        written = engines.stats().generated_tokens
        assert written > 0

        here, other = sorted(engines.engines, key=lambda e: nodes[engines.engines.index(e)] == ray_nodes.other.node_id)
        waiting = await here.generate(PROBE, LONG, session="waits")
        await kill(here)
        await until(lambda: here.losses == 1)  # a sign of life stayed away; nobody had called
        reply = await engines.generate([*PROBE, *waiting.ids], Sampling(1.0, 1.0, 2, (), 0), session="waits")
        assert set(reply.policy_versions) == {7}

        ray_nodes.lose_other()
        with pytest.raises(EngineLostError, match=r"engine \d was lost"):
            while True:
                await other.generate(PROBE, LONG)
        await assert_serves(engines, 7, model)
        await engines.load_weights(8, model_dir / "model.safetensors")
        await assert_serves(engines, 8, Qwen3ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval())
        assert engines.stats().lost >= 2  # a replacement may begin on the lost node, and go with it
        assert engines.stats().generated_tokens > written  # what lost actors wrote still counts
        processes = [psutil.Process(await process_of(engine)) for engine in engines.engines]
    finally:
        await engines.close()
        await engines.close()
    assert not psutil.wait_procs(processes, 30)[1]
    assert ray.is_initialized()  # it was there before the engines
    with pytest.raises(EngineError, match="closed"):
        await engines.generate(PROBE, LONG)


def assert_same_run(one: RLResult, other: RLResult) -> None:
    names = ("reward/total", "loss/policy", "policy/logprob_abs_diff", "optim/grad_norm")
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert {name: a[name] for name in names} == {name: b[name] for name in names}
    first, second = (load_file(result.model_dir / "model.safetensors") for result in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_synchronous_run_on_two_actors_is_the_local_one_bit_for_bit(
    on_ray: Callable[..., RunConfig], make_config: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    config = on_ray({"max_staleness": 0})
    local = make_config(engine={"slots": 16}, rl=config.rl.model_dump())
    instances = ToyTask().instances("train")
    assert config.agents == local.agents == config.sandbox.sessions_max < config.slots == 32
    placed = train_rl(config, instances, model_dir, tmp_path / "placed", world=ray_world)
    assert_same_run(placed, train_rl(local, instances, model_dir, tmp_path / "local", world=toy_world))


def test_a_run_goes_on_when_engines_are_killed_and_every_member_is_accounted_for(
    on_ray: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL of the engine that has most to do, twice; engine and learner agree throughout, or the run would stop."""
    config = on_ray({"max_staleness": 1, "steps": 8})
    result = train_rl(config, ToyTask().instances("train"), model_dir, tmp_path / "run", world=killing_world)
    last, lost = result.metrics[-1], (model_dir / LOST).read_text().splitlines()
    assert last["rollout/engines_lost"] == len(KILLING_GROUPS)
    assert {int(line.split()[0]) for line in lost} >= set(KILLING_GROUPS)
    assert len(lost) == len(set(lost)) == last["async/replaced"] > len(KILLING_GROUPS)
    for step, row in enumerate(result.metrics):
        settled = 4 * (step + 1) + row["async/dropped"] + row["async/filtered"] + row["async/failed"]
        assert row["async/admitted"] == settled + row["async/in_flight"] + row["async/queued"]
        assert row["async/failed"] == 0
        assert row.get("policy/fresh_abs_diff_max", 0.0) < 1e-4  # absent where a batch has no fresh sample
    table = pq.read_table(result.trajectories).to_pandas()
    assert (table.groupby("step").size() == 4 * 8).all() and table["step"].nunique() == 8
    assert not table.duplicated(["group", "sample"]).any()
    assert table["staleness"].between(0, 1).all()
    assert not list((shared_memory() or tmp_path).glob(f"biomni-weights-{os.getpid()}-*"))


async def test_an_engine_that_dies_again_and_again_says_so(
    on_ray: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    told = rf"engine 0 was lost {LOSSES_MAX} times within 600 s, the last time by ActorDiedError.*resume"
    engines = start_engines(on_ray(engines=1), vanish, ToyRenderer())
    try:
        for call in (engines.generate(PROBE, LONG), engines.load_weights(1, model_dir / "model.safetensors")):
            with pytest.raises(RunError, match=told):
                await call
        await engines.release("nobody")
    finally:
        await engines.close()


async def test_a_living_actor_whose_engine_has_died_is_replaced(
    on_ray: Callable[..., RunConfig], model_dir: Path
) -> None:
    opened = functools.partial(toy_engine, model_dir, 4, EndsOnce)
    engines = start_engines(on_ray(engines=1), opened, ToyRenderer(), heartbeat_s=0.1)
    try:
        first = await process_of(engines.engines[0])
        await until(lambda: engines.stats().lost == 1)
        await assert_serves(engines, 0, Qwen3ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval())
        assert await process_of(engines.engines[0]) != first
    finally:
        await engines.close()


def test_a_cluster_of_our_own_runs_actors_as_urgently_as_this_process() -> None:
    """Ray would set 15 back, and who shares a machine with a learner would starve."""
    made = subprocess.run([sys.executable, "-c", NICENESS], capture_output=True, text=True, timeout=120, check=True)
    here, actor = made.stdout.split()[-2:]
    assert here == actor


@pytest.mark.slow
def test_a_run_whose_engine_dies_again_and_again_stops(
    on_ray: Callable[..., RunConfig], model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"the rollout process failed: RunError: engine 0 was lost 4 times within 600 s"):
        train_rl(on_ray(engines=1), ToyTask().instances("train"), model_dir, tmp_path / "run", world=hopeless_world)


async def test_a_model_that_is_not_there_is_said_at_the_first_call(
    on_ray: Callable[..., RunConfig], model_dir: Path
) -> None:
    def missing() -> Any:
        raise EngineError("no model in nowhere")

    engines = start_engines(on_ray(engines=1), missing, ToyRenderer())
    try:
        with pytest.raises(EngineError, match="no model in nowhere"):
            await engines.generate(PROBE, LONG)
        assert engines.stats().lost == 0
    finally:
        await engines.close()


async def test_sandbox_hosts_are_as_many_as_asked_for_and_a_killed_one_comes_back(
    on_ray: Callable[..., RunConfig], lake_dir: Path
) -> None:
    config = on_ray(sandbox_hosts=2)
    async with await start_environment(config, lake_dir) as environment:
        sessions = [await environment.open(seed) for seed in (1, 2)]
        assert len({id(session.transport) for session in sessions}) == 2
        for number, session in enumerate(sessions):
            assert (await session.execute(f"x = {number}; x")).text == f"{number}"
        handle = sessions[0].transport._actor
        os.kill(await handle.__ray_call__.remote(lambda _: os.getpid()), signal.SIGKILL)
        await asyncio.sleep(0.5)
        after = await sessions[0].execute("'x' in globals()")
        assert "the namespace is lost" in after.text or "fresh namespace" in after.text
        assert (await sessions[0].execute("'x' in globals()")).text.endswith("False")
        assert (await sessions[1].execute("x")).text == "1"
