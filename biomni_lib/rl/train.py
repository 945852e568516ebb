"""The RL loop: rollouts in one process, the learner in this one, weights from here to there after every step.

A learner of several ranks (`placement.learner_ranks`) has a process for each; this one then only talks to them.

    get a batch -> learner.step -> publish weights -> (checkpoint) -> again

While the learner works, the rollout process goes on generating as far as the staleness bound allows; with
max_staleness = 0 the same loop is the synchronous run. A run that is started again in the same folder continues at
its last checkpoint.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from biomni_lib.agent.ledger import save_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.engines.local import takes_adapters
from biomni_lib.provenance import atomic_path, file_sha256
from biomni_lib.rl.agent_world import agent_world
from biomni_lib.rl.checkpoints import identity, last_checkpoint, restore_checkpoint, save_checkpoint
from biomni_lib.rl.learner import Learner
from biomni_lib.rl.learner_ranks import LearnerSpec, open_learner
from biomni_lib.rl.parity import check_probe, is_due, require_parity
from biomni_lib.rl.recipe import Recipe, check_recipe, load_recipe
from biomni_lib.rl.report import rollout_metrics, system_metrics, trajectory_rows, write_rows
from biomni_lib.rl.rollout_process import RolloutProcess
from biomni_lib.rl.scheduler import Group
from biomni_lib.rl.weights import WeightFolder
from biomni_lib.rl.worker import WorkerSpec, World
from biomni_lib.tasks import Instance, refuse_evaluation_only
from biomni_lib.tracking import Tracker, read_metrics

SHOWN = {"reward/correctness": "correct", "reward/format": "format", "response/tokens": "tokens"}

OnStep = Callable[[int, dict[str, float]], None]
OpenWorld = Callable[[WorkerSpec], AbstractAsyncContextManager[World]]


@dataclass(frozen=True)
class RLResult:
    """Where a finished run left its things.

    `model_dir`: the trained model, with its tokenizer; `trajectories`: folder of Parquet files, one a step, a row a
    trained trajectory; `ledgers`: folder of full ledgers of the first and the last step; `metrics`: one row a step.
    """

    model_dir: Path
    trajectories: Path
    ledgers: Path
    metrics: list[dict[str, Any]]
    steps: int
    seconds: float


def train_rl(
    config: RunConfig,
    instances: Sequence[Instance],
    model_dir: Path,
    out_dir: Path,
    on_step: OnStep | None = None,
    *,
    recipe: Recipe | None = None,
    world: OpenWorld = agent_world,
) -> RLResult:
    """Reinforce a model on training instances, or continue where an interrupted run stopped.

    Args:
        config: `rl` and what rollouts need.
        instances: of the training split, of one or more tasks; mixed in one seeded order.
        model_dir: the model to start from, with its tokenizer.
        out_dir: takes checkpoints, metrics, trajectories and the trained model.
        on_step: called after each step with its number (from 0) and its metrics.
        recipe: the objective; None takes the one that `config.rl.recipe` names.
        world: what rollouts happen in; a module-level function.
    Raises: ConfigError for an asynchronous run without correction; DataError for an instance of a benchmark; RunError
        when the rollout process or a rank of the learner dies; TrainingError when training cannot go on.
    """
    refuse_evaluation_only((instance.id for instance in instances), "train_rl")
    recipe = recipe or load_recipe(config.rl.recipe)
    check_recipe(recipe, config.rl.max_staleness)
    with ExitStack() as stack:
        run = _Run(config, recipe, list(instances), model_dir, out_dir, world, stack)
        for step in run.progress():
            metrics = run.step(step)
            if on_step is not None:
                on_step(step, metrics)
        run.tracker.close()
        return run.finish()


class _Run:
    """The open things of a run, closed by the stack in reverse order."""

    def __init__(
        self,
        config: RunConfig,
        recipe: Recipe,
        instances: list[Instance],
        model_dir: Path,
        out_dir: Path,
        world: OpenWorld,
        stack: ExitStack,
    ) -> None:
        self.config, self.model_dir, self.out_dir = config, model_dir, out_dir
        threads = torch.get_num_threads()
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(config.rl.threads)
        self.learner = stack.enter_context(open_learner(LearnerSpec(config, recipe, model_dir), out_dir))
        self.identity = identity(config, recipe, _weights_sha256(model_dir))
        self.seconds_before, scheduler_state = self._resume()
        self.first_step, self.started = self.learner.version, time.perf_counter()
        self.tracker = stack.enter_context(Tracker(out_dir, "rl", config, resume_step=self.first_step))
        self.folder = WeightFolder(self.learner.run(Learner.weight_bytes), out_dir)
        stack.callback(self.folder.close)
        spec = WorkerSpec(
            config=config,
            instances=instances,
            model_dir=model_dir,
            world=world,
            version=self.learner.version,
            weights=self._publish(),
            refill_max=round((recipe.refill_cap or 0.0) * config.rl.groups_per_step),
            format_weight=recipe.format_weight,
            scheduler_state=scheduler_state,
        )
        self.rollouts = stack.enter_context(RolloutProcess(spec, out_dir / "rollouts.log"))
        self._pass_gate()
        self.report_before: dict[str, float] | None = None
        self.bar: Any = None

    def progress(self) -> Any:
        """The steps still to do, behind a progress line where there is a terminal."""
        steps = range(self.first_step, self.config.rl.steps)
        self.bar = tqdm(steps, desc="rl", unit="step", smoothing=0.2, disable=None)
        return self.bar

    def step(self, step: int) -> dict[str, float]:
        """One batch: wait, learn, publish, record."""
        began = time.perf_counter()
        groups, report = self.rollouts.next_batch(self.learner.version)
        wait_s = time.perf_counter() - began
        learned = self.learner.run(Learner.step, groups)
        self._check_parity(learned)
        goes_on = step + 1 < self.config.rl.steps
        gated = goes_on and is_due(step + 1 - self.first_step)
        if goes_on:
            self.rollouts.push_weights(step + 1, self._publish(), probed=gated)
        learn_s = time.perf_counter() - began - wait_s
        if gated:
            self._pass_gate()
        rows = trajectory_rows(groups, step)
        self._write_trajectories(step, groups, rows)
        metrics = rollout_metrics(rows) | learned | {"time/learn": learn_s}
        metrics |= system_metrics(
            report,
            self.report_before,
            step_s=time.perf_counter() - began,
            wait_s=wait_s,
            weight_sync_s=self.rollouts.weight_sync_s,
        )
        self.report_before = report
        self.tracker.log(step, metrics)
        self._checkpoint(step + 1)  # last: a step that a checkpoint counts has its rows and its metrics
        self.bar.set_postfix({short: f"{metrics[name]:.2f}" for name, short in SHOWN.items()})
        return metrics

    def finish(self) -> RLResult:
        """Write the trained model beside a copy of the tokenizer's files."""
        target = self.out_dir / "model"
        with atomic_path(target) as temporary:
            shutil.copytree(self.model_dir, temporary, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
            self.learner.run(Learner.save_model, temporary)
        return RLResult(
            model_dir=target,
            trajectories=self.out_dir / "trajectories",
            ledgers=self.out_dir / "ledgers",
            metrics=read_metrics(self.tracker.jsonl),
            steps=self.learner.version,
            seconds=self._seconds(),
        )

    def _resume(self) -> tuple[float, dict[str, Any] | None]:
        checkpoint = last_checkpoint(self.out_dir / "checkpoints")
        if checkpoint is None:
            return 0.0, None
        state = restore_checkpoint(checkpoint, self.learner, self.identity)
        return float(state["seconds"]), dict(state["scheduler"])

    def _write_trajectories(self, step: int, groups: Sequence[Group], rows: list[dict[str, Any]]) -> None:
        write_rows(self.out_dir / "trajectories" / f"step-{step:05d}.parquet", rows)
        if step == 0 or step + 1 == self.config.rl.steps:
            ledgers = [t for group in groups for t in group.trajectories]
            save_trajectories(self.out_dir / "ledgers" / f"step-{step:05d}.parquet", ledgers)

    def _checkpoint(self, done: int) -> None:
        if done % self.config.rl.checkpoint_every == 0 or done == self.config.rl.steps:
            save_checkpoint(
                self.out_dir / "checkpoints",
                self.learner,
                scheduler=self.rollouts.scheduler_state(),
                seconds=self._seconds(),
                identity=self.identity,
            )

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _check_parity(self, metrics: dict[str, float]) -> None:
        """Engine and learner must agree on what the weights in training sampled, or every update is wrong."""
        difference = metrics.get("policy/fresh_abs_diff_max", 0.0)
        require_parity(difference, "on fresh samples", self.config.engine.parity_max)

    def _pass_gate(self) -> None:
        """The same on a probe, of which the engine samples some whether or not a batch has fresh samples."""
        probe = self.rollouts.take_probe()
        if probe:
            self.learner.run(check_probe, probe, self.learner.version, self.config.engine.parity_max)

    def _publish(self) -> Path:
        """The learner's weights, or its adapter alone for an engine that takes adapters."""
        return self.learner.run(Learner.publish, self.folder.path, takes_adapters(self.config))


def _weights_sha256(model_dir: Path) -> str:
    """One sha256 over the folder's weight files, by name and content."""
    files = sorted(model_dir.glob("*.safetensors"))
    return hashlib.sha256("".join(f"{file.name} {file_sha256(file)}\n" for file in files).encode()).hexdigest()
