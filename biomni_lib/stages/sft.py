"""Stage 2: the teacher's samples, the tokenizer, the untrained and the fine-tuned model, each made once and kept."""

import dataclasses
from collections.abc import Sequence

import pandas as pd
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.agent.prompt import system_prompt
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout_seed
from biomni_lib.analysis import acceptance_intervals
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.figures import acceptance_by_strategy
from biomni_lib.provenance import Manifest, atomic_path, atomic_write
from biomni_lib.sft.model import build_model, save_model
from biomni_lib.sft.rejection import acceptance_table, sample_teacher
from biomni_lib.sft.tokenizer import train_tokenizer
from biomni_lib.sft.train import SftTrainer, to_example
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun, key_file, key_of
from biomni_lib.tasks import Instance
from biomni_lib.tracking import Tracker, read_metrics

CHUNK = 250
"""Instances that are sampled and written down together; an interrupted sampling goes on at the next chunk."""
CONCURRENCY = 16
"""Teacher's rollouts at once: enough to keep two cores busy, each rollout being a short program."""
PILOT_ROLLOUTS, PILOT_VOCAB, PILOT_PROMPTS, PILOT_MAX_TOKENS = 300, 1500, 50, 20_000
"""The conversations that the tokenizer is trained on, themselves encoded by a coarse one, which needs more tokens."""
WILSON = "95% Wilson intervals"
TEACHER_SETTINGS = ("seed", "data", "model", "prompt", "agent", "sandbox", "teacher")


def teacher_instances(config: RunConfig, train: Sequence[Instance]) -> list[Instance]:
    """The training instances that the teacher tries: the first `teacher.instances` of each task."""
    tasks = dict.fromkeys(instance.task for instance in train)
    return [i for task in tasks for i in [i for i in train if i.task == task][: config.teacher.instances]]


def rollout_settings(config: RunConfig, temperature: float = 1.0) -> RolloutSettings:
    """The run's settings of a rollout."""
    prompt = system_prompt(config.prompt.tools)
    return RolloutSettings(config.agent, prompt, config.sandbox.execute_timeout_s, temperature=temperature)


