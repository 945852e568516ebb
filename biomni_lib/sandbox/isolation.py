"""The tier of namespaces: shutting the zygote and its sessions in, one layer for each.

The zygote lives in its own user, mount, pid, network, ipc, uts and cgroup namespaces below a minimal
read-only root; every session adds a user, mount and pid namespace of its own, a private scratch space, no capability,
no_new_privs and the system-call filter.
What the machine refuses is an `IsolationError` that says which step.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from biomni_lib.sandbox import kernel, root, seccomp
from biomni_lib.sandbox.limits import Baseline, Limits, apply_limits
from biomni_lib.sandbox.protection import settle_in, step

_NOBODY = 65534
_INSIDE_ZYGOTE, _INSIDE_SESSION = 1, 1000
_ZYGOTE_NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_SESSION_NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS


def _write_identity_maps(proc: int, process: str, users: str, groups: str) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
        descriptor = os.open(f"{process}/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _unshare_mapped_from_outside(namespaces: int, proc: int, identity_map: str) -> None:
    """Unshare while a short-lived child, which keeps its rights outside, maps more users than one.

    Raises: OSError when the kernel refuses either.
    """
    target = str(os.getpid())
    wait, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(go)
            if os.read(wait, 1):
                _write_identity_maps(proc, target, identity_map, identity_map)
                status = 0
        finally:
            os._exit(status)
    os.close(wait)
    try:
        kernel.unshare(namespaces)
        os.write(go, b"1")
    finally:
        os.close(go)
        _, status = os.waitpid(helper, 0)
    if status:
        raise PermissionError("the user map cannot be written")


class NamespaceIsolation:
    """Namespaces, minimal root, filter and limits; one object lives through launcher, zygote and sessions.

    Args:
        limits: bounds of one session.
        lake_dir: the one data folder that sessions may read, or None.
    """

    name = "namespaces"
    missing: tuple[str, ...] = ()

    def __init__(self, limits: Limits, lake_dir: Path | None) -> None:
        self._limits, self._lake_dir = limits, lake_dir
        self._as_root = os.geteuid() == 0
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY) if sys.platform == "linux" else -1

    def enter_launcher(self) -> None:
        """Give this process's children new namespaces; the first child is the zygote, first of its pid namespace.

        As root two users exist inside: root, who may read what root may and never runs user code, and nobody.
        """
        with step("user, pid and network namespaces"):
            if self._as_root:
                os.setgroups([])
                _unshare_mapped_from_outside(_ZYGOTE_NAMESPACES, self._proc, f"0 0 1\n{_INSIDE_ZYGOTE} {_NOBODY} 1")
            else:
                kernel.unshare(_ZYGOTE_NAMESPACES)
                _write_identity_maps(self._proc, "self", f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1")

    def enter_zygote(self) -> None:
        """Leave the host's file system; everything that needs it must be loaded before."""
        kernel.die_with_parent(signal.SIGKILL)
        self._baseline = Baseline.measure()
        self._pid_namespace = os.pidfd_open(os.getpid())
        with step("private mounts and minimal root"):
            root.enter_minimal_root(self._lake_dir)

    def fork(self) -> int:
        """fork(2) whose child is the first process of a new pid namespace."""
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                kernel.enter_pid_namespace(self._pid_namespace)
        return pid

    def enter_session(self) -> None:
        """Drop, in the session's process, every right that is left."""
        identity = _INSIDE_ZYGOTE if self._as_root else 0
        os.setsid()
        with step("namespaces for a session"):
            if self._as_root:
                os.setresgid(identity, identity, identity)
                os.setresuid(identity, identity, identity)
            kernel.unshare(_SESSION_NAMESPACES)
            kernel.own_proc_files()
            identity_map = f"{_INSIDE_SESSION} {identity} 1"
            _write_identity_maps(self._proc, "self", identity_map, identity_map)
            root.mount_scratch(self._limits.scratch_mb)
            settle_in(root.SCRATCH)
        with step("limits and capabilities"):
            apply_limits(self._limits, self._baseline)
            kernel.drop_capabilities()
            kernel.forbid_new_privileges()

    def seal_session(self) -> None:
        """Install the system-call filter, the last step before user code."""
        with step("seccomp filter"):
            seccomp.install_filter()

    def tidy(self) -> None:
        """Reap what has ended; the kernel ends a session's processes and its scratch space with its first process."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def end(self) -> None:
        """Nothing to do: the kernel ends every session with the zygote."""
