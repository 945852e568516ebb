"""Stage 2: the teacher's samples, the tokenizer, the untrained and the fine-tuned model, each made once and kept.

A pretrained model goes the same way, with two steps less: it brings its tokenizer along, and it can copy.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory, load_trajectories, save_trajectories
from biomni_lib.agent.prompt import system_prompts
from biomni_lib.agent.rollout import RolloutSettings, ToolEnvironment, rollout_seed
from biomni_lib.analysis import acceptance_intervals
from biomni_lib.config import RunConfig, SftConfig
from biomni_lib.engines.pretrained import model_source, take_model
from biomni_lib.errors import DataError
from biomni_lib.figures import acceptance_by_strategy, loss_curve
from biomni_lib.notes import note
from biomni_lib.provenance import Manifest, atomic_path, atomic_write
from biomni_lib.sft.model import build_model, save_model
from biomni_lib.sft.rejection import acceptance_table, sample_teacher
from biomni_lib.sft.teacher import BEST_STRATEGY, STRATEGIES
from biomni_lib.sft.tokenizer import train_tokenizer
from biomni_lib.sft.train import Example, SftTrainer
from biomni_lib.stages.build_data import first_of_each
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.endpoint import sample_teacher_model
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun, key_file, key_of
from biomni_lib.tasks import Instance, refuse_evaluation_only
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
    return first_of_each(train, config.teacher.instances)


def rollout_settings(config: RunConfig, temperature: float = 1.0) -> RolloutSettings:
    """The run's settings of a rollout."""
    prompt = system_prompts(config.prompt.tools, config.prompt.biomni_tools)
    return RolloutSettings(config.agent, prompt, config.sandbox.execute_timeout_s, temperature=temperature)


async def fit_tokenizer(
    run: StageRun, instances: Sequence[Instance], sandbox: ToolEnvironment
) -> PreTrainedTokenizerBase:
    """A tokenizer for what the agent reads and writes, from the training split alone; kept with the base model.

    It learns from the prompts and from a pilot: a few hundred conversations of the teacher, encoded by a coarse
    tokenizer that is made for them and then thrown away. A pretrained model's own is taken as it is: ChatML's two
    tokens are special in it, and the protocol's tags are read as text, whatever tokens they are made of.
    Raises: DataError for an instance of a benchmark; ConfigError when there is no pretrained model.
    """
    refuse_evaluation_only((instance.id for instance in instances), "fit_tokenizer")
    if run.config.model.kind == "pretrained":
        _take_base(run)
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
    """The model before SFT, saved with its tokenizer as the folder `base`.

    A pretrained one is loaded in float32, or, beside an adapter, in the numbers of the passes.
    """
    base = run.paths.base
    if run.config.model.kind == "pretrained":
        numbers = run.config.model.dtype if run.config.sft.lora_rank is not None else "float32"
        return AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, numbers))
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
    A teacher that is a model behind an endpoint is sampled by `endpoint.sample_teacher_model`.
    """
    if run.config.teacher.engine != "scripted":
        key = key_of(run.config, *TEACHER_SETTINGS, files=[run.paths.base])
        settings = rollout_settings(run.config)
        return await sample_teacher_model(run, instances, sandbox, renderer, settings, key)
    samples = run.config.teacher.samples_per_instance
    return await _sample(run, run.paths.teacher, STRATEGIES, samples, instances, sandbox, renderer)


async def sample_best(
    run: StageRun, instances: Sequence[Instance], sandbox: ToolEnvironment, renderer: ChatRenderer
) -> list[Trajectory]:
    """The same of the teacher's best strategy alone, once an instance: asked again it would do the same."""
    return await _sample(run, run.paths.teacher_best, BEST_STRATEGY, 1, instances, sandbox, renderer)


async def _sample(
    run: StageRun,
    target: Path,
    mix: Mapping[str, float],
    samples: int,
    instances: Sequence[Instance],
    sandbox: ToolEnvironment,
    renderer: ChatRenderer,
) -> list[Trajectory]:
    key = key_of(run.config, *TEACHER_SETTINGS, files=[run.paths.base])
    if run.has(target, key):
        return load_trajectories(target)
    shards = target.with_name(f"{target.stem}-shards") / key[:16]
    with run.making(target, key):
        sampled: list[Trajectory] = []
        for number, first in enumerate(range(0, len(instances), CHUNK)):
            shard = shards / f"{number:05d}.parquet"
            if not shard.is_file():
                run.say(f"sft: {target.stem} has tried {first} of {len(instances)} instances")
                chunk = instances[first : first + CHUNK]
                save_trajectories(
                    shard, await _sample_chunk(run.config, chunk, number, sandbox, renderer, mix, samples)
                )
            sampled += load_trajectories(shard)
        save_trajectories(target, sampled)
    shutil.rmtree(shards.parent)
    return sampled


async def _sample_chunk(
    config: RunConfig,
    chunk: Sequence[Instance],
    number: int,
    sandbox: ToolEnvironment,
    renderer: ChatRenderer,
    mix: Mapping[str, float],
    samples: int,
) -> list[Trajectory]:
    return await sample_teacher(
        chunk,
        sandbox,
        renderer,
        rollout_settings(config),
        samples=samples,
        seed=rollout_seed(config.seed, number),
        concurrency=CONCURRENCY,
        mix=mix,
    )


