"""A memory bound for a session as a whole by the kernel: cgroup v2, where a part of the tree may be written.

That is as root on most hosts, and as an ordinary user under a systemd user manager; inside most containers the tree is
read-only. A session over its memory is killed with all its children (`memory.oom.group`).
Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

import contextlib
import os
import secrets
from pathlib import Path

from biomni_lib.sandbox.limits import MIB, Limits

_CONTROLLERS = ("memory", "pids")


class CgroupError(Exception):
    """The machine gives no cgroup v2 memory bound."""


def _own_groups() -> list[Path]:
    """This process's cgroup v2 folder and the one above it.

    Raises: CgroupError where none is mounted.
    """
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        raise CgroupError("cgroup v2 (no cgroup file system)") from None
    roots = [fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"]
    paths = [line[3:] for line in lines if line.startswith("0::")]
    if not roots or not paths:
        raise CgroupError("cgroup v2 (no such hierarchy is mounted)")
    own = Path(roots[0] + paths[0].rstrip("/"))
    return [own] if paths[0] == "/" else [own, own.parent]


def _enabled(folder: Path, file: str) -> bool:
    return set(_CONTROLLERS) <= set((folder / file).read_text().split())


class SessionGroups:
    """A cgroup for all sessions with one for each below it; made by `open`, removed by `close`."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self._limits = folder, limits
        self._ended: set[Path] = set()

    @classmethod
    def open(cls, limits: Limits) -> "SessionGroups":
        """Make the group beside or below this process's own.

        Raises: CgroupError that names what the machine does not give, and why.
        """
        reason = "no memory controller in reach"
        for parent in _own_groups():
            folder = parent / f"sandbox-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                if not _enabled(parent, "cgroup.controllers"):
                    continue
                if not _enabled(parent, "cgroup.subtree_control"):
                    _enable(parent)
                folder.mkdir()
                _enable(folder)
                return cls(folder, limits)
            except OSError as error:
                reason = f"{error.filename or folder}: {error.strerror}"
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise CgroupError(f"cgroup v2 ({reason})")

    def add(self, pid: int) -> None:
        """Bound a session that has not run anything yet.

        Raises: OSError when the process has ended.
        """
        folder = self._of(pid)
        folder.mkdir()
        values = {
            "memory.max": self._limits.memory_mb * MIB,
            "memory.swap.max": 0,
            "memory.oom.group": 1,
            "pids.max": self._limits.processes,
            "cgroup.procs": pid,
        }
        try:
            for name, value in values.items():
                if name != "memory.swap.max" or (folder / name).exists():
                    (folder / name).write_text(str(value))
        except OSError:
            folder.rmdir()
            raise

    def exceeded(self, pid: int) -> bool:
        """Whether the kernel killed the session for its memory."""
        try:
            events = dict(line.split() for line in (self._of(pid) / "memory.events").read_text().splitlines())
        except OSError:
            return False
        return int(events.get("oom_kill", 0)) > 0

    def remove(self, pid: int) -> None:
        """Forget an ended session; its group goes as soon as its last process has."""
        self._ended.add(self._of(pid))
        self.sweep()

    def sweep(self) -> None:
        """Remove the groups of ended sessions that are empty by now."""
        for folder in list(self._ended):
            with contextlib.suppress(OSError):
                if folder.exists():
                    folder.rmdir()
                self._ended.discard(folder)

    def close(self) -> None:
        """Remove what is left, once every session has ended."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                self._ended.add(folder)
        self.sweep()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _of(self, pid: int) -> Path:
        return self.folder / str(pid)


def _enable(folder: Path) -> None:
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS))
