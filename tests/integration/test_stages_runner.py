"""The runner on a project of two short notebooks; the real ones run in `make test` with nbval."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from biomni_lib.config import RunConfig
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.provenance import run_lock
from biomni_lib.stages import runner

PARAMETERS = 'import time\nPRESET = "cpu"\nSEED = 0\nRUNS_ROOT = "runs"\nOVERRIDES = {}\n'
SETUP = """from biomni_lib.config import load_config
from biomni_lib.stages.stage import StageRun
config = load_config(PRESET, seed=SEED, runs_root=RUNS_ROOT, **OVERRIDES)
run = StageRun(config, {stage!r})"""
WORK = "made = run.paths.run_dir / run.name\nmade.write_text(str(config.rl.steps))\nprint(made.read_text())"
FINISH = "_ = run.finish(inputs=[{inputs}], outputs=[made])"
NAMES = {"build_data": "01_first", "sft": "02_second"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two notebooks, of which the second reads what the first wrote."""
    monkeypatch.setattr(runner, "project_root", lambda: tmp_path)
    monkeypatch.setattr(runner, "NOTEBOOKS", NAMES)
    write(tmp_path, "build_data")
    write(tmp_path, "sft", inputs="run.paths.run_dir / 'build_data'")
    return tmp_path


def write(project: Path, stage: str, work: str = WORK, inputs: str = "", parameters: str = PARAMETERS) -> None:
    sources = [parameters, SETUP.format(stage=stage), work, FINISH.format(inputs=inputs)]
    cells = [new_markdown_cell("A question."), *map(new_code_cell, sources)]
    cells[1].metadata["tags"] = ["parameters"]
    path = project / "notebooks" / f"{NAMES[stage]}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def output(config: RunConfig, stage: str) -> str:
    notebook = nbformat.read(runner.executed_file(config, stage), 4)
    return "".join(o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "text" in o)


def test_runs_what_is_not_done(project: Path, config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.run_notebooks(config, last="build_data")
    assert not runner.executed_file(config, "sft").exists()
    assert runner.run_notebooks(config)
    assert output(config, "sft") == f"{config.rl.steps}\n"
    assert not runner.run_notebooks(config)
    assert capsys.readouterr().out.splitlines()[-2:] == ["[1/2] 01_first: done", "[2/2] 02_second: done"]

    write(project, "sft", work=WORK + "  # changed", inputs="run.paths.run_dir / 'build_data'")
    assert runner.run_notebooks(config)
    assert "[1/2] 01_first: done\n[2/2] 02_second: its code changed" in capsys.readouterr().out

    (config.run_dir / "build_data").write_text("altered")
    assert runner.run_notebooks(config)
    said = capsys.readouterr().out
    assert "[1/2] 01_first: output smoke/build_data changed" in said
    assert "[2/2] 02_second: done" in said  # the first wrote again what the second has read


def test_a_failure_names_stage_cell_and_remedy(project: Path, config: RunConfig) -> None:
    write(project, "sft", work="made = 1\nraise ValueError('no such thing')")
    with pytest.raises(RunError) as caught:
        runner.run_notebooks(config)
    said = str(caught.value)
    assert "stage sft failed in cell 4 of 02_second" in said  # the injected parameters are the second cell
    assert "ValueError: no such thing" in said and "\x1b" not in said
    assert f"to go on: {runner.resume_command(config)}" in said
    write(project, "sft", inputs="run.paths.run_dir / 'build_data'")
    assert runner.run_notebooks(config)


def test_an_own_error_is_told_in_one_line(project: Path, config: RunConfig) -> None:
    write(project, "build_data", work="from biomni_lib.errors import DataError\nraise DataError('no lake; build it')")
    with pytest.raises(RunError) as caught:
        runner.run_notebooks(config)
    assert str(caught.value).splitlines()[1].strip() == "no lake; build it"


def test_a_dead_kernel_is_told(project: Path, config: RunConfig) -> None:
    write(project, "build_data", work="import os\nos._exit(9)")
    with pytest.raises(RunError, match="the kernel died"):
        runner.run_notebooks(config)


def test_a_notebook_without_manifest_is_not_done(project: Path, config: RunConfig) -> None:
    write(project, "build_data", work="made = config.runs_root\nrun.finish = lambda **files: None")
    with pytest.raises(RunError, match="without its stage's manifest"):
        runner.run_notebooks(config)


def test_an_unknown_parameter_is_refused_at_start(project: Path, config: RunConfig) -> None:
    write(project, "sft", parameters='PRESET = "cpu"\nSEED = 0\n')
    with pytest.raises(ConfigError, match="02_second has no parameter RUNS_ROOT; it takes PRESET, SEED"):
        runner.run_notebooks(config)
    assert not runner.executed_file(config, "build_data").exists()


def test_settings_reach_the_notebooks(project: Path, make_config: Callable[..., RunConfig]) -> None:
    config = make_config(**{"rl.steps": 7})
    assert runner.parameters(config)["OVERRIDES"] == {"rl": {"steps": 7}}
    assert "--set rl.steps=7" in runner.resume_command(config)
    runner.run_notebooks(config)
    assert output(config, "build_data") == "7\n"


def test_a_folder_in_use_is_refused(project: Path, config: RunConfig) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom biomni_lib.provenance import run_lock\n"
        f"with run_lock(Path({str(config.run_dir)!r})):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"another run .process {holder.pid}. is using this folder"):
            runner.run_notebooks(config)
        holder.communicate("")
    with run_lock(config.run_dir):
        pass


def test_publish_puts_outputs_into_the_notebooks(
    project: Path, make_config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="stored notebooks show preset cpu"):
        runner.publish_notebooks(make_config("smoke"))
    config = make_config("cpu")
    with pytest.raises(RunError, match="01_first: not run yet; first "):
        runner.publish_notebooks(config)
    runner.run_notebooks(config)
    for path in runner.publish_notebooks(config):
        notebook = json.loads(path.read_text())
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in code] == [1, 2, 3, 4]
        assert "".join(code[2]["outputs"][0]["text"]) == f"{config.rl.steps}\n"
        assert notebook["metadata"]["biomni"]["preset"] == "cpu"
        assert "papermill" not in path.read_text() and str(project) not in path.read_text()
    assert not runner.run_notebooks(config)  # outputs in the source are no change of its code


def test_ctrl_c_stops_and_says_how_to_go_on(project: Path, config: RunConfig) -> None:
    write(project, "build_data", work="run.say('working')\ntime.sleep(60)\nmade = None")
    script = (
        "from pathlib import Path\nfrom biomni_lib.stages import runner, __main__\n"
        f"runner.project_root = lambda: Path({str(project)!r})\nrunner.NOTEBOOKS = {NAMES}\n__main__.main()"
    )
    arguments = ["notebooks", "--preset", "smoke", "--runs-root", str(config.runs_root)]
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while "working" not in _said(config) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"stopped; to go on: {runner.resume_command(config)}" in error
    assert "Traceback" not in error
    with run_lock(config.run_dir):  # nothing holds the folder any more
        pass


def _said(config: RunConfig) -> str:
    path = config.run_dir / ".progress"
    return path.read_text() if path.is_file() else ""