async def fit_tokenizer(
    run: StageRun, instances: Sequence[Instance], sandbox: ToolEnvironment
) -> PreTrainedTokenizerBase:
    """A tokenizer for what the agent reads and writes, from the training split alone; kept with the base model.

    It learns from the prompts and from a pilot: a few hundred conversations of the teacher, encoded by a coarse
    tokenizer that is made for them and then thrown away.
    """
    if run.has(run.paths.base, _base_key(run)):
        return ChatRenderer.load(run.paths.base).tokenizer
    run.say("sft: a pilot of the teacher, for the tokenizer")
    prompts = [instance.prompt for instance in instances]
    coarse = ChatRenderer(train_tokenizer(prompts[:PILOT_PROMPTS], PILOT_VOCAB))
    settings = rollout_settings(run.config)
    roomy = settings.agent.model_copy(update={"max_tokens": PILOT_MAX_TOKENS})
    pilot = await sample_teacher(
        instances[:: max(1, len(instances) // PILOT_ROLLOUTS)],
        sandbox,
        coarse,
        dataclasses.replace(settings, agent=roomy),
        samples=1,
        seed=run.config.seed,
        concurrency=CONCURRENCY,
    )
    run.say("sft: training the tokenizer")
    return train_tokenizer([coarse.decode(t.token_ids) for t in pilot] + prompts, run.config.model.vocab)


def untrained_model(run: StageRun, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model before SFT, saved with its tokenizer as the folder `base`."""
    base = run.paths.base
    model = build_model(run.config.model, tokenizer, run.config.seed)
    if not run.has(base, _base_key(run)):
        with run.making(base, _base_key(run)), atomic_path(base) as temporary:
            save_model(model, tokenizer, temporary)
    return model


async def sample(
    run: StageRun, instances: Sequence[Instance], sandbox: ToolEnvironment, renderer: ChatRenderer
) -> list[Trajectory]:
    """The teacher's trajectories on every instance, graded; taken from the file where they are there already.

    Chunk after chunk, each with seeds of its own: an interrupted sampling goes on and gives the same trajectories.
    """
    target, key = run.paths.teacher, key_of(run.config, *TEACHER_SETTINGS, files=[run.paths.base])
    if run.has(target, key):
        return load_trajectories(target)
    shards = run.paths.teacher_shards / key[:16]
    with run.making(target, key):
        sampled: list[Trajectory] = []
        for number, first in enumerate(range(0, len(instances), CHUNK)):
            shard = shards / f"{number:05d}.parquet"
            if not shard.is_file():
                run.say(f"sft: the teacher has tried {first} of {len(instances)} instances")
                chunk = instances[first : first + CHUNK]
                save_trajectories(shard, await _sample_chunk(run.config, chunk, number, sandbox, renderer))
            sampled += load_trajectories(shard)
        save_trajectories(target, sampled)
    for shard in shards.iterdir():
        shard.unlink()
    return sampled


async def _sample_chunk(
    config: RunConfig, chunk: Sequence[Instance], number: int, sandbox: ToolEnvironment, renderer: ChatRenderer
) -> list[Trajectory]:
    return await sample_teacher(
        chunk,
        sandbox,
        renderer,
        rollout_settings(config),
        samples=config.teacher.samples_per_instance,
        seed=rollout_seed(config.seed, number),
        concurrency=CONCURRENCY,
    )


def save_accepted(run: StageRun, sampled: Sequence[Trajectory], accepted: Sequence[Trajectory]) -> pd.DataFrame:
    """Write the accepted trajectories and the acceptance by task and strategy; returns the latter."""
    table = acceptance_table(sampled, accepted)
    save_trajectories(run.paths.accepted, accepted)
    atomic_write(run.paths.acceptance, table.to_csv(index=False, float_format="%.6g"))
    return table


def train(
    run: StageRun, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, accepted: Sequence[Trajectory]
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Fine-tune the model on the accepted trajectories, or go on where an interrupted training stopped.

    Returns: the trained model, which is saved, and its metrics, one row a step.
    Raises: DataError without a trajectory; TrainingError when the loss is not finite.
    """
    here = run.paths
    key = key_of(run.config, "seed", "model", "sft", files=[here.base, here.accepted])
    if run.has(here.sft_model, key):
        trained = AutoModelForCausalLM.from_pretrained(here.sft_model)
        return trained, pd.DataFrame(read_metrics(here.sft_metrics))
    _start_checkpoint(run, key)
    trainer = SftTrainer(model, [to_example(t) for t in accepted], run.config, here.sft_checkpoint)
    with (
        run.making(here.sft_model, key),
        Tracker(here.sft, "sft", run.config, resume_step=trainer.step_number + 1) as tracker,
    ):

        def on_step(metrics: dict[str, float]) -> None:
            step, left = int(metrics["step"]), metrics["seconds_left"]
            tracker.log(step, {name: metrics[name] for name in metrics if name not in ("step", "seconds_left")})
            run.say(f"sft: step {step} of {len(trainer.batches)}, loss {metrics['sft/loss']:.3f}, {left:.0f} s left")

        trainer.train(on_step)
        with atomic_path(here.sft_model) as temporary:
            save_model(model, tokenizer, temporary)
    here.sft_checkpoint.unlink(missing_ok=True)
    key_file(here.sft_checkpoint).unlink(missing_ok=True)
    return model, pd.DataFrame(read_metrics(here.sft_metrics))


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Save the stage's figure from its table; by name. Raises: DataError when the stage has not been run."""
    source = paths(config).acceptance
    if not source.is_file():
        raise DataError(f"{source} is missing; run notebook 02_rejection_sampled_sft")
    table = acceptance_intervals(pd.read_csv(source))
    title = "Share of the teacher's trajectories that are correct and well-formed"
    drawing = Drawing.make("acceptance-by-strategy", acceptance_by_strategy, table, title, interval=WILSON)
    return save_drawings([drawing], paths(config).figures)


def finish(run: StageRun, metrics: pd.DataFrame, results: dict[str, float]) -> Manifest:
    """Record the stage: from the training instances to the two models, with its headline numbers."""
    here = run.paths
    parts = [here.teacher, here.accepted, here.acceptance, here.base, here.sft_model, here.sft_metrics]
    loss = float(metrics["sft/loss"].tail(10).mean())
    return run.finish(inputs=[here.instances("train")], outputs=parts, results={"loss": loss, **results})


def _base_key(run: StageRun) -> str:
    return key_of(run.config, *TEACHER_SETTINGS, files=[run.paths.instances("train")])


def _start_checkpoint(run: StageRun, key: str) -> None:
    """Drop a checkpoint of another training, so that none is continued by mistake."""
    checkpoint = run.paths.sft_checkpoint
    mark = key_file(checkpoint)
    if not mark.is_file() or mark.read_text() != key:
        checkpoint.unlink(missing_ok=True)
        atomic_write(mark, key)
