"""Runs the notebooks of a preset headless, one after the other, and puts executed ones back where readers find them.

A notebook is skipped when its stage is done (the manifest says so, not the executed copy) and its executed copy is of
the same code. Each runs in a kernel of its own, with the project's folder as working folder, into `notebooks/` of the
run's folder. Stopped or failed, the same command goes on where it stopped.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomni_lib.config import RunConfig, load_config, project_root
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.provenance import atomic_write, notebook_source_sha256, require_disk, run_lock, stage_done, stage_state
from biomni_lib.stages.paths import paths
from biomni_lib.stages.stage import said, say

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOKS = {
    "build_data": "01_build_data",
    "sft": "02_rejection_sampled_sft",
    "rl": "03_async_rl",
    "evaluate": "04_evaluate",
    "length_vs_score": "05_length_vs_score",
    "scheduling": "06_async_scheduling",
}
"""Stage to its notebook, in the order in which they run."""
KERNEL = "python3"
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep: learner and engine share the cores
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # progress bars of libraries are switched off, not missed
}
DISK_BYTES = 500_000_000
"""Free disk that a run asks for at start: several times what the preset `cpu` writes."""
LAST_LINES = 8
POLL_S = 0.5
SAY_EVERY_S = 15.0
"""Seconds between progress lines where they are kept, in a log; a terminal's one line follows at once."""


def run_notebooks(config: RunConfig, last: str | None = None) -> bool:
    """Run what is not done, up to a stage; all of them when None.

    Returns: whether anything had to run.
    Raises: ConfigError for a setting that a notebook does not take; RunError for a full disk, for a folder in use, and
        when a notebook fails: with stage, cell, last lines and the command that goes on.
    """
    stages = list(NOTEBOOKS)[: None if last is None else list(NOTEBOOKS).index(last) + 1]
    sources = {stage: _read(notebook_file(NOTEBOOKS[stage])) for stage in stages}
    settings = parameters(config)
    for stage, source in sources.items():
        _refuse_unknown(NOTEBOOKS[stage], source, settings)
    require_disk(config.run_dir, DISK_BYTES)
    ran = False
    with run_lock(config.run_dir):
        for number, (stage, source) in enumerate(sources.items(), 1):
            label = f"[{number}/{len(sources)}] {NOTEBOOKS[stage]}"
            reason = notebook_state(config, stage, source)
            print(f"{label}: {reason}", flush=True)
            if reason != "done":
                began, ran = time.perf_counter(), True
                _run(config, stage, settings)
                print(f"{label}: finished in {time.perf_counter() - began:.0f} s", flush=True)
    return ran


def notebook_state(config: RunConfig, stage: str, source: "NotebookNode") -> str:
    """`done`, or in a few words why the notebook has to run."""
    state = stage_state(config, stage)
    if state != "done":
        return state
    executed = executed_file(config, stage)
    if not executed.is_file():
        return "its executed copy is missing"
    same = _read(executed).metadata.get("biomni", {}).get("source_sha256") == notebook_source_sha256(source)
    return "done" if same else "its code changed"


def parameters(config: RunConfig) -> dict[str, Any]:
    """What is passed to the notebooks; OVERRIDES holds the settings that differ from the preset's."""
    settings: dict[str, Any] = {"PRESET": config.preset, "SEED": config.seed, "RUNS_ROOT": str(config.runs_root)}
    overrides = _differences(config)
    return settings | ({"OVERRIDES": overrides} if overrides else {})


def publish_notebooks(config: RunConfig) -> list[Path]:
    """Put the outputs of a finished run into the notebooks of the project.

    Returns: the notebooks written.
    Raises: RunError when a stage is not done or the executed code is another; ConfigError for settings other than
        the default preset's own with seed 0.
    """
    default = RunConfig().preset
    if config.preset != default or config.seed != 0 or _differences(config):
        raise ConfigError(f"stored notebooks show preset {default} with its own settings and seed 0; publish that run")
    with run_lock(config.run_dir):
        sources = {stage: _read(notebook_file(name)) for stage, name in NOTEBOOKS.items()}
        for stage, source in sources.items():
            state = notebook_state(config, stage, source)
            if state != "done":
                raise RunError(f"{NOTEBOOKS[stage]}: {state}; first {resume_command(config)}")
        for stage, source in sources.items():
            _take_outputs(source, _read(executed_file(config, stage)))
            _write(notebook_file(NOTEBOOKS[stage]), source)
    return [notebook_file(name) for name in NOTEBOOKS.values()]


def resume_command(config: RunConfig) -> str:
    """The command that goes on with a run."""
    own = parameters(config)
    if own == {"PRESET": config.preset, "SEED": 0, "RUNS_ROOT": "runs"}:
        return f"make reproduce PRESET={config.preset}"
    settings = own.get("OVERRIDES", {})
    named = [(f"{s}.{f}", value) for s, fields in settings.items() for f, value in fields.items()]
    options = "".join(f" --set {name}={value}" for name, value in named)
    where = f"--preset {config.preset} --seed {config.seed} --runs-root {config.runs_root}"
    return f"{Path(sys.executable).name} -m biomni_lib.stages reproduce {where}{options}"


def notebook_file(name: str) -> Path:
    """A notebook of the project. Raises: RunError when the project's folder is not at hand."""
    path = project_root() / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        raise RunError(f"{path} is missing; run from a checkout of the project")
    return path


