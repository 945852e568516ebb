"""The folder and the tables of the RL stage; the run itself is tested with the loop and in notebook 03."""

import numpy as np
import pytest

from biomni_lib.agent.ledger import Trajectory, Turn
from biomni_lib.config import RunConfig
from biomni_lib.errors import DataError
from biomni_lib.stages import rl
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import StageRun
from biomni_lib.tracking import Tracker
from tests.acting_toy import renderer

METRICS = dict.fromkeys(rl.LIVE, 0.5)


@pytest.fixture
def run(config: RunConfig) -> StageRun:
    """A stage whose SFT model is there, as far as its folder goes."""
    here = paths(config)
    here.sft_model.mkdir(parents=True)
    (here.sft_model / "model.safetensors").write_bytes(b"weights")
    return StageRun(config, "rl")


def checkpoint(run: StageRun) -> None:
    (run.paths.rl / "checkpoints" / "step-00002").mkdir(parents=True)


def finish(run: StageRun) -> None:
    run.finish(inputs=[run.paths.sft_model], outputs=[run.paths.rl])


def remains(run: StageRun) -> bool:
    rl._make_room(run)
    return (run.paths.rl / "checkpoints").is_dir()


def other(run: StageRun, **changed: float) -> StageRun:
    settings = run.config.rl.model_copy(update=changed)
    return StageRun(run.config.model_copy(update={"rl": settings}), "rl")


def test_what_cannot_be_gone_on_with_is_cleared(run: StageRun) -> None:
    stale = run.paths.rl / "trajectories" / "step-00009.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a run that left no checkpoint")
    assert not remains(run) and not stale.exists()


def test_a_run_of_the_same_settings_remains(run: StageRun) -> None:
    rl._make_room(run)
    checkpoint(run)
    assert remains(run)
    finish(run)
    assert remains(run)
    assert remains(other(run, steps=9))  # a longer run goes on where the shorter one ended


def test_an_unfinished_run_of_other_settings_is_left_to_its_owner(run: StageRun) -> None:
    rl._make_room(run)
    checkpoint(run)
    assert remains(other(run, learning_rate=0.5))


def test_a_finished_run_of_other_settings_makes_room(run: StageRun) -> None:
    rl._make_room(run)
    checkpoint(run)
    finish(run)
    assert not remains(other(run, learning_rate=0.5))


def test_a_finished_run_of_another_model_makes_room(run: StageRun) -> None:
    rl._make_room(run)
    checkpoint(run)
    finish(run)
    (run.paths.sft_model / "model.safetensors").write_bytes(b"other weights")
    assert not remains(run)


def test_tables_without_a_run_name_the_notebook(config: RunConfig) -> None:
    for table in (rl.metrics_table, rl.trained_rows):
        with pytest.raises(DataError, match="run notebook 03_async_rl"):
            table(config)


def test_the_live_table_goes_on_with_earlier_steps(config: RunConfig) -> None:
    with Tracker(paths(config).rl, "rl", config) as tracker:
        tracker.log(0, METRICS)
        tracker.log(1, METRICS)
    live = rl.LiveTable(config)
    live(1, {**METRICS, "reward/correctness": 0.75})  # done again after the last checkpoint
    live(2, METRICS)
    table = live._table()
    assert table.index.tolist() == [0, 1, 2]
    assert table["correctness"].tolist() == [0.5, 0.75, 0.5]


def test_the_ledger_table_shows_every_column() -> None:
    trajectory = Trajectory("task", "id")
    prompt, reply = renderer().plain("HP:0001250"), renderer().assistant("<think>\nSeizure.\n</think>")
    trajectory.append(prompt, sampled=False)
    trajectory.append(reply, sampled=True, logprobs=[-0.5] * len(reply), policy_versions=[3] * len(reply))
    table = rl.ledger_table(trajectory, renderer(), slice(len(prompt) - 1, len(prompt) + 2))
    assert table.index.tolist() == [len(prompt) - 1, len(prompt), len(prompt) + 1]
    assert table["written"].tolist() == [False, True, True]
    assert table["version"].tolist() == [-1, 3, 3]
    assert np.isnan(table["logprob"].iloc[0]) and table["logprob"].iloc[1] == -0.5
    assert table["token"].iloc[1] == "<think>"


def test_the_outcome_table_has_a_row_a_trajectory() -> None:
    group = [Trajectory("task", "id", sample=n, turns=[Turn(0, 0, "none", "")] * n, total=float(n)) for n in range(3)]
    table = rl.outcome_table(group, [-1.0, 0.0, 1.0])
    assert table["turns"].tolist() == [0, 1, 2]
    assert table["advantage"].tolist() == [-1.0, 0.0, 1.0]
