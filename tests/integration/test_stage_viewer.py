"""The viewer's stage on run folders: everything recorded is found, and what is missing or does not fit is said."""

import dataclasses
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomni_lib.agent.ledger import save_trajectories
from biomni_lib.errors import DataError, RunError
from biomni_lib.evaluate import ROWS, rows_file, trajectories_file
from biomni_lib.provenance import write_manifest
from biomni_lib.stages import viewer
from biomni_lib.stages.__main__ import app
from biomni_lib.stages.build_data import SCHEMA
from biomni_lib.stages.paths import paths
from tests.toy_trajectories import data_of, question, rolled


def write_rows(config, model, trajectories, folder=None):
    rows = [
        dict.fromkeys(ROWS.names)
        | {"task": t.task, "instance_id": t.instance_id, "sample": t.sample, "model": model, "score": 0.25}
        for t in trajectories
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ROWS), rows_file(folder or paths(config).evaluate, model))


@pytest.fixture
def run(config):
    """A finished run of two questions, each asked of SFT and RL; RL answers the second better."""
    here = paths(config)
    here.data.mkdir(parents=True)
    for split in ("train", "dev", "heldout"):
        asked = [dataclasses.asdict(question(n)) | {"meta": "{}"} for n in range(2)]
        pq.write_table(pa.Table.from_pylist(asked, schema=SCHEMA), here.instances(split))
    for model, worth in (("sft", [1.0, 0.0]), ("rl", [1.0, 1.0])):
        made = [rolled(n, model, correctness=worth[n]) for n in range(2)]
        save_trajectories(trajectories_file(here.evaluate, model), made)
        write_rows(config, model, made)
    taught = [rolled(n, "teacher", version=-1) for n in range(2)]
    save_trajectories(here.teacher, taught)
    save_trajectories(here.accepted, taught[:1])
    for step in (0, 1):
        save_trajectories(here.rl / "ledgers" / f"step-{step:05d}.parquet", [rolled(0, version=step)])
    for stage in viewer.STAGES:
        write_manifest(config, stage, seconds=1.0)
    return config


def made(config, **choice):
    """The page's data, and what was reported."""
    told = []
    file = viewer.run(config, report=told.append, **choice)
    return data_of(file.read_text()), told


def test_everything_recorded_is_in_the_page(run):
    data, told = made(run)
    rows = data["index"]["rows"]
    assert rows["id"] == [
        "evaluate/sft/toy/toy-heldout-0/0",
        "evaluate/rl/toy/toy-heldout-0/0",
        "rl/step-00000/toy/toy-heldout-0/0",
        "rl/step-00001/toy/toy-heldout-0/0",
        "sft/teacher/toy/toy-heldout-0/0",
        "evaluate/sft/toy/toy-heldout-1/0",
        "evaluate/rl/toy/toy-heldout-1/0",
        "sft/teacher/toy/toy-heldout-1/0",
    ]
    assert rows["score"] == [0.25, 0.25, None, None, None, 0.25, 0.25, None]
    assert rows["accepted"] == [None, None, None, None, True, None, None, False]
    assert rows["step"] == [None, None, 0, 1, None, None, None, None]
    assert data["chunk-0"]["questions"]["1"]["gold"] == '{"gene": "G1"}'
    assert "You are a biomedical agent" in data["index"]["systems"]["toy"]
    assert data["index"]["about"]["notes"] == []
    assert told[-1].startswith(f"{paths(run).viewer}: 8 trajectories")


def test_answers_under_budgets_and_of_any_model_are_in_the_page(run):
    here = paths(run)
    for folder, model in ((here.length / "turns-1", "rl"), (here.models / "dev-3x1", "qwen")):
        made_there = [rolled(0, model)]
        save_trajectories(trajectories_file(folder, model), made_there)
        write_rows(run, model, made_there, folder)
    data, told = made(run, sources=["length", "models"])
    assert data["index"]["rows"]["id"] == [
        "length/turns-1/rl/toy/toy-heldout-0/0",
        "models/dev-3x1/qwen/toy/toy-heldout-0/0",
    ]
    assert data["index"]["rows"]["score"] == [0.25, 0.25] and data["index"]["about"]["notes"] == []


