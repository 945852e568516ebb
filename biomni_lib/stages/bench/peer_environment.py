"""Environments of peers that cannot live in ours: pinned in `environment/peers/NAME.txt`, made when first needed."""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

from biomni_lib.config import project_root
from biomni_lib.errors import RunError

REQUIREMENTS = project_root() / "environment" / "peers"
_DONE = "installed"


def peer_python(name: str, cache: Path, *, beside_ours: bool = False) -> Path:
    """The Python of a peer's environment, below `cache`; it is installed where it is not there yet.

    Args:
        beside_ours: the peer sees this environment's packages too, and installs nothing but what its file names.
    Raises: RunError when it cannot be installed, with the reason.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    if not requirements.is_file():
        raise RunError(f"{requirements} is not there; run the benchmark from a checkout")
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    home = cache / f"{name}-{key[:12]}"
    python = home / "bin" / "python"
    if not (home / _DONE).is_file():
        print(f"installing {name} for comparison into {home}", flush=True)
        _run(name, "venv", "--without-pip", "--clear", str(home))
        pip = ("pip", "--python", str(python), "--disable-pip-version-check", "install", "-qr", str(requirements))
        _run(name, *pip, *(["--no-deps"] if beside_ours else []))
        if beside_ours:
            _see_ours(python)
        (home / _DONE).touch()
    return python


def peer_version(name: str) -> str:
    """The release that is compared with."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix(f"{name}==") for line in lines if line.startswith(f"{name}=="))


def _see_ours(python: Path) -> None:
    """Let a Python import what this one can, behind its own packages."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    (Path(theirs) / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise RunError(f"{name} cannot be installed: {told[-1] if told else f'status {done.returncode}'}")
