"""The kernel's own calls for isolation, through ctypes: no compiled code, no system package.

Linux only; every function raises OSError with the call's name and the kernel's reason. Numbers and structures are
those of the kernel's user-space headers (x86_64 and aarch64).
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION_3, _LAST_CAPABILITY = 0x20080522, 63
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def call(name: str, *arguments: object) -> int:
    """Call a libc function that returns -1 on failure.

    Raises: OSError naming the function.
    """
    result = getattr(_libc, name)(*arguments)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling process new namespaces (`CLONE_NEW*`)."""
    call("unshare", flags)


def enter_pid_namespace(pidfd: int) -> None:
    """Make later children of this process members of the pid namespace of the process behind `pidfd` (Linux 5.8)."""
    call("setns", pidfd, CLONE_NEWPID)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2); `kind` is a file system's name, None for bind mounts and changes of propagation."""
    kind_bytes = kind.encode() if kind else None
    call("mount", os.fsencode(source), os.fsencode(target), kind_bytes, ctypes.c_ulong(flags), options.encode())


def detach(target: str) -> None:
    """Take a mount and all below it out of sight."""
    call("umount2", os.fsencode(target), _MNT_DETACH)


def restrict_mount(path: str, attributes: int, *, recursive: bool) -> None:
    """Add `ATTR_*` restrictions to a mount, and to all mounts below it when recursive (Linux 5.12)."""
    attr = _MountAttr(attr_set=attributes)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    call("syscall", ctypes.c_long(_SYS_MOUNT_SETATTR), _AT_FDCWD, os.fsencode(path), flags, ctypes.byref(attr), size)


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root of this mount namespace; the old root appears at `old_root`."""
    number = ctypes.c_long(_SYS_PIVOT_ROOT[platform.machine()])
    call("syscall", number, os.fsencode(new_root), os.fsencode(old_root))


def drop_bounding_capabilities() -> None:
    """Empty the bounding set, so that no program that is run gains a capability; as root only, before giving it up."""
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
            break


def drop_capabilities() -> None:
    """Empty the bounding, ambient, effective, permitted and inheritable sets of this process, for good."""
    drop_bounding_capabilities()
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def forbid_new_privileges() -> None:
    """Set no_new_privs: no later exec gains rights."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent process ends."""
    call("prctl", _PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def own_proc_files() -> None:
    """Make /proc/self belong to this process's user again, after a change of user."""
    call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def acting_as_owner(pid: int) -> Iterator[None]:
    """Let this thread, where it is root, read /proc as the user of a process: root without CAP_SYS_PTRACE may not."""
    owner = _owner(pid) if os.geteuid() == 0 else 0
    if owner:
        _libc.setfsgid(owner)
        _libc.setfsuid(owner)
    try:
        yield
    finally:
        if owner:
            _libc.setfsuid(0)
            _libc.setfsgid(0)


def _owner(pid: int) -> int:
    """A process's user; 0 when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return 0
