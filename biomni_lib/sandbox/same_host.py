"""Sessions without namespaces: `landlock`, which closes the host's files and calls, and `process`, which does not.

Both do by hand what namespaces do by themselves: a scratch folder for each session that is removed with it, and the
end of everything that a session leaves behind. A landlocked session is a process group that nobody can leave.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from biomni_lib.sandbox import kernel, seccomp
from biomni_lib.sandbox.landlock import SIGNALS_VERSION, Ruleset, session_rules, version
from biomni_lib.sandbox.limits import Baseline, Limits, apply_limits
from biomni_lib.sandbox.protection import IsolationError, settle_in, step
from biomni_lib.sandbox.removal import remove_tree

_FIRST_USER, _USERS = 61184, 4336
"""User numbers that no account has (systemd lends them to passing services); one for each session."""
_REMOVAL_ATTEMPTS = 5


class ProcessIsolation:
    """A plain child process with rlimits: user code can read the host's files and reach its network.

    Args:
        limits: bounds of one session.
        scratch_dir: where each session gets a folder, named by its process.
    """

    name = "process"

    def __init__(self, limits: Limits, scratch_dir: Path) -> None:
        self._limits, self._scratch_dir = limits, scratch_dir
        self._live: set[int] = set()
        self._attempts_left: dict[int, int] = {}
        self._removers: dict[int, int] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """What this tier lacks."""
        return "namespaces", "Landlock", "seccomp", "scratch of bounded size"

    def enter_launcher(self) -> None:
        """Inherit whatever a zygote leaves behind."""
        if sys.platform == "linux":
            kernel.adopt_orphans()

    def enter_zygote(self) -> None:
        """Measure what sessions inherit, and inherit what they leave behind."""
        if sys.platform == "linux":
            kernel.die_with_parent(signal.SIGKILL)
            kernel.adopt_orphans()
        self._baseline = Baseline.measure()

    def fork(self) -> int:
        """fork(2)."""
        pid = os.fork()
        if pid:
            self._live.add(pid)
        return pid

    def enter_session(self) -> None:
        """Become a process group of its own, with a folder of its own, and bound it."""
        self._make_folder()
        if sys.platform == "linux":
            kernel.adopt_orphans()
            kernel.die_with_parent(signal.SIGKILL)
        apply_limits(self._limits, self._baseline)

    def seal_session(self) -> None:
        """Nothing to do."""

    def tidy(self) -> None:
        """Reap what has ended; of ended sessions kill what is left and remove the folder."""
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if pid in self._live:
                    self._live.discard(pid)
                    self._attempts_left[pid] = _REMOVAL_ATTEMPTS
                self._removers.pop(pid, None)
        for session in list(self._attempts_left):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(session, signal.SIGKILL)
            if session not in self._removers.values():
                self._remove_folder(session)

    def _remove_folder(self, session: int) -> None:
        """Remove an ended session's folder, one with content by a process of its own, whose end leads here again."""
        folder = self._scratch_dir / str(session)
        try:
            if folder.exists() and self._attempts_left[session]:
                folder.rmdir()
            del self._attempts_left[session]
        except OSError:
            self._attempts_left[session] -= 1
            remover = os.fork()
            if remover == 0:
                with contextlib.suppress(OSError):  # something still fills it
                    remove_tree(folder)
                os._exit(0)
            self._removers[remover] = session

    def end(self) -> None:
        """Kill every descendant, wait for the end of the last, and remove what they wrote."""
        for pid in self._live:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        while children := _children():
            for pid in children:
                _kill_group_of(pid)
            for pid in children:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        for folder in self._scratch_dir.iterdir():
            with contextlib.suppress(OSError):  # the parent tries once more
                remove_tree(folder)

    def _make_folder(self) -> str:
        os.setsid()
        folder = self._scratch_dir / str(os.getpid())
        folder.mkdir(0o700)
        settle_in(str(folder))
        return str(folder)


class LandlockIsolation(ProcessIsolation):
    """Landlock for files, the system-call filter for everything else, limits, and a user of its own where root starts.

    Args:
        limits: bounds of one session.
        lake_dir: the one data folder that sessions may read, or None.
        scratch_dir: where each session gets a folder, named by its process.
    """

    name = "landlock"

    def __init__(self, limits: Limits, lake_dir: Path | None, scratch_dir: Path) -> None:
        super().__init__(limits, scratch_dir)
        self._lake_dir, self._as_root, self._opened = lake_dir, os.geteuid() == 0, 0

    @property
    def missing(self) -> tuple[str, ...]:
        """What this tier lacks on this kernel."""
        lacking = ["names and sizes of host files are visible", "scratch is watched instead of bounded"]
        if version() < SIGNALS_VERSION:
            lacking.append("a session cannot signal its own children")
        return tuple(lacking)

    def enter_launcher(self) -> None:
        """Inherit whatever a zygote leaves behind; let session users pass through the folder of their folders."""
        with step("Landlock"):
            version()
        super().enter_launcher()
        if self._as_root:
            os.chmod(self._scratch_dir, 0o711)

    def fork(self) -> int:
        """fork(2), counting the sessions."""
        self._opened += 1
        return super().fork()

    def enter_session(self) -> None:
        """Give up, in the session's process, every right that is left."""
        with step("scratch folder"):
            folder = self._make_folder()
        with step("Landlock"):
            ruleset = Ruleset(session_rules(self._lake_dir, folder))
        with step("limits and capabilities"):
            self._become_nobody(folder)
            kernel.adopt_orphans()
            kernel.die_with_parent(signal.SIGKILL)
            apply_limits(self._limits, self._baseline, foreign_tasks=0 if self._as_root else _tasks_of_all_users())
            kernel.drop_capabilities()
            kernel.forbid_new_privileges()
        with step("Landlock"):
            ruleset.bind()

    def seal_session(self) -> None:
        """Install the system-call filter, the last step before user code."""
        with step("seccomp filter"):
            seccomp.install_filter(seccomp.Without(os.getpid(), version() >= SIGNALS_VERSION))

    def _become_nobody(self, folder: str) -> None:
        if self._as_root:
            user = _FIRST_USER + self._opened % _USERS
            os.chown(folder, user, user)
            kernel.drop_bounding_capabilities()
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            kernel.own_proc_files()
        lake = [str(self._lake_dir)] if self._lake_dir else []
        for path in (os.__file__, folder, *lake):
            if not os.access(path, os.R_OK):
                raise IsolationError(f"no landlock tier: as an ordinary user a session cannot reach {path}")


def _tasks_of_all_users() -> int:
    """Processes and threads on the machine, no fewer than the kernel counts for one user."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _children() -> list[int]:
    """This process's children, sessions and adopted orphans alike; none where the system does not tell (macOS)."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []


def _kill_group_of(pid: int) -> None:
    """Kill a child with its process group, or alone while it is still in this process's."""
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(pid)
        if group == os.getpgrp():
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)
