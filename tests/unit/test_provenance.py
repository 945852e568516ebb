import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from biomni_lib import provenance
from biomni_lib.config import project_root
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.provenance import (
    STAGE_SETTINGS,
    atomic_path,
    atomic_write,
    config_hash,
    manifest_path,
    read_manifest,
    require_disk,
    run_lock,
    stage_done,
    stage_state,
    write_manifest,
)


@pytest.fixture
def finished(config):
    """A finished data stage: one table read from the lake, one folder written."""
    (config.lake_dir).mkdir(parents=True)
    (config.lake_dir / "terms.parquet").write_bytes(b"terms")
    (config.run_dir / "tasks").mkdir(parents=True)
    (config.run_dir / "tasks" / "train.parquet").write_bytes(b"train")
    write_manifest(
        config,
        "build_data",
        inputs=[config.lake_dir],
        outputs=[config.run_dir / "tasks"],
        seconds=1.5,
        results={"n": 3},
    )
    return config


def test_a_manifest_records_what_was_read_made_and_cost(finished):
    manifest = read_manifest(finished, "build_data")
    assert manifest.inputs == {"lake/terms.parquet": hashlib.sha256(b"terms").hexdigest()}
    assert manifest.outputs == {"smoke/tasks/train.parquet": hashlib.sha256(b"train").hexdigest()}
    assert manifest.results == {"n": 3}
    assert manifest.config == {"seed": 0, "data": finished.data.model_dump(mode="json")}
    assert manifest.hardware["cores"] >= 1
    assert manifest.hardware["memory_gb"] > 0
    assert {"python", "numpy"} <= set(manifest.packages)
    assert len(manifest.code_hash) == len(manifest.lock_hash) == 64


def test_a_finished_stage_is_done(finished):
    assert stage_done(finished, "build_data")
    assert stage_state(finished, "sft") == "not run yet"


@pytest.mark.parametrize("where", ["input", "output"])
@pytest.mark.parametrize("change", ["changed", "is missing"])
def test_a_file_that_changed_or_vanished_undoes_the_stage(finished, where, change):
    folder = {"input": finished.lake_dir, "output": finished.run_dir / "tasks"}[where]
    file = next(folder.iterdir())
    file.write_bytes(b"other") if change == "changed" else file.unlink()
    assert not stage_done(finished, "build_data")
    assert stage_state(finished, "build_data").startswith(where)
    assert stage_state(finished, "build_data").endswith(change)


def test_a_stage_depends_on_its_own_settings_and_those_before_it(finished, make_config):
    assert stage_done(make_config(**{"rl.steps": 9}), "build_data")
    assert stage_state(make_config(**{"data.imprecision": 0.5}), "build_data") == "its settings changed"


def test_later_stages_depend_on_all_that_earlier_ones_do():
    settings = {stage: set(names) for stage, names in STAGE_SETTINGS.items()}
    chains = (["build_data", "sft", "rl", "evaluate", "length_vs_score"], ["rl", "scheduling"])
    assert set().union(*chains) == set(settings)
    for chain in chains:
        assert all(settings[before] <= settings[after] for before, after in zip(chain, chain[1:], strict=False))


def test_each_setting_decides_some_stage_or_none_of_the_results(config):
    decided = set().union(*STAGE_SETTINGS.values())
    assert set(type(config).model_fields) - decided == {
        "ablations",
        "api",
        "environment",
        "placement",
        "preset",
        "runs_root",
        "tracking",
    }


def test_an_unknown_stage_is_refused(config):
    with pytest.raises(ConfigError, match="stage = 'train': unknown stage; allowed: build_data, sft"):
        config_hash(config, "train")


def test_a_manifest_of_a_missing_file_is_refused(config):
    with pytest.raises(RunError, match="weights"):
        write_manifest(config, "sft", outputs=[config.run_dir / "weights"], seconds=1)
    assert not manifest_path(config, "sft").exists()


def test_a_broken_manifest_says_what_to_do(finished):
    manifest_path(finished, "build_data").write_text("{")
    with pytest.raises(RunError, match="build_data.json: not a readable manifest.*delete it"):
        stage_done(finished, "build_data")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "table.parquet"
    atomic_write(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.parquet"]


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "model"
    for names in (["a", "b"], ["c"]):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["c"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(RunError, match="no space left on the disk"), atomic_path(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_disk_space_is_asked_for_before_the_start(tmp_path):
    require_disk(tmp_path / "not" / "yet", 1)
    with pytest.raises(RunError, match=r"MB free, .* MB needed"):
        require_disk(tmp_path / "not" / "yet", 10**18)


HOLD = """
import sys, time
from pathlib import Path
from biomni_lib.provenance import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(run_dir):
    command = [sys.executable, "-c", HOLD, str(run_dir)]
    holder = subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = start_holder(tmp_path / "smoke")
    try:
        with pytest.raises(RunError, match=f"smoke: another run .process {holder.pid}."), run_lock(tmp_path / "smoke"):
            pass
        with run_lock(tmp_path / "cpu"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with run_lock(tmp_path / "smoke"):
        pass


def test_processes_of_a_run_share_its_lock(tmp_path):
    with run_lock(tmp_path / "smoke"):
        holder = start_holder(tmp_path / "smoke")
        holder.kill()
        holder.wait()
        holder.stdout.close()
        with run_lock(tmp_path / "smoke"):
            pass
    assert provenance._LOCK_HELD not in os.environ


def test_readers_never_see_a_half_written_file(tmp_path):
    """A writer killed at any moment leaves the old content or the new, whole."""
    target = tmp_path / "state.json"
    code = (
        "import sys, json; from pathlib import Path; from biomni_lib.provenance import atomic_write\n"
        "i = 0\n"
        "while True: i += 1; atomic_write(Path(sys.argv[1]), json.dumps([i] * 100_000))"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=project_root())
        deadline = time.monotonic() + 30
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        writer.kill()
        writer.wait()
        assert len(set(json.loads(target.read_text()))) == 1


def test_the_source_hash_follows_code_and_nothing_else():
    def notebook(code, text="story", tags=()):
        cells = [
            {"cell_type": "markdown", "metadata": {}, "source": text},
            {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": f"preset = {list(tags)}"},
            {"cell_type": "code", "metadata": {}, "source": code, "outputs": [text]},
        ]
        return {"cells": cells}

    same = provenance.notebook_source_sha256(notebook("a = 1\nb = 2"))
    assert provenance.notebook_source_sha256(notebook(["a = 1\n", "b = 2"], "other", ("smoke",))) == same
    assert provenance.notebook_source_sha256(notebook("a = 1\nb = 3")) != same
