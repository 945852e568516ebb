"""The whole recipe in miniature: lake, patients, teacher, tokenizer, fine-tuning, reinforcement, evaluation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import RolloutSettings, rollout
from biomni_lib.config import RunConfig
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.evaluate import evaluate, evaluate_baselines, trajectories_file
from biomni_lib.rl.coupled_world import coupled_world
from biomni_lib.rl.recipe import load_recipe
from biomni_lib.rl.train import train_rl
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft.model import build_model, save_model
from biomni_lib.sft.rejection import accept, acceptance_table, sample_teacher
from biomni_lib.sft.tokenizer import train_tokenizer
from biomni_lib.sft.train import SftTrainer, to_example
from biomni_lib.tasks import Instance, Task, get_task
from tests.acting_toy import reference_logprobs

SIZES = {
    "data": {"train_instances": 16, "dev_instances": 4, "heldout_instances": 4},
    "teacher": {"instances": 16},
    "sft": {"epochs": 2, "batch_size": 8},
    "evaluate": {"instances": 4},
    "rl": {"steps": 2, "groups_per_step": 2, "group_size": 2},
    "agent": {"max_turn_tokens": 160},
}


def settings(config: RunConfig, temperature: float = 1.0) -> RolloutSettings:
    prompt = system_prompts(config.prompt.tools)
    return RolloutSettings(config.agent, prompt, config.sandbox.execute_timeout_s, temperature=temperature)


async def teach(config: RunConfig, train: list[Instance]) -> tuple[ChatRenderer, list[Trajectory]]:
    """The tokenizer, and graded trajectories of the teacher."""
    tokenizer = train_tokenizer([instance.prompt for instance in train], config.model.vocab)
    renderer = ChatRenderer(tokenizer)
    async with await Sandbox.start(config.sandbox, config.lake_dir) as sandbox:
        sampled = await sample_teacher(
            train, sandbox, renderer, settings(config), samples=2, seed=config.seed, concurrency=8
        )
    return renderer, sampled


async def evaluated(config: RunConfig, model_dir: Path, instances: list[Instance], out_dir: Path, key: str):
    served = TransformersEngine.load(model_dir, slots=config.engine.slots, context=config.model.context)
    async with await Sandbox.start(config.sandbox, config.lake_dir) as sandbox:

        async def roll(instance: Instance, sample: int, seed: int) -> Trajectory:
            given = settings(config, config.evaluate.temperature)
            return await rollout(instance, served, sandbox, served.renderer, given, seed=seed, sample=sample)

        rows = await evaluate(key, roll, instances, config, out_dir, key=key, progress=lambda *_: None)
    await served.close()
    return rows


def assert_the_models_own(rolled: list[Trajectory], model: PreTrainedModel) -> None:
    """What the engine recorded in another process is what the model says of the same tokens."""
    for one in rolled:
        expected = reference_logprobs(model.eval(), one.token_ids.tolist()).numpy()
        np.testing.assert_allclose(one.logprobs[1:][one.loss_mask[1:]], expected[one.loss_mask[1:]], atol=1e-4)


@pytest.mark.timeout(300)  # half a minute on a quiet core
async def test_first_light(make_config: Callable[..., RunConfig], lake_dir: Path, lake, tmp_path: Path) -> None:
    config = make_config(**SIZES)
    config.lake_dir.parent.mkdir(parents=True)
    config.lake_dir.symlink_to(lake_dir)
    tasks: dict[str, Task] = {name: get_task(name, lake, config.data, config.seed) for name in config.data.tasks}
    train = [i for task in tasks.values() for i in task.instances("train")]
    heldout = [i for task in tasks.values() for i in task.instances("heldout")]

    renderer, sampled = await teach(config, train)
    kept = accept(sampled, cap=config.teacher.cap_per_instance)
    assert len(sampled) == 2 * len(train) and 0 < len(kept) < len(sampled)
    assert acceptance_table(sampled, kept)["kept"].sum() == len(kept)

    model = build_model(config.model, renderer.tokenizer, config.seed)
    losses: list[float] = []
    trainer = SftTrainer(model, [to_example(t) for t in kept], config, tmp_path / "checkpoint.pt")
    trainer.train(lambda metrics: losses.append(metrics["sft/loss"]))
    assert losses[-1] < losses[0]
    sft = tmp_path / "sft"
    save_model(model, renderer.tokenizer, sft)

    result = train_rl(config, train, sft, tmp_path / "rl")
    assert result.steps == 2
    assert_the_models_own(load_trajectories(result.ledgers / "step-00000.parquet"), model)
    only = train_rl(config, train, sft, tmp_path / "only", recipe=load_recipe("correctness-only"), world=coupled_world)
    assert [row["reward/total"] for row in only.metrics] == [row["reward/correctness"] for row in only.metrics]
    trained = AutoModelForCausalLM.from_pretrained(result.model_dir, dtype=torch.float32)
    assert trained.num_parameters() == model.num_parameters()

    for name, model_dir in (("sft", sft), ("rl", result.model_dir)):
        rows = await evaluated(config, model_dir, heldout, tmp_path / "evaluate", name)
        assert sorted(rows["instance_id"]) == sorted(i.id for i in heldout)
        assert rows["format"].isin([0.0, 1.0]).all() and rows["score"].isin([0.0, 1.0]).all()
        for one in load_trajectories(trajectories_file(tmp_path / "evaluate", name)):
            written = one.loss_mask
            assert written.any() and np.isfinite(one.logprobs[written]).all() and np.isnan(one.logprobs[~written]).all()
            assert (one.policy_versions[written] == 0).all()
    baselines = evaluate_baselines(tasks, heldout, config, tmp_path / "evaluate")
    assert set(baselines["task"]) == set(tasks)