def executed_file(config: RunConfig, stage: str) -> Path:
    """Where a stage's executed notebook lies."""
    return paths(config).notebooks / f"{NOTEBOOKS[stage]}.ipynb"


def kernel_log(config: RunConfig, stage: str) -> Path:
    """What a stage's kernel said outside the notebook."""
    return executed_file(config, stage).with_suffix(".log")


def _run(config: RunConfig, stage: str, settings: dict[str, Any]) -> None:
    """One notebook; afterwards its stage must be done."""
    source, target = notebook_file(NOTEBOOKS[stage]), executed_file(config, stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _environment(), _progress_shown(config):
        _execute(config, stage, source, target, settings)
    if not stage_done(config, stage):
        raise RunError(f"{source.name} ended without its stage's manifest; its last cell must call `finish`")
    executed = _read(target)
    executed.metadata["biomni"] = {"preset": config.preset, "source_sha256": notebook_source_sha256(_read(source))}
    _write(target, executed)


def _execute(config: RunConfig, stage: str, source: Path, target: Path, settings: dict[str, Any]) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            settings,
            kernel_name=KERNEL,
            language="python",
            cwd=str(project_root()),
            progress_bar=False,
            kernel_manager_class=_kernel_manager(kernel_log(config, stage)),
        )
    except PapermillExecutionError as error:
        lines = _last_lines(error.ename, error.evalue, error.traceback)
        raise RunError(_failure(config, stage, f"cell {error.exec_count}", lines, target)) from None
    except DeadKernelError:
        log = kernel_log(config, stage).read_text(errors="replace").splitlines()
        lines = ["the kernel died; most often the machine is out of memory", *log[-LAST_LINES:]]
        raise RunError(_failure(config, stage, "an unknown cell", lines, target)) from None


def _kernel_manager(log: Path) -> type[Any]:
    """Kernels whose own words go to a file: of interest only when they die."""
    from jupyter_client.manager import AsyncKernelManager

    class LoggedKernelManager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            with log.open("wb") as file:
                await super().start_kernel(stdout=file, stderr=file, **options)

    return LoggedKernelManager


def _failure(config: RunConfig, stage: str, cell: str, lines: list[str], target: Path) -> str:
    told = "\n".join(f"    {line}" for line in lines)
    return (
        f"stage {stage} failed in {cell} of {NOTEBOOKS[stage]}\n{told}\n"
        f"  executed so far: {_short(target)}\n  to go on: {resume_command(config)}"
    )


def _last_lines(name: str, message: str, traceback: list[str]) -> list[str]:
    """The library's own errors say it in one line; of others, the end of the traceback."""
    from biomni_lib import errors

    if hasattr(errors, name):
        return message.splitlines()
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(traceback)).splitlines()
    return [line for line in plain if line.strip()][-LAST_LINES:]


def _refuse_unknown(name: str, source: "NotebookNode", settings: dict[str, Any]) -> None:
    cells = [c.source for c in source.cells if "parameters" in c.metadata.get("tags", [])]
    known = re.findall(r"^([A-Z_]+)\s*=", "\n".join(cells), re.MULTILINE)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"{name} has no parameter {', '.join(unknown)}; it takes {', '.join(known)}")


def _differences(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Settings that differ from the preset's own, by section."""
    own, preset = (c.model_dump(mode="json") for c in (config, load_config(config.preset)))
    sections = {name: fields for name, fields in own.items() if isinstance(fields, dict)}
    changed = {
        name: {field: value for field, value in fields.items() if preset[name].get(field) != value}
        for name, fields in sections.items()
    }
    return {name: fields for name, fields in changed.items() if fields}


def _take_outputs(source: "NotebookNode", executed: "NotebookNode") -> None:
    """Fill a notebook with the outputs of its executed copy, numbered from first to last."""
    injected = "injected-parameters"
    done = [c for c in executed.cells if c.cell_type == "code" and injected not in c.metadata.get("tags", [])]
    code = [c for c in source.cells if c.cell_type == "code"]
    for number, (cell, ran) in enumerate(zip(code, done, strict=True), 1):
        cell.execution_count, cell.outputs = number, ran.outputs
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = number
    source.metadata["biomni"] = executed.metadata["biomni"]


def _read(path: Path) -> "NotebookNode":
    import nbformat

    return nbformat.read(path, as_version=4)


def _write(path: Path, notebook: "NotebookNode") -> None:
    import nbformat

    atomic_write(path, nbformat.writes(notebook) + "\n")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The variables that a kernel is started with, unless they are set already."""
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextlib.contextmanager
def _progress_shown(config: RunConfig) -> Iterator[None]:
    """Show on stderr what the stage says of its progress, while the block runs."""
    say(config, "")
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(config, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(config: RunConfig, over: threading.Event) -> None:
    terminal, last, next_at = sys.stderr.isatty(), "", 0.0
    while not over.wait(POLL_S):
        line = said(config)
        if line != last and (terminal or time.monotonic() >= next_at):
            sys.stderr.write(f"\r\x1b[K  {line}" if terminal else f"  {line}\n")
            sys.stderr.flush()
            last, next_at = line, time.monotonic() + SAY_EVERY_S
    if terminal and last:
        sys.stderr.write("\r\x1b[K")
