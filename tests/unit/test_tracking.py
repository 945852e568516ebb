import json
import math
import struct
import subprocess
import sys
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


KILLED = """
import os, sys
from biomni_lib.config import load_config
from biomni_lib.tracking import Tracker

config = load_config("smoke", runs_root=sys.argv[1], tracking={"wandb": True})
tracker = Tracker(config.run_dir, "rl", config)
for step in range(5):
    tracker.log(step, {"reward/total": step})
os._exit(1)
"""
BLOCK, HEADER = 32768, 7


def wandb_records(path):
    """The records of a .wandb file: blocks of chunks, each behind its checksum, length and place in its record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield Record.FromString(whole)
            whole = b""


def wandb_run(path):
    """Id of a .wandb file's run, and step to the metric."""
    records = list(wandb_records(path))
    rows = [{(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.history.item} for r in records]
    ids = {r.run.run_id for r in records if r.WhichOneof("record_type") == "run"}
    return ids, [(row["_step"], row["step"], row["reward/total"]) for row in rows if "reward/total" in row]


def eventually(path, steps):
    """The run in a file when its process has written so many steps."""
    deadline = time.monotonic() + 30
    while len(wandb_run(path)[1]) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return wandb_run(path)


def test_a_killed_and_resumed_run_is_one_curve_at_weights_and_biases(make_config, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = make_config(tracking={"wandb": True})
    command = [sys.executable, "-c", KILLED, str(config.runs_root)]
    killed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (killed.returncode, killed.stdout) == (1, "") and "Error" not in killed.stderr
    for first, last, value in ((3, 7, 100), (0, 1, 0)):
        time.sleep(1.1)  # the folders are named after seconds
        with Tracker(config.run_dir, "rl", config, resume_step=first) as tracker:
            for step in range(first, last):
                tracker.log(step, {"reward/total": value + step})
        if first:
            kept = [row["reward/total"] for row in read_metrics(tracker.jsonl)]
    folders = sorted(config.run_dir.glob("wandb/offline-run-*"))
    before, after, anew = (folder.name.rpartition("-")[2] for folder in folders)
    assert before == after != anew  # from the beginning: another run
    ids, curve = eventually(next(folders[1].glob("*.wandb")), 7)
    assert ids == {after}
    assert kept == [0, 1, 2, 103, 104, 105, 106]  # what was kept, then what was done again
    assert curve == [(step, step, value) for step, value in enumerate(kept)]


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
