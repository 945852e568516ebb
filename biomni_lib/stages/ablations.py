"""What each part of the recipe is worth: the preset's RL run again, shorter, each time with one thing changed.

All runs share the seed, the order of instances, the sizes and, but for one, the fine-tuned model to start from; as many
agents are under way as the staleness bound lets be useful. Each trained model then answers the same development
instances; the held-out ones stay closed. One seed: a difference within the intervals is none.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from biomni_lib import figures
from biomni_lib.analysis import score_table
from biomni_lib.config import RunConfig, recipe_file
from biomni_lib.evaluate import evaluate
from biomni_lib.provenance import file_sha256, manifest_path
from biomni_lib.rl.agent_world import agent_world
from biomni_lib.rl.coupled_world import coupled_world
from biomni_lib.rl.train import OpenWorld, RLResult, train_rl
from biomni_lib.sandbox import start_environment
from biomni_lib.stages.build_data import first_of_each, load_instances
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.evaluate import OpenModel
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import publish_ablations, published_ablations
from biomni_lib.stages.rl import EDGE_STEPS
from biomni_lib.stages.runner import run_notebooks
from biomni_lib.stages.stage import StageRun, key_of
from biomni_lib.tasks import Instance

STAGE = "ablations"
CURVES = ("reward/correctness", "reward/format", "response/tokens")
SPEED = {
    "staleness": "async/staleness_mean",
    "mismatch_kl": "policy/mismatch_kl",
    "engine_idle": "perf/engine_idle_fraction",
    "tokens_per_s": "perf/tokens_per_s",
    "step_s": "time/step",
}
"""Columns of the table that are means over a run's steps, the first left out, which fills the pipeline."""


@dataclass(frozen=True)
class Ablation:
    """One run: what is changed, in words, and how."""

    changed: str
    rl: Mapping[str, Any] = field(default_factory=dict)
    from_base: bool = False
    world: OpenWorld = agent_world


ABLATIONS: Mapping[str, Ablation] = {
    "default": Ablation("Nothing: staleness up to 1, corrected"),
    "no_sft": Ablation("No SFT before", from_base=True),
    "correctness_only": Ablation("No reward for format", {"recipe": "correctness-only"}),
    "coupled": Ablation("Environment coupled to inference", world=coupled_world),
    "staleness_0": Ablation("Staleness 0: synchronous", {"max_staleness": 0}),
    "staleness_4": Ablation("Staleness up to 4", {"max_staleness": 4}),
    "uncorrected_1": Ablation("Staleness up to 1, no correction", {"recipe": "uncorrected"}),
    "uncorrected_4": Ablation("Staleness up to 4, no correction", {"recipe": "uncorrected", "max_staleness": 4}),
}


def run(config: RunConfig) -> pd.DataFrame:
    """Train and examine what is not done, publish the tables, and bring notebook 03 up to date with them.

    Returns: the table of `summary_table`.
    Raises: RunError of a stage that failed; a later call goes on at the run's last checkpoint.
    """
    run_notebooks(config, last="sft")
    stage, steps, rows = StageRun(config, STAGE), [], []
    for name, ablation in ABLATIONS.items():
        print(f"ablation {name}: {ablation.changed}", flush=True)
        trained, answered = _train_and_examine(stage, name, ablation)
        steps.append(pd.DataFrame(trained.metrics).assign(ablation=name))
        rows.append(answered)
    columns = ["ablation", "step", *CURVES, *SPEED.values()]  # where nothing was learned a metric may be absent
    curves = pd.concat(steps, ignore_index=True).reindex(columns=columns)
    table = summary_table(pd.concat(rows, ignore_index=True), curves, draws=config.evaluate.bootstrap, seed=config.seed)
    publish_ablations(config, table, curves)
    print(table.drop(columns="changed").round(3).to_string(index=False))
    manifest_path(config, "rl").unlink(missing_ok=True)
    run_notebooks(config, last="rl")
    return table


