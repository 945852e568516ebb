import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig, load_config
from biomni_lib.lake import Lake
from biomni_lib.sandbox import Sandbox
from biomni_lib.sft import train as sft_train
from biomni_lib.sft.model import save_model
from biomni_lib.sft.pretraining import copy_documents
from biomni_lib.sft.rejection import accept
from biomni_lib.sft.train import to_example
from biomni_lib.stages import build_data, sft
from biomni_lib.stages.stage import StageRun
from biomni_lib.tasks import Instance
from tests.acting_toy import MODEL, model, tokenizer

SMALL = {"data": {"train_instances": 12, "dev_instances": 2, "heldout_instances": 2}, "evaluate": {"instances": 2}}
TEACHER = {"teacher": {"instances": 10, "samples_per_instance": 2}, "sft": {"batch_size": 4, "warmup_steps": 1}}
COLUMNS = ("token_ids", "loss_mask")


@pytest.fixture(scope="module")
def config(lake_dir: Path, lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A very small run whose data are built."""
    config = load_config("smoke", runs_root=tmp_path_factory.mktemp("stages"), **SMALL, **TEACHER)
    shutil.copytree(lake_dir, config.lake_dir)
    build_data.save_instances(config, build_data.open_tasks(config, lake))
    return config


@pytest.fixture
def instances(config: RunConfig) -> list[Instance]:
    return sft.teacher_instances(config, build_data.load_instances(config, "train"))


@pytest.fixture
async def sampled(
    config: RunConfig, instances: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> tuple[StageRun, ChatRenderer, list[Trajectory]]:
    """A run up to its sampled trajectories; later tests take up what the first has made."""
    monkeypatch.setattr(sft, "CHUNK", 16)
    run = StageRun(config, "sft")
    async with await Sandbox.start(config.sandbox, config.lake_dir) as sandbox:
        renderer = ChatRenderer(await sft.fit_tokenizer(run, instances, sandbox))
        sft.untrained_model(run, renderer.tokenizer)
        return run, renderer, await sft.sample(run, instances, sandbox, renderer)


def alike(one: Sequence[Trajectory], other: Sequence[Trajectory]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a.answer == b.answer and a.token_ids.tolist() == b.token_ids.tolist() for a, b in pairs)


def test_the_teacher_tries_the_first_instances_of_each_task(config: RunConfig, instances: list[Instance]) -> None:
    tasks = [instance.task for instance in instances]
    assert {task: tasks.count(task) for task in set(tasks)} == dict.fromkeys(set(tasks), config.teacher.instances)


async def test_sampling_is_kept_and_goes_on_after_an_interruption(
    sampled: tuple[StageRun, ChatRenderer, list[Trajectory]],
    instances: list[Instance],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, renderer, whole = sampled
    assert len(whole) == len(instances) * run.config.teacher.samples_per_instance
    kept = await sft.sample(run, instances, _no_sandbox(), renderer)
    assert alike(kept, whole)

    run.paths.teacher.unlink()
    original, calls = sft._sample_chunk, []

    async def second_chunk_fails(*arguments: Any) -> list[Trajectory]:
        calls.append(arguments[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return await original(*arguments)

    async with await Sandbox.start(run.config.sandbox, run.config.lake_dir) as sandbox:
        monkeypatch.setattr(sft, "_sample_chunk", second_chunk_fails)
        with pytest.raises(KeyboardInterrupt):
            await sft.sample(run, instances, sandbox, renderer)
        assert not run.paths.teacher.exists()
        resumed = await sft.sample(run, instances, sandbox, renderer)
    assert calls == [0, 1, 1, 2]  # the first chunk was not sampled again
    assert alike(resumed, whole)


async def test_training_goes_on_at_its_checkpoint(
    sampled: tuple[StageRun, ChatRenderer, list[Trajectory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, renderer, trajectories = sampled
    accepted = accept(trajectories, cap=run.config.teacher.cap_per_instance)
    examples = [to_example(trajectory) for trajectory in accepted]
    start = sft.untrained_model(run, renderer.tokenizer)
    monkeypatch.setattr(sft_train, "CHECKPOINT_EVERY", 1)
    target, cut = run.paths.sft_model, run.paths.sft / "cut"
    whole, metrics = sft.fit(run, copy.deepcopy(start), renderer.tokenizer, examples, target)
    assert len(metrics) > 2

    step = sft_train.SftTrainer.step

    def second_step_fails(trainer: sft_train.SftTrainer) -> dict[str, float]:
        if trainer.step_number == 2:
            raise KeyboardInterrupt
        return step(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sft_train.SftTrainer, "step", second_step_fails)
        sft.fit(run, copy.deepcopy(start), renderer.tokenizer, examples, cut)
    assert not cut.exists()
    resumed, resumed_metrics = sft.fit(run, copy.deepcopy(start), renderer.tokenizer, examples, cut)
    assert resumed_metrics["step"].tolist() == metrics["step"].tolist()
    assert _same_weights(resumed, whole)

    kept, kept_metrics = sft.fit(run, copy.deepcopy(start), renderer.tokenizer, examples, target)
    assert _same_weights(kept, whole) and kept_metrics.equals(metrics)
    other, other_metrics = sft.fit(run, copy.deepcopy(start), renderer.tokenizer, examples[:-1], target)
    assert not _same_weights(other, whole)  # other examples: trained anew, from the start
    assert other_metrics["step"].iloc[0] == 1


async def test_a_pretrained_model_brings_its_tokenizer_is_not_taught_copying_and_gets_an_adapter(
    config: RunConfig, instances: list[Instance], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    save_model(model(sizes=MODEL.model_copy(update={"context": 2048})), tokenizer(), source)
    pretrained = {"model": {"kind": "pretrained", "path": source, "context": 2048}, "agent": {"max_tokens": 2048}}
    adapted = {"lora_rank": 4, "optimizer": "adamw", "micro_batch_tokens": 2048, "batch_size": 2}
    sizes = {**SMALL, **TEACHER, "sft": adapted}
    own = load_config("smoke", runs_root=tmp_path / "runs", **sizes, **pretrained)
    shutil.copytree(config.run_dir / "data", own.run_dir / "data")
    run = StageRun(own, "sft")
    async with await Sandbox.start(own.sandbox, config.lake_dir) as sandbox:
        taken = await sft.fit_tokenizer(run, instances, sandbox)
        start = sft.untrained_model(run, taken)
        renderer = ChatRenderer(taken)
        accepted = accept(await sft.sample(run, instances, sandbox, renderer), cap=1)
    assert taken.get_vocab() == tokenizer().get_vocab()
    assert (run.paths.base / "model.safetensors").resolve() == source / "model.safetensors"

    documents = copy_documents(instances, renderer, count=2, seed=own.seed)
    kept, copying = sft.learn_to_copy(run, start, taken, documents)
    assert kept is start and copying.empty
    before = copy.deepcopy(start).state_dict()
    assert _same_weights(AutoModelForCausalLM.from_pretrained(run.paths.pretrained), start)

    _, metrics = sft.fit(run, kept, taken, [to_example(trajectory) for trajectory in accepted], run.paths.sft_model)
    assert len(metrics) > 2
    trained = AutoModelForCausalLM.from_pretrained(run.paths.sft_model).state_dict()
    assert trained.keys() == before.keys()
    changed = {name for name, weights in trained.items() if not torch.equal(weights, before[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}


def _same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _no_sandbox() -> Any:
    """What is kept must be read, not sampled: anything else fails on this."""
    return None
