"""What shuts sessions in on this machine, found out at start and stated.

Three tiers: `namespaces` (nothing of the host is there), `landlock` (the host is there and closed, for containers and
kernels that forbid namespaces), `process` (no protection, only limits). `isolation = "strict"` takes the first of the
first two that a trial session proves.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

REMEDY = (
    "run on Linux 5.14 or later with user namespaces (Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0; "
    "Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined) or with Landlock (5.13 or later, "
    '`landlock` in /sys/kernel/security/lsm), or choose sandbox.isolation = "process", which does not protect this '
    "machine from the code that models write"
)
PROCESS_WARNING = (
    'sandbox.isolation = "process": code that models write runs with your rights and can read your files, use the '
    'network and cheat; use "strict" on Linux for anything that is reported'
)


class IsolationError(Exception):
    """The machine refuses one step of the isolation."""


@dataclass(frozen=True)
class Protection:
    """What a sandbox runs under.

    Attributes:
        tier: `namespaces`, `landlock` or `process`.
        memory: who bounds a session's memory as a whole: `cgroup v2` or `watching parent`.
        missing: what this machine does not give, each in a few words.
    """

    tier: str
    memory: str
    missing: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """What a reader of results must know; empty when nothing."""
        return PROCESS_WARNING if self.tier == "process" else ""

    def describe(self) -> str:
        """One line for the log and the manifest."""
        lacking = f"; not given here: {', '.join(self.missing)}" if self.missing else ""
        return f"{self.tier}, memory by {self.memory}{lacking}"


@contextmanager
def step(what: str) -> Iterator[None]:
    """Name the step whose failure the machine is to blame for.

    Raises: IsolationError.
    """
    try:
        yield
    except (OSError, KeyError, AttributeError) as error:
        raise IsolationError(f"no {what} ({error})") from None


def settle_in(folder: str) -> None:
    """Make a folder the working, home and temporary directory."""
    os.chdir(folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = folder
