"""The file system that a session sees: a read-only root with Python, its libraries, the lake, and nothing else.

Built once by the zygote in its own mount namespace. Of this package only the rooms that tools need are visible: with
the tasks and the seed in reach, user code could make the held-out instances again, answers included.
"""

import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path

from biomni_lib.sandbox.kernel import (
    ATTR_NODEV,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    detach,
    mount,
    pivot_root,
    restrict_mount,
)
from biomni_lib.sandbox.limits import SCRATCH_FILES

SCRATCH = "/sandbox"
"""The one writable place; also the working and home directory, and `/tmp` unless the host's lake or Python is there."""
_SCRATCH_LINKS = ("/tmp", "/var/tmp", "/dev/shm")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/R")
_PREFIX_PARTS = ("bin", "lib", "lib64", "pyvenv.cfg")
DEVICES = ("null", "zero", "full", "random", "urandom")
PACKAGE = Path(__file__).resolve().parents[1]
PACKAGE_PARTS = ("__init__.py", "errors.py", "notes.py", "lake", "tools", "sandbox")
_OLD_ROOT = "/.old_root"
_READ_ONLY = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV


def _python_paths() -> Iterator[str]:
    """The interpreter and its libraries; of a prefix only its parts, since a prefix may be a project's folder."""
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        yield from (os.path.join(prefix, part) for part in _PREFIX_PARTS)
    yield from site.getsitepackages()


def visible_paths(lake_dir: Path | None) -> list[str]:
    """Absolute paths of the host that a session may read, outermost first, none inside another."""
    candidates = [*_SYSTEM, *_python_paths(), *([str(lake_dir.resolve())] if lake_dir else [])]
    present = sorted({path for path in candidates if os.path.lexists(path)}, key=lambda path: (len(path), path))
    kept: list[str] = []
    for path in present:
        if not any(path.startswith(f"{outer}/") for outer in kept if not os.path.islink(outer)):
            kept.append(path)
    return kept


def _source(path: str) -> str:
    """The path with the links among its parent folders followed: from the new root they would lead nowhere."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _bind(path: str, attributes: int, source: str | None = None) -> None:
    """Show one path of the old root, links as links, files and folders as restricted bind mounts.

    Args:
        source: where it lies in the old root, when that is elsewhere.
    """
    source = _OLD_ROOT + (source or path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        if not os.path.lexists(path):
            os.symlink(os.readlink(source), path)
        return
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
    mount(source, path, flags=MS_BIND | MS_REC)
    restrict_mount(path, attributes, recursive=True)


def _bind_package() -> None:
    """Cover this package with an empty folder and show in it the rooms that tools need."""
    package = str(PACKAGE)
    os.makedirs(package, exist_ok=True)
    mount("tmpfs", package, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for part in PACKAGE_PARTS:
        if os.path.exists(f"{_OLD_ROOT}{package}/{part}"):
            _bind(f"{package}/{part}", _READ_ONLY)
    restrict_mount(package, _READ_ONLY, recursive=False)


def _make_folders() -> None:
    for folder in (SCRATCH, "/dev", "/etc"):
        os.makedirs(folder, exist_ok=True)
    for link in _SCRATCH_LINKS:
        if not os.path.lexists(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(SCRATCH, link)
    for device in DEVICES:
        _bind(f"/dev/{device}", ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC)
    Path("/etc/passwd").write_text(f"sandbox:x:1000:1000::{SCRATCH}:/bin/sh\n")


def enter_minimal_root(lake_dir: Path | None) -> None:
    """Leave the host's file system for good; needs its own mount namespace and the rights over it.

    Raises: OSError naming the call that the kernel refused.
    """
    paths = {path: _source(path) for path in visible_paths(lake_dir)}
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    os.mkdir(f"/tmp{_OLD_ROOT}")
    pivot_root("/tmp", f"/tmp{_OLD_ROOT}")
    os.chdir("/")
    for path, source in paths.items():
        _bind(path, _READ_ONLY, source)
    _bind_package()
    _make_folders()
    detach(_OLD_ROOT)
    os.rmdir(_OLD_ROOT)
    restrict_mount("/", _READ_ONLY, recursive=False)


def mount_scratch(size_mb: int) -> None:
    """Give this process, in its own mount namespace, an empty private scratch space."""
    mount(
        "tmpfs",
        SCRATCH,
        "tmpfs",
        MS_NOSUID | MS_NODEV | MS_NOEXEC,
        f"size={size_mb}m,nr_inodes={SCRATCH_FILES},mode=700",
    )
