import json
import math
import time

import pytest

from biomni_lib.tracking import Tracker, read_metrics


def read_table(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def test_a_row_a_step_and_a_column_a_metric(config):
    with Tracker(config.run_dir, "rl", config) as tracker:
        tracker.log(0, {"reward/total": 0.5})
        tracker.log(0, {"optim/lr": 0.1})
        tracker.log(1, {"reward/total": 1})
    rows = read_table(tracker.parquet)
    assert [(row["step"], row["reward/total"], row["optim/lr"]) for row in rows] == [(0, 0.5, 0.1), (1, 1.0, None)]


def test_metrics_are_there_while_the_stage_runs(config):
    tracker = Tracker(config.run_dir, "rl", config)
    tracker.log(0, {"reward/total": 0.5})
    assert read_metrics(tracker.jsonl)[0]["reward/total"] == 0.5
    tracker.close()
    tracker.close()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_missing(config, value):
    with Tracker(config.run_dir, "rl", config) as tracker:
        tracker.log(0, {"policy/entropy": value})
    assert read_table(tracker.parquet)[0]["policy/entropy"] is None


def test_a_resumed_stage_drops_the_steps_that_it_does_again(config):
    with Tracker(config.run_dir, "rl", config) as tracker:
        for step in range(5):
            tracker.log(step, {"reward/total": 0.0})
    with tracker.jsonl.open("a") as file:
        file.write('{"step": 5, "rew')  # what a killed run leaves behind
    with Tracker(config.run_dir, "rl", config, resume_step=3) as tracker:
        tracker.log(3, {"reward/total": 1.0})
    assert [row["reward/total"] for row in read_table(tracker.parquet)] == [0.0, 0.0, 0.0, 1.0]
    assert all(json.loads(line) for line in tracker.jsonl.read_text().splitlines())


def test_a_new_run_starts_an_empty_table(config):
    for value in (1.0, 2.0):
        with Tracker(config.run_dir, "sft", config) as tracker:
            tracker.log(0, {"loss": value})
    assert [row["loss"] for row in read_table(tracker.parquet)] == [2.0]


def test_nothing_logged_is_an_empty_table(config):
    with Tracker(config.run_dir, "sft", config) as tracker:
        pass
    assert read_table(tracker.parquet) == []


def test_weights_and_biases_offline_asks_nothing(make_config, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = make_config(tracking={"wandb": True})
    with Tracker(config.run_dir, "rl", config) as tracker:
        tracker.log(0, {"reward/total": 0.5})
        tracker.log(1, {"reward/total": 0.6})
    (record,) = config.run_dir.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # its own process writes the record, after `finish` has returned
    while b"reward/total" not in record.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(read_table(tracker.parquet)) == 2
