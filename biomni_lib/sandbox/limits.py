"""What one session may use, and the rlimits that bound each of its processes.

rlimits bind single processes; the memory of a session as a whole is bounded by a cgroup where this machine gives one
(`cgroup.py`), else by the watching parent (`watchdog.py`).
"""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_SHARED_MIB = 1024
"""Address space beyond a session's memory: thread stacks and files mapped read-only."""
SCRATCH_FILES = 8192
"""Files and folders that the scratch space of a session may hold."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one session.

    Attributes:
        memory_mb: memory of the session's processes and its scratch space together, MiB.
        output_chars: characters of one observation.
        scratch_mb: size of the private scratch space, MiB.
        processes: processes and threads at the same time.
        files: open descriptors of one process.
        cpu_s: processor seconds of one process over its life.
        grace_s: seconds between the interrupt of a block and the kill.
        start_s: seconds that a session may take to start.
    """

    memory_mb: int
    output_chars: int
    scratch_mb: int = 32
    processes: int = 32
    files: int = 128
    cpu_s: int = 3600
    grace_s: float = 1.0
    start_s: float = 30.0

    @property
    def process_memory_bytes(self) -> int:
        """Bytes for the session's processes: its memory less the scratch space, which is reserved."""
        return (self.memory_mb - self.scratch_mb) * MIB


def _status_kib(field: str) -> int:
    """A value of /proc/self/status in KiB; 0 where there is no such file (macOS)."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


@dataclass(frozen=True)
class Baseline:
    """What the zygote occupies itself, which every session inherits without paying for it; bytes."""

    data: int
    address_space: int

    @classmethod
    def measure(cls) -> "Baseline":
        """Of this process."""
        return cls(_status_kib("VmData") * 1024, _status_kib("VmSize") * 1024)


def apply_limits(limits: Limits, baseline: Baseline, *, foreign_tasks: int = 0) -> None:
    """Bound this process and its future children, soft and hard alike.

    Args:
        foreign_tasks: processes and threads that the kernel counts for this user beside those of the session.
    """
    data = baseline.data + limits.process_memory_bytes
    values = {
        "RLIMIT_DATA": data,
        "RLIMIT_AS": baseline.address_space + limits.process_memory_bytes + _SHARED_MIB * MIB,
        "RLIMIT_NPROC": limits.processes + foreign_tasks,
        "RLIMIT_FSIZE": limits.scratch_mb * MIB,
        "RLIMIT_NOFILE": limits.files,
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_SIGPENDING": 256,
    }
    if sys.platform != "linux":
        del values["RLIMIT_DATA"], values["RLIMIT_AS"]
    for name, value in values.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (value, value))
