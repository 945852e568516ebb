"""Stage 3: the RL run in its folder, and what notebook 03 shows of a trajectory and of the run."""

import shutil
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from biomni_lib import figures
from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.ledger import Trajectory
from biomni_lib.config import RunConfig, recipe_file
from biomni_lib.errors import DataError
from biomni_lib.provenance import Manifest, atomic_write, manifest_path, read_manifest
from biomni_lib.rl.checkpoints import MAY_CHANGE, last_checkpoint
from biomni_lib.rl.train import OnStep, RLResult, train_rl
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import ablation_files, published_ablations
from biomni_lib.stages.stage import StageRun, key_file, key_of
from biomni_lib.tasks import Instance
from biomni_lib.tracking import read_metrics

LIVE = {
    "reward/correctness": "correctness",
    "reward/format": "format",
    "response/tokens": "tokens",
    "response/turns": "turns",
    "async/staleness_mean": "staleness",
    "perf/engine_idle_fraction": "engine idle",
    "perf/learner_idle_fraction": "learner idle",
    "time/step": "seconds",
}
"""What is shown of each step while the run goes on."""
EDGE_STEPS = 5
"""First and last steps whose means are compared in the manifest."""


class LiveTable:
    """One row a step, shown in the notebook's cell and brought up to date after each.

    A run that is gone on with shows the steps that it has done already.
    """

    def __init__(self, config: RunConfig) -> None:
        from IPython.display import display

        self.rows = {row["step"]: row for row in read_metrics(paths(config).rl_metrics)}
        self._shown = display(self._table(), display_id=True)

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step; give this object to `train` as `on_step`."""
        self.rows[step] = {"step": step, **metrics}
        if self._shown is not None:
            self._shown.update(self._table())

    def _table(self) -> pd.DataFrame:
        table = pd.DataFrame(self.rows.values(), columns=["step", *LIVE]).set_index("step")
        return table.rename(columns=LIVE).astype(float).round(2)


def ledger_table(trajectory: Trajectory, renderer: ChatRenderer, tokens: slice) -> pd.DataFrame:
    """Some rows of a ledger, one a token.

    Args:
        tokens: which; for example `slice(turn.start, turn.end)`.
    Returns: position (index), id, token (its text), written (by the model), logprob, version (policy).
    """
    ids = trajectory.token_ids[tokens]
    return pd.DataFrame(
        {
            "id": ids,
            "token": [renderer.piece(int(i)) for i in ids],
            "written": trajectory.loss_mask[tokens],
            "logprob": trajectory.logprobs[tokens],
            "version": trajectory.policy_versions[tokens],
        },
        index=pd.Index(np.arange(len(trajectory.token_ids))[tokens], name="position"),
    )


def outcome_table(trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> pd.DataFrame:
    """A group side by side: how each trajectory ended, its reward's parts, and its advantage."""
    return pd.DataFrame(
        {
            "sample": t.sample,
            "ending": t.ending,
            "turns": len(t.turns),
            "tokens": t.response_tokens,
            "correctness": t.correctness,
            "format": t.format,
            "total": t.total,
            "advantage": round(float(advantage), 3),
        }
        for t, advantage in zip(trajectories, advantages, strict=True)
    ).set_index("sample")


def train(run: StageRun, instances: Sequence[Instance], on_step: OnStep | None = None) -> RLResult:
    """Reinforce the SFT model on the instances, or go on at the last checkpoint of the run's folder.

    Args:
        on_step: called after each step with its number and metrics.
    Raises: TrainingError when the folder holds an unfinished run with other settings or another starting model; a
        finished one makes room.
    """
    began, steps = time.perf_counter(), run.config.rl.steps

    def report(step: int, metrics: dict[str, float]) -> None:
        left = (steps - step - 1) * metrics["time/step"] / 60
        reward = f"correctness {metrics['reward/correctness']:.2f}, format {metrics['reward/format']:.2f}"
        run.say(f"rl: step {step + 1} of {steps}, {reward}, {left:.0f} min left")
        if on_step is not None:
            on_step(step, metrics)

    _make_room(run)
    run.say("rl: starting the rollout process")
    result = train_rl(run.config, instances, run.paths.sft_model, run.paths.rl, report)
    run.add_seconds("rl", result.seconds - (time.perf_counter() - began))
    return result


def _make_room(run: StageRun) -> None:
    """Clear the folder for a run that starts anew: nothing to go on from, or a finished run of something else."""
    folder, mark = run.paths.rl, key_file(run.paths.rl)
    unsettled = {"rl": run.config.rl.model_copy(update=dict.fromkeys(MAY_CHANGE))}
    sections = ("seed", "data", "prompt", "agent", "rl")
    files = [run.paths.sft_model, recipe_file(run.config.rl.recipe)]
    key = key_of(run.config.model_copy(update=unsettled), *sections, files=files)
    other = mark.is_file() and mark.read_text() != key and read_manifest(run.config, run.name) is not None
    if other or last_checkpoint(folder / "checkpoints") is None:
        shutil.rmtree(folder, ignore_errors=True)
        manifest_path(run.config, run.name).unlink(missing_ok=True)
        atomic_write(mark, key)


def metrics_table(config: RunConfig) -> pd.DataFrame:
    """The run's metrics so far, one row a step. Raises: DataError when there are none."""
    rows = read_metrics(paths(config).rl_metrics)
    if not rows:
        raise DataError(f"{paths(config).rl_metrics} has no step; run notebook 03_async_rl")
    return pd.DataFrame(rows)


def trained_rows(config: RunConfig) -> pd.DataFrame:
    """Every trajectory that was trained on, one row each. Raises: DataError when there is none."""
    files = sorted((paths(config).rl / "trajectories").glob("step-*.parquet"))
    if not files:
        raise DataError(f"{paths(config).rl}: no trained trajectory; run notebook 03_async_rl")
    return pd.concat([pq.read_table(file).to_pandas() for file in files], ignore_index=True)


def draw(config: RunConfig) -> dict[str, Drawing]:
    """Save the run's figures from its tables; by name. Raises: DataError when the stage has not been run."""
    metrics, rows = metrics_table(config), trained_rows(config)
    stale = rows.groupby("staleness", as_index=False)["tokens"].sum()
    made = [
        Drawing.make("rl-learning-curves", figures.learning_curves, metrics, "Reward of the trajectories trained on"),
        Drawing.make("rl-response-length", figures.response_length, metrics, "Length of the trajectories trained on"),
        Drawing.make("rl-staleness", figures.staleness, stale, "Staleness of the tokens trained on"),
        Drawing.make("rl-idle-time", figures.idle_time, metrics, "Time in which engine and learner had no work"),
    ]
    return save_drawings(made, paths(config).figures)


def finish(run: StageRun) -> Manifest:
    """Record the stage: from the SFT model to the reinforced one, with the rewards at both ends of the run."""
    here, metrics = run.paths, metrics_table(run.config)
    ends = {"first": metrics.head(EDGE_STEPS), "last": metrics.tail(EDGE_STEPS)}
    results = {
        f"{name}_{when}": float(rows[f"reward/{name}"].mean())
        for when, rows in ends.items()
        for name in ("correctness", "format")
    }
    compared = ablation_files(run.config) if published_ablations(run.config) else ()
    return run.finish(
        inputs=[here.instances("train"), here.sft_model, *compared],
        outputs=[here.rl_model, here.rl_metrics, here.rl / "trajectories", here.rl / "ledgers"],
        results=results,
    )