def summary_table(rows: pd.DataFrame, curves: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """What came of each run.

    Args:
        rows: answers to the development instances, `model` being the ablation. curves: metrics by ablation and step.
        draws, seed: of the bootstrap.
    Returns: ablation, changed, score, ci_low, ci_high, format, tokens, n; correctness_first and correctness_last of the
        training trajectories, means over the first and the last steps; the columns of `SPEED`.
    """
    scores = score_table(rows, draws=draws, seed=seed).query("task == 'all'").set_index("model")
    table = scores[["score", "ci_low", "ci_high", "format", "mean_tokens", "n"]].rename(
        columns={"mean_tokens": "tokens"}
    )
    correct = curves.groupby("ablation")["reward/correctness"]
    table["correctness_first"] = correct.apply(lambda steps: steps.head(EDGE_STEPS).mean())
    table["correctness_last"] = correct.apply(lambda steps: steps.tail(EDGE_STEPS).mean())
    settled = curves[curves["step"] > 0].groupby("ablation")
    for column, metric in SPEED.items():
        table[column] = settled[metric].mean()
    changed = [ABLATIONS[name].changed for name in table.index]
    return table.rename_axis("ablation").reset_index().assign(changed=changed)


def shown(config: RunConfig) -> pd.DataFrame | None:
    """The published table for these settings, for a reader; None where none was published."""
    found = published_ablations(config)
    return None if found is None else found[0].set_index("changed").drop(columns="ablation").round(3)


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Save the figures of the published tables, by name; none where nothing was published for these settings."""
    found = published_ablations(config)
    if found is None:
        return {}
    table, curves = found
    named = curves.assign(changed=curves["ablation"].map({n: a.changed for n, a in ABLATIONS.items()}))
    title = "Mean score on development patients after a short RL run in which one thing was changed"
    made = [
        Drawing.make("ablation-scores", figures.ablation_scores, table, title),
        Drawing.make("ablation-curves", figures.ablation_curves, named, "Correctness of the trajectories trained on"),
    ]
    return save_drawings(made, paths(config).figures)


def ablated(config: RunConfig, ablation: Ablation) -> RunConfig:
    """The settings of one run. Raises: ValidationError for a change that is not allowed."""
    sizes = config.ablations
    rl = config.rl.model_dump() | {"steps": sizes.steps, "groups_per_step": sizes.groups_per_step} | dict(ablation.rl)
    agents = (rl["max_staleness"] + 1) * rl["groups_per_step"] * rl["group_size"]
    sandbox = config.sandbox.model_dump() | {"sessions_max": max(config.sandbox.sessions_max, agents)}
    return RunConfig.model_validate(config.model_dump() | {"rl": rl | {"agents": agents}, "sandbox": sandbox})


def _train_and_examine(stage: StageRun, name: str, ablation: Ablation) -> tuple[RLResult, pd.DataFrame]:
    """One run, in a folder named after all that decides it, so that a run of other settings is left alone."""
    config, start = stage.config, stage.paths.base if ablation.from_base else stage.paths.sft_model
    changed = ablated(config, ablation)
    key = key_of(changed, "seed", "data", "prompt", "agent", "rl", files=[start, recipe_file(changed.rl.recipe)])
    folder = stage.paths.ablations / f"{name}-{key[:8]}"

    def report(step: int, metrics: dict[str, float]) -> None:
        left = (changed.rl.steps - step - 1) * metrics["time/step"]
        stage.say(f"ablation {name}: step {step + 1} of {changed.rl.steps}, {left:.0f} s left")

    train, dev = (load_instances(config, split) for split in ("train", "dev"))
    result = train_rl(changed, train, start, folder, report, world=ablation.world)
    asked = first_of_each(dev, config.ablations.instances)
    return result, asyncio.run(_examine(changed, name, result.model_dir, asked))


async def _examine(config: RunConfig, name: str, model_dir: Path, instances: Sequence[Instance]) -> pd.DataFrame:
    key = file_sha256(model_dir / "model.safetensors")
    async with await start_environment(config, config.lake_dir) as sandbox:
        opened = OpenModel(config, model_dir, sandbox)
        try:
            return await evaluate(name, opened.rollout, instances, config, model_dir.parent / "dev", key=key)
        finally:
            await opened.close()
