"""RL runs whose engine is vLLM, in its own environment: `make test-vllm`. The loop is the one of every run."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from biomni_lib.agent.ledger import load_trajectories
from biomni_lib.config import RunConfig, load_config
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.ray_engine import start_engines
from biomni_lib.engines.vllm_engine import VllmEngine
from biomni_lib.errors import EngineDiedError, EngineError, EngineLostError, TrainingError
from biomni_lib.rl.learner_ranks import LearnerSpec
from biomni_lib.rl.parity import check_probe, take_probe
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.train import train_rl
from biomni_lib.sft.model import build_model, save_model
from biomni_lib.sft.tokenizer import train_tokenizer
from biomni_lib.tasks import get_task
from tests import acting_toy
from tests.acting_toy import reference_logprobs, renderer, token_ids
from tests.ray_nodes import Nodes, process_of
from tests.rl_toy import ToyTask
from tests.vllm_toy import StaleHead, core_under, stale_world

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
HEAD_DIM = 32  # the smallest that vLLM's attention on CPU takes
SIZES = acting_toy.MODEL.model_copy(update={"head_dim": HEAD_DIM})
ENGINE = {"kind": "vllm", "slots": 4}


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_short_run(
    lora_rank: int | None, make_config: Callable[..., RunConfig], lake_dir: Path, lake, tmp_path: Path
) -> None:
    """An untrained model earns nothing, so an entropy bonus is what changes its weights."""
    rl = {"steps": 3, "groups_per_step": 2, "group_size": 2, "learning_rate": 3e-3, "max_staleness": 0}
    sizes = {
        "data": {"train_instances": 16, "dev_instances": 4, "heldout_instances": 4},
        "teacher": {"instances": 16},
        "evaluate": {"instances": 4},
        "model": {"head_dim": HEAD_DIM},
        "agent": {"max_turn_tokens": 40, "max_turns": 2},
    }
    config = make_config(rl={**rl, "lora_rank": lora_rank}, engine=ENGINE, **sizes)
    config.lake_dir.parent.mkdir(parents=True)
    config.lake_dir.symlink_to(lake_dir)
    train = get_task("rare_disease_diagnosis", lake, config.data, config.seed).instances("train")
    tokenizer = train_tokenizer([instance.prompt for instance in train], config.model.vocab)
    save_model(build_model(config.model, tokenizer, config.seed), tokenizer, tmp_path / "model")

    recipe = load_recipe("default").model_copy(update={"entropy_coefficient": 0.1})
    result = train_rl(config, train, tmp_path / "model", tmp_path / "run", recipe=recipe)

    assert [row["policy/fresh_abs_diff_max"] < 1e-3 for row in result.metrics] == [True] * 3
    assert result.metrics[-1]["perf/tokens_per_s"] > 0
    start, end = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (tmp_path / "model", result.model_dir)
    )
    first, last = (load_trajectories(result.ledgers / f"step-0000{step}.parquet") for step in (0, 2))
    assert {int(v) for one in first for v in one.policy_versions[one.loss_mask]} == {0}
    assert {int(v) for one in last for v in one.policy_versions[one.loss_mask]} == {2}

    def gap(one, model) -> float:
        said = reference_logprobs(model, one.token_ids.tolist()).numpy()
        return float(np.abs(one.logprobs[1:] - said)[one.loss_mask[1:]].max())

    assert max(gap(one, start) for one in first) < 1e-3
    assert max(gap(one, start) for one in last) > 1e-2  # the weights did change, and the engine took them
    assert max(gap(one, end) for one in last) < max(gap(one, start) for one in last)


def test_a_model_whose_heads_are_too_narrow_is_refused_before_vllm_starts(tmp_path: Path) -> None:
    save_model(acting_toy.model(), acting_toy.tokenizer(), tmp_path)
    with pytest.raises(EngineError, match=r"model\.head_dim = 8: vLLM on CPU takes 32, 64"):
        VllmEngine.load(tmp_path, slots=2, context=128)


OWNER = """
import sys
from pathlib import Path
import psutil
from biomni_lib.engines.vllm_engine import VllmEngine
if __name__ == "__main__":
    engine = VllmEngine.load(Path(sys.argv[1]), slots=2, context=128)
    print("started", *(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    sys.stdin.read()
"""


def test_vllm_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    save_model(acting_toy.model(sizes=SIZES), acting_toy.tokenizer(), tmp_path / "model")
    (tmp_path / "owner.py").write_text(OWNER)
    command = [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "model")]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        said = next((line.split() for line in owner.stdout if line.startswith("started")), ["failed"])
        children = [psutil.Process(int(pid)) for pid in said[1:]]
        owner.kill()
    assert said[0] == "started" and children
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()
    assert not alive


LONG = Sampling(1.0, 1.0, 400, (), 0)


async def test_what_waits_for_a_core_that_dies_is_told_and_so_is_who_comes_later(tmp_path: Path) -> None:
    """The core is stopped first, so that a request and a swap of weights both wait for it when it dies."""
    model = acting_toy.model(sizes=SIZES)
    save_model(model, acting_toy.tokenizer(), tmp_path)
    engine = VllmEngine.load(tmp_path, slots=2, context=SIZES.context)
    try:
        core = core_under(os.getpid())
        await engine.generate(token_ids(1, 20), Sampling(1.0, 1.0, 2, (), 0))
        core.suspend()
        request = asyncio.ensure_future(engine.generate(token_ids(1, 20), LONG))
        swap = asyncio.ensure_future(engine.load_weights(1, model.state_dict()))
        assert not (await asyncio.wait([request, swap], timeout=2))[0]
        core.kill()
        async with asyncio.timeout(30):
            told = await asyncio.gather(request, swap, return_exceptions=True)
        assert [type(error) for error in told] == [EngineDiedError] * 2
        for call in (engine.generate(token_ids(1, 20), LONG), engine.load_weights(1, model.state_dict())):
            with pytest.raises(EngineDiedError, match="process has ended by itself; .* run the same command again"):
                await call
        with pytest.raises(EngineDiedError):
            engine.stats()
    finally:
        async with asyncio.timeout(30):
            await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(token_ids(1, 20), LONG)


async def test_a_core_that_dies_in_a_living_actor_is_replaced_with_the_newest_weights(
    ray_nodes: Nodes, tmp_path: Path
) -> None:
    save_model(acting_toy.model(sizes=SIZES), acting_toy.tokenizer(), tmp_path)
    newest = acting_toy.model(7, sizes=SIZES)
    opened = functools.partial(VllmEngine.load, tmp_path, slots=2, context=SIZES.context)
    placement = {"kind": "ray", "address": ray_nodes.cluster.address}
    config = load_config("smoke", engine={**ENGINE, "slots": 2}, placement=placement)
    engines = start_engines(config, opened, renderer(), heartbeat_s=0.2)
    try:
        await engines.load_weights(3, newest.state_dict())
        (engine,) = engines.engines
        actor = psutil.Process(await process_of(engine))
        os.kill(core_under(actor.pid).pid, signal.SIGKILL)
        with pytest.raises(EngineLostError, match="engine 0 was lost"):
            while True:
                await engines.generate(token_ids(1, 20), LONG)
        reply = await engines.generate(token_ids(1, 20), LONG)
        assert set(reply.policy_versions) == {3} and engines.stats().lost == 1
        said = reference_logprobs(newest, [*token_ids(1, 20), *reply.ids])[19:].numpy()
        assert np.abs(np.array(reply.logprobs) - said).max() < 1e-3
        assert not psutil.wait_procs([actor], timeout=30)[1]
    finally:
        await engines.close()


async def test_in_bfloat16_the_gate_tells_rounding_from_a_stale_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound of the preset for a card; the largest difference of a token would stop a sound run."""
    for seed in (0, 7):
        save_model(acting_toy.model(seed, sizes=SIZES), acting_toy.tokenizer(), tmp_path / f"{seed}")
    bound = load_config("gpu-8b").engine.parity_max
    config = load_config("smoke", model={"head_dim": HEAD_DIM, "dtype": "bfloat16"}, rl={"lora_rank": 4})
    first, second = (LearnerSpec(config, load_recipe("default"), tmp_path / f"{seed}").load() for seed in (0, 7))
    engine = VllmEngine.load(tmp_path / "0", slots=4, context=SIZES.context, dtype="bfloat16")
    try:
        probe = await take_probe(engine, token_ids(1, 40), 1.0)
        assert 1e-4 < check_probe(first, probe, 0, bound) < bound
        await engine.load_weights(1, tmp_path / "7" / "model.safetensors")
        probe = await take_probe(engine, token_ids(1, 40), 1.0)
        assert 1e-4 < check_probe(second, probe, 1, bound) < bound
        monkeypatch.setattr(VllmEngine, "_take_weights", StaleHead._take_weights)
        await engine.load_weights(2, tmp_path / "0" / "model.safetensors")
        with pytest.raises(TrainingError, match=r"version 2 by [0-9.]* in log-probability"):
            check_probe(first, await take_probe(engine, token_ids(1, 40), 1.0), 2, bound)
    finally:
        await engine.close()


def test_vllms_own_reload_leaves_a_stale_head_and_the_gate_stops_the_run(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    save_model(acting_toy.model(sizes=SIZES), acting_toy.tokenizer(), tmp_path / "model")
    rl = {"steps": 2, "groups_per_step": 2, "group_size": 4, "learning_rate": 0.05}
    config = make_config(rl=rl, engine=ENGINE, model=SIZES.model_dump(), agent={"max_tokens": SIZES.context})
    with pytest.raises(TrainingError, match=r"disagree on a probe after the sync of version 1 by [0-9]"):
        train_rl(config, ToyTask().instances("train"), tmp_path / "model", tmp_path / "run", world=stale_world)