def test_the_same_run_gives_the_same_bytes(run):
    first = viewer.run(run, report=str).read_bytes()
    assert viewer.run(run, report=str).read_bytes() == first


def test_a_choice_leaves_the_rest_out(run):
    assert len(made(run, sources=["evaluate"], models=["rl"])[0]["index"]["rows"]["id"]) == 2
    with pytest.raises(DataError, match="model = 'qwen'"):
        made(run, models=["qwen"])


def test_partial_results_are_shown_and_what_lacks_is_said(run):
    here = paths(run)
    shutil.rmtree(here.rl)
    here.teacher.unlink()
    for stage in ("rl", "evaluate"):
        (here.manifests / f"{stage}.json").unlink()
    rows_file(here.evaluate, "rl").unlink()
    here.instances("dev").unlink()
    data, told = made(run)
    notes = data["index"]["about"]["notes"]
    assert set(notes) == {
        "Stage evaluate has not finished: what it has recorded so far is shown.",
        "Nothing was recorded by stage sft.",
        "Nothing was recorded by stage rl.",
        "Model rl has no row of scores: its scores are left empty; evaluate it again.",
        "The instances of split dev are not in the run's folder.",
    }
    assert {f"note: {note}" for note in notes} <= set(told)
    assert data["index"]["rows"]["score"] == [0.25, None, 0.25, None]


def test_rows_of_another_evaluation_are_not_joined(run):
    write_rows(run, "rl", [rolled(7)])
    data, _ = made(run, sources=["evaluate/rl"])
    assert data["index"]["rows"]["score"] == [None, None]
    assert "of different evaluations" in data["index"]["about"]["notes"][0]


def test_unknown_questions_and_those_of_benchmarks_are_said(run):
    here = paths(run)
    of_benchmark = dataclasses.replace(rolled(0), instance_id="eval1/gwas/3")
    save_trajectories(trajectories_file(here.evaluate, "rl"), [of_benchmark])
    write_rows(run, "rl", [of_benchmark])
    notes = made(run)[0]["index"]["about"]["notes"]
    assert "1 questions are not among the run's instances, such as eval1/gwas/3." in notes
    assert "1 questions are of a benchmark, for evaluation only: do not publish this page." in notes


def test_mixed_versions_and_changed_settings_are_said(run):
    file = paths(run).manifests / "rl.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"code_hash": "f" * 64, "config_hash": "0"}))
    notes = made(run)[0]["index"]["about"]["notes"]
    assert notes[0] == "Stage rl was run with other settings than preset smoke has now."
    assert "different versions of the code" in notes[1] and "rl ffffffffffff" in notes[1]


def test_a_folder_of_another_preset_is_refused(run):
    file = paths(run).manifests / "evaluate.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"preset": "gpu-8b"}))
    with pytest.raises(RunError, match="stage evaluate was run by preset gpu-8b with seed 0, not by smoke with 0"):
        made(run)
    assert not paths(run).viewer.exists()


def test_a_folder_without_trajectories_is_refused(config):
    with pytest.raises(DataError, match="no trajectory was recorded .* `make reproduce PRESET=smoke"):
        made(config)


def test_a_broken_file_is_named(run):
    trajectories_file(paths(run).evaluate, "rl").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"rl\.trajectories\.parquet cannot be read"):
        made(run)


def test_a_notebook_shows_what_rl_changed(run):
    pair = viewer.before_and_after(run)
    assert [(t.model, t.instance_id) for t in pair.trajectories] == [("sft", "toy-heldout-1"), ("rl", "toy-heldout-1")]
    assert "Which gene?" in pair._repr_html_()
    chosen = viewer.before_and_after(run, instance="toy-heldout-0")
    assert {t.instance_id for t in chosen.trajectories} == {"toy-heldout-0"}
    with pytest.raises(DataError, match="not both asked question 'toy-heldout-9'"):
        viewer.before_and_after(run, instance="toy-heldout-9")
    trajectories_file(paths(run).evaluate, "sft").unlink()
    with pytest.raises(DataError, match="model sft was not evaluated"):
        viewer.before_and_after(run)


def test_the_command_line_writes_the_page(run):
    from typer.testing import CliRunner

    arguments = ["viewer", "--preset", "smoke", "--runs-root", str(paths(run).run_dir.parent), "--source", "rl"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "2 trajectories" in done.output