def save_accepted(run: StageRun, sampled: Sequence[Trajectory], accepted: Sequence[Trajectory]) -> pd.DataFrame:
    """Write the accepted trajectories and the acceptance by task and strategy; returns the latter."""
    table = acceptance_table(sampled, accepted)
    save_trajectories(run.paths.accepted, accepted)
    atomic_write(run.paths.acceptance, table.to_csv(index=False, float_format="%.6g"))
    return table


def learn_to_copy(
    run: StageRun, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Example]
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Train a model from scratch on copying, into the folder `pretrained`; a pretrained model is left as it is.

    Args:
        model: of `untrained_model`. documents: of `copy_documents`.
    Returns: as `fit`; of a pretrained model no row.
    """
    if run.config.model.kind == "pretrained":
        take_model(run.config.model, run.paths.pretrained)
        return model, pd.DataFrame(columns=["step", "sft/loss"], dtype=float)
    settings = run.config.pretraining.training(run.config.sft)
    return fit(run, model, tokenizer, documents, run.paths.pretrained, settings=settings)


def fit(
    run: StageRun,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    target: Path,
    *,
    settings: SftConfig | None = None,
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Train a model on examples and save it, or go on where an interrupted training stopped.

    Args:
        model: where to start. target: folder of the trained model. settings: `config.sft` when None.
    Returns: the trained model and its metrics, one row a step (columns step, sft/loss, and more).
    Raises: DataError without an example; TrainingError when the loss is not finite.
    """
    config = run.config.model_copy(update={"sft": settings or run.config.sft})
    key = _training_key(config, model, examples)
    log = run.paths.sft / "metrics" / f"{target.name}.jsonl"
    if run.has(target, key):
        return AutoModelForCausalLM.from_pretrained(target), pd.DataFrame(read_metrics(log))
    checkpoint = target.with_name(f"{target.name}-checkpoint.pt")
    _start_checkpoint(checkpoint, key)
    trainer = SftTrainer(model, examples, config, checkpoint)
    first, steps = trainer.step_number + 1, len(trainer.batches)
    with run.making(target, key), Tracker(run.paths.sft, target.name, run.config, resume_step=first) as tracker:

        def on_step(metrics: dict[str, float]) -> None:
            step, left = int(metrics.pop("step")), metrics.pop("seconds_left")
            tracker.log(step, metrics)
            run.say(f"sft: {target.name}, step {step} of {steps}, loss {metrics['sft/loss']:.3f}, {left:.0f} s left")

        trainer.train(on_step)
        model = trainer.merged()
        with atomic_path(target) as temporary:
            save_model(model, tokenizer, temporary)
    for file in (checkpoint, key_file(checkpoint)):
        file.unlink(missing_ok=True)
    return model, pd.DataFrame(read_metrics(log))


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Save the stage's figures from its tables; by name. Raises: DataError when the stage has not been run."""
    here = paths(config)
    if not here.acceptance.is_file():
        raise DataError(f"{here.acceptance} is missing; run notebook 02_rejection_sampled_sft")
    table = acceptance_intervals(pd.read_csv(here.acceptance))
    title = "Share of the teacher's trajectories that are correct and well-formed"
    drawn = [Drawing.make("acceptance-by-strategy", acceptance_by_strategy, table, title, interval=WILSON)]
    if metrics := read_metrics(here.sft_metrics):
        drawn.append(Drawing.make("sft-loss", loss_curve, pd.DataFrame(metrics), "Loss of supervised fine-tuning"))
    return save_drawings(drawn, here.figures)


def finish(run: StageRun, metrics: pd.DataFrame, results: dict[str, float]) -> Manifest:
    """Record the stage: from the training instances to the models, with its headline numbers."""
    here = run.paths
    models = [here.base, here.pretrained, here.sft_model, here.sft_best]
    outputs = [here.teacher, here.teacher_best, here.accepted, here.acceptance, *models, here.sft_metrics]
    loss = float(metrics["sft/loss"].tail(10).mean())
    if source := model_source(here.base):
        note("model", source)
    return run.finish(inputs=[here.instances("train")], outputs=outputs, results={"loss": loss, **results})


def _take_base(run: StageRun) -> None:
    """The folder `base` of a pretrained model, which is made or fetched the first time."""
    if not run.has(run.paths.base, _base_key(run)):
        run.say("sft: taking the pretrained model")
        with run.making(run.paths.base, _base_key(run)):
            take_model(run.config.model, run.paths.base)


def _base_key(run: StageRun) -> str:
    return key_of(run.config, *TEACHER_SETTINGS, files=[run.paths.instances("train")])


def _training_key(config: RunConfig, model: PreTrainedModel, examples: Sequence[Example]) -> str:
    """A hash of all that decides the outcome: settings, starting weights, examples."""
    digest = hashlib.sha256(key_of(config, "seed", "sft").encode())
    for weights in model.state_dict().values():
        digest.update(weights.contiguous().view(torch.uint8).numpy().tobytes())
    for example in examples:
        digest.update(example.ids.numpy().tobytes() + example.mask.numpy().tobytes())
    return digest.hexdigest()


def _start_checkpoint(checkpoint: Path, key: str) -> None:
    """Drop a checkpoint of another training, so that none is continued by mistake."""
    mark = key_file(checkpoint)
    if not mark.is_file() or mark.read_text() != key:
        checkpoint.unlink(missing_ok=True)
        atomic_write(mark, key)
