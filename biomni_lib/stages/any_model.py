"""Any model on any task and split: a model of the run, a model folder, or a model behind an endpoint.

All are asked the same questions under the same seeds, within the preset's limits of turns and tokens, and are compared
with each other on them. What is there is read and not asked again, what was stopped goes on.

A benchmark (`eval1`, `lab-bench`) is opened for evaluation alone, and only when the audit showed the run's training
data to be apart from it; what a model from elsewhere was trained on is not known here.
"""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from biomni_lib import evaluate
from biomni_lib.analysis import compare_models, evaluation_table, tasks_against_models
from biomni_lib.config import RunConfig
from biomni_lib.engines.api_clients import KEYS, Provider
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.provenance import atomic_write, code_hash, run_lock
from biomni_lib.rl.export import export_model
from biomni_lib.sandbox import Environment, start_environment
from biomni_lib.stages.audit import open_benchmark
from biomni_lib.stages.build_data import first_of_each, load_instances, open_lake
from biomni_lib.stages.endpoint import evaluate_endpoint
from biomni_lib.stages.evaluate import SETTINGS, OpenModel
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import key_of
from biomni_lib.stages.viewer import faults
from biomni_lib.tasks import Instance, get_task, task_names
from biomni_lib.tasks.leaks import BENCHMARKS
from biomni_lib.tasks.splits import SPLITS

TRAINING = ("sft", "rl")
"""Stages that make the run's models."""
NEEDED = {"weights (*.safetensors)": "*.safetensors", "a tokenizer (tokenizer.json)": "tokenizer.json"}
"""What a model's folder must have beside its config.json, and the files that are it."""
CHECKPOINT = re.compile(r"rl@(\d+)")
"""Names the model after so many steps of RL."""
CODE_LETTERS = 12


@dataclass(frozen=True)
class Model:
    """A model to evaluate: `folder` of its weights and tokenizer, or `provider` and `model` of an endpoint.

    `own`: whether this run trained it. `name` is what tables call it. `weights` are those of a checkpoint, which are
    put into `folder` before it is asked.
    """

    name: str
    folder: Path | None = None
    weights: Path | None = None
    provider: Provider | None = None
    model: str = ""
    own: bool = False


@dataclass(frozen=True)
class Evaluated:
    """What was found: rows of every model, `evaluation_table`, `compare_models` of every pair (None for one model),
    `tasks_against_models` with the article's numbers, the folder, and what a reader should know, a sentence each."""

    rows: pd.DataFrame
    scores: pd.DataFrame
    differences: pd.DataFrame | None
    against_article: pd.DataFrame
    folder: Path
    notes: list[str]


def run(config: RunConfig, models: Sequence[str], *, split: str = "heldout", tasks: Sequence[str] = ()) -> Evaluated:
    """Evaluate models on the first `evaluate.instances` questions of each task, `evaluate.samples` times each.

    Args:
        models: each a model of the run (base, pretrained, sft, sft_best, rl; rl@STEP for a checkpoint that is kept), a
            model's folder, `openai:MODEL` or `anthropic:MODEL`; NAME= before any of them renames it.
        split: train, dev, heldout, eval1 or lab-bench. tasks: some of the split's; those of the run when none is named.
    Returns: what was found; the same is in the folder, with Parquet files of rows and trajectories.
    Raises: ConfigError for an unknown split or task or two models of one name; DataError for a model that is not there
        or without questions; RunError for a folder in use or of another preset, and for a benchmark not audited.
    """
    asked = [read_model(config, text) for text in models]
    if not asked:
        raise ConfigError("no model to evaluate; name one, such as rl, a model's folder, or openai:MODEL")
    if twice := [name for name, count in Counter(model.name for model in asked).items() if count > 1]:
        *_, last = (text for text, model in zip(models, asked, strict=True) if model.name == twice[0])
        raise ConfigError(f"two models are called {twice[0]}; rename one: OTHER={last.rpartition('=')[2]}")
    notes = faults(config, TRAINING) if any(model.own for model in asked) else []
    instances = choose(config, split, tasks)
    folder = paths(config).models / _selection(config, split, tasks)
    with run_lock(config.run_dir):
        rows = asyncio.run(_evaluate(config, asked, instances, folder))
    notes += _notes(asked, split, instances, folder)
    return _tables(config, rows, [model.name for model in asked], folder, notes)


def read_model(config: RunConfig, text: str) -> Model:
    """The model that a word of the command line names. Raises: DataError when there is none."""
    name, _, what = text.rpartition("=")
    provider, _, model = what.partition(":")
    if provider in KEYS and model:
        return Model(name or f"{provider}-{model.replace('/', '-')}", provider=provider, model=model)
    if step := CHECKPOINT.fullmatch(what):
        return _checkpoint(config, int(step[1]), name or what)
    here = paths(config)
    own = {
        "base": here.base,
        "pretrained": here.pretrained,
        "sft": here.sft_model,
        "sft_best": here.sft_best,
        "rl": here.rl_model,
    }
    folder = own.get(what, Path(what))
    if (folder / "config.json").is_file():
        if lacking := [kind for kind, pattern in NEEDED.items() if not any(folder.glob(pattern))]:
            raise DataError(f"{folder}: a model's folder without {' and '.join(lacking)}; give one with both")
        return Model(name or (what if what in own else folder.resolve().name), folder=folder, own=what in own)
    if what in own:
        raise DataError(f"{folder}: no model {what}; run `make reproduce PRESET={config.preset}`")
    raise DataError(
        f"model {what!r}: is no model of a run ({', '.join(own)}, rl@STEP), no model's folder (with a config.json) "
        f"and no endpoint's ({', '.join(f'{provider}:MODEL' for provider in KEYS)})"
    )


def _checkpoint(config: RunConfig, step: int, name: str) -> Model:
    """The model after so many steps of RL. Raises: DataError when that checkpoint is not kept."""
    here = paths(config)
    kept = {int(folder.name.removeprefix("step-")): folder for folder in (here.rl / "checkpoints").glob("step-*")}
    if step not in kept:
        there = ", ".join(f"rl@{number}" for number in sorted(kept)) or "none"
        raise DataError(
            f"rl@{step}: {here.rl / 'checkpoints'} has no such checkpoint (there: {there}); RL writes one every "
            "rl.checkpoint_every steps and keeps the last few"
        )
    weights = kept[step] / "model.safetensors"
    return Model(name, folder=here.models / f"rl@{step}", weights=weights, own=True)


def choose(config: RunConfig, split: str, tasks: Sequence[str] = ()) -> list[Instance]:
    """The first `evaluate.instances` instances of each task of a split or benchmark.

    The run's saved instances where it has them, else those that its settings draw.
    Raises: ConfigError for an unknown split or task; DataError when data are not there or nothing is left.
    """
    if split in BENCHMARKS:
        found = open_benchmark(config, split)
    elif split in SPLITS:
        found = _drawn(config, split, tasks or config.data.tasks)
    else:
        raise ConfigError(f"split = {split!r}: unknown split; allowed: {', '.join((*SPLITS, *BENCHMARKS))}")
    there = dict.fromkeys(instance.task for instance in found)
    if unknown := [task for task in tasks if task not in there]:
        raise ConfigError(f"task = {unknown[0]!r}: {split} has no question of it; there are: {', '.join(there)}")
    chosen = [instance for instance in found if not tasks or instance.task in tasks]
    return first_of_each(chosen, config.evaluate.instances)


def _drawn(config: RunConfig, split: str, tasks: Sequence[str]) -> list[Instance]:
    if unknown := [task for task in tasks if task not in task_names()]:
        raise ConfigError(f"task = {unknown[0]!r}: unknown task; allowed: {', '.join(task_names())}")
    saved = load_instances(config, split) if paths(config).instances(split).is_file() else []
    there = {instance.task for instance in saved}
    lacking = [task for task in tasks if task not in there]
    if not lacking:
        return saved
    lake = open_lake(config)
    return saved + [one for name in lacking for one in get_task(name, lake, config.data, config.seed).instances(split)]


def _selection(config: RunConfig, split: str, tasks: Sequence[str]) -> str:
    """The folder of a choice of questions; another choice lies in another."""
    return "-".join([split, *sorted(tasks), f"{config.evaluate.instances}x{config.evaluate.samples}"])


async def _evaluate(
    config: RunConfig, models: Sequence[Model], instances: Sequence[Instance], folder: Path
) -> pd.DataFrame:
    found = []
    async with await start_environment(config, config.lake_dir) as sandbox:
        for model in models:
            found.append(await _evaluate_one(config, model, instances, sandbox, folder))
    return pd.concat(found, ignore_index=True)


async def _evaluate_one(
    config: RunConfig, model: Model, instances: Sequence[Instance], sandbox: Environment, folder: Path
) -> pd.DataFrame:
    if model.provider is not None:
        return await evaluate_endpoint(config, model.name, model.provider, model.model, instances, sandbox, folder)
    assert model.folder is not None
    if model.weights is not None:
        card = f"A checkpoint of RL, preset {config.preset}, seed {config.seed}: for evaluation.\n"
        sft, temperature = paths(config).sft_model, config.evaluate.temperature
        export_model(model.weights, sft, model.folder, card=card, temperature=temperature)
    opened = OpenModel(config, model.folder, sandbox)
    try:
        key = key_of(config, *SETTINGS, files=[model.folder])
        return await evaluate.evaluate(model.name, opened.rollout, instances, config, folder, key=key)
    finally:
        await opened.close()


def _notes(models: Sequence[Model], split: str, instances: Sequence[Instance], folder: Path) -> list[str]:
    notes = []
    codes = {model.name: evaluate.code_of(evaluate.rows_file(folder, model.name)) for model in models}
    if older := [name for name, code in codes.items() if code != code_hash()]:
        told = ", ".join(f"{name} by {codes[name][:CODE_LETTERS]}" for name in older)
        notes.append(
            f"Evaluated by another version of the code than {code_hash()[:CODE_LETTERS]}: {told}; delete these rows in "
            f"{folder} to evaluate again."
        )
    if split in BENCHMARKS:
        counts = Counter(instance.task for instance in instances)
        notes.append(f"{split}: {', '.join(f'{task} {count}' for task, count in counts.items())} questions were asked.")
        if strangers := [model.name for model in models if not model.own]:
            notes.append(f"What {', '.join(strangers)} was trained on is not known: leaks cannot be excluded.")
    return notes


def _tables(config: RunConfig, rows: pd.DataFrame, names: Sequence[str], folder: Path, notes: list[str]) -> Evaluated:
    draws, seed = config.evaluate.bootstrap, config.seed
    scores = evaluation_table(rows, draws=draws, seed=seed)
    pairs = list(itertools.combinations(names, 2))
    differences = compare_models(rows, pairs, draws=draws, seed=seed) if pairs else None
    found = Evaluated(rows, scores, differences, tasks_against_models(scores), folder, notes)
    tables = {"scores": scores, "differences": differences, "tasks-against-models": found.against_article.reset_index()}
    for name, table in tables.items():
        if table is not None:
            atomic_write(folder / f"{name}.csv", table.to_csv(index=False))
    return found
