"""The system-call filter of a session, a BPF program written by hand: a deny list that answers EPERM.

Denied is what namespaces alone leave open: new namespaces and mounts, other processes' memory, kernel keys, modules,
BPF, io_uring, every socket but a stream socketpair (a datagram one can send to any address), System V and POSIX message
IPC, anonymous memory files (which no process limit counts). Calls newer than those listed here answer ENOSYS, so that
a new kernel opens nothing new. Where there are no namespaces (`Without`) more is denied: what Landlock does not bound.
Source of the layout: the kernel's Documentation/userspace-api/seccomp_filter.rst.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from biomni_lib.sandbox.kernel import call

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS, _ARGUMENT_BYTES = 0, 4, 16, 8
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_DATAGRAM_OR_RAW = 2
"""The bit that SOCK_DGRAM and SOCK_RAW have and SOCK_STREAM and SOCK_SEQPACKET have not."""

_FIRST_SHARED = 424
"""From here on both architectures number alike."""
_NEW_BUT_ALLOWED = {"pidfd_send_signal": 424, "pidfd_open": 434, "close_range": 436, "faccessat2": 439,
                    "epoll_pwait2": 441, "futex_waitv": 449, "fchmodat2": 452, "futex_wake": 454, "futex_wait": 455,
                    "futex_requeue": 456}  # fmt: skip

_DENIED = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
        "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "shmdt": 67, "msgget": 68,
        "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "semtimedop": 220, "mq_open": 240, "mq_unlink": 241,
        "memfd_create": 319, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
        "mknod": 133, "mknodat": 259, "chroot": 161, "pivot_root": 155, "mount": 165, "umount2": 166, "unshare": 272,
        "setns": 308, "name_to_handle_at": 303, "open_by_handle_at": 304, "quotactl": 179, "swapon": 167,
        "swapoff": 168, "sync": 162, "acct": 163, "syslog": 103, "personality": 135, "vhangup": 153,
        "modify_ldt": 154, "adjtimex": 159, "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305,
        "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
        "delete_module": 176, "finit_module": 313, "kexec_load": 246, "kexec_file_load": 320, "add_key": 248,
        "request_key": 249, "keyctl": 250, "migrate_pages": 256, "move_pages": 279, "perf_event_open": 298,
        "fanotify_init": 300, "bpf": 321, "userfaultfd": 323, "lookup_dcookie": 212, "nfsservctl": 180, "uselib": 134,
    },
    "aarch64": {
        "socket": 198, "connect": 203, "accept": 202, "bind": 200, "listen": 201, "accept4": 242,
        "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193, "semctl": 191, "shmdt": 197,
        "msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187, "semtimedop": 192, "mq_open": 180,
        "mq_unlink": 181, "memfd_create": 279, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
        "kcmp": 272, "mknodat": 33, "chroot": 51, "pivot_root": 41, "mount": 40, "umount2": 39, "unshare": 97,
        "setns": 268, "name_to_handle_at": 264, "open_by_handle_at": 265, "quotactl": 60, "swapon": 224,
        "swapoff": 225, "sync": 81, "acct": 89, "syslog": 116, "personality": 92, "vhangup": 58, "adjtimex": 171,
        "settimeofday": 170, "clock_settime": 112, "clock_adjtime": 266, "reboot": 142, "sethostname": 161,
        "setdomainname": 162, "init_module": 105, "delete_module": 106, "finit_module": 273, "kexec_load": 104,
        "kexec_file_load": 294, "add_key": 217, "request_key": 218, "keyctl": 219, "migrate_pages": 238,
        "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "bpf": 280, "userfaultfd": 282,
        "lookup_dcookie": 18, "nfsservctl": 42,
    },
}  # fmt: skip


_INSPECTED = {
    "x86_64": {"clone": 56, "socketpair": 53, "prctl": 157, "prlimit64": 302, "fcntl": 72, "ioctl": 16, "open": 2,
               "openat": 257, "tgkill": 234},
    "aarch64": {"clone": 220, "socketpair": 199, "prctl": 167, "prlimit64": 261, "fcntl": 25, "ioctl": 29,
                "openat": 56, "tgkill": 131},
}  # fmt: skip
"""Calls that are judged by an argument."""

_DENIED_WITHOUT_NAMESPACES = {
    "x86_64": {
        "setpgid": 109, "setsid": 112, "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92,
        "fchown": 93, "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
        "fremovexattr": 199, "truncate": 76, "flock": 73, "inotify_add_watch": 254, "sched_setaffinity": 203,
        "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314, "setpriority": 141, "ioprio_set": 251,
        "sendmsg": 46, "sendmmsg": 307,
    },
    "aarch64": {
        "setpgid": 154, "setsid": 157, "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54,
        "utimensat": 88, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15,
        "fremovexattr": 16, "truncate": 45, "flock": 32, "inotify_add_watch": 27, "sched_setaffinity": 122,
        "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274, "setpriority": 140, "ioprio_set": 30,
        "sendmsg": 211, "sendmmsg": 269,
    },
}  # fmt: skip
"""Metadata of the host's files, other processes of the same user, ways out of the session's process group, and files
handed over a socket, where nobody counts them."""

_SIGNALS = {
    "x86_64": {"kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424},
    "aarch64": {"kill": 129, "tkill": 130, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424},
}

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_F_SETOWN, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY, _FIOSETOWN, _SIOCSPGRP = 8, 15, 1024, 1026, 0x8901, 0x8902
_O_TRUNC, _O_WRONLY, _O_RDWR = 0o1000, 1, 2


@dataclass(frozen=True)
class Without:
    """What the machine's namespaces and Landlock do not give, so that the filter has to.

    Attributes:
        own_pid: the session's first process, which may signal itself.
        signal_scope: whether Landlock keeps signals inside (Linux 6.12).
    """

    own_pid: int
    signal_scope: bool


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


_PERMIT = _instruction(_RETURN, _ALLOW)
_DENY = _instruction(_RETURN, _ERRNO | errno.EPERM)
_UNKNOWN = _instruction(_RETURN, _ERRNO | errno.ENOSYS)


def _answers(numbers: Iterable[int], verdict: bytes) -> bytes:
    """The verdict for these call numbers; the others go on."""
    return b"".join(_instruction(_JEQ, number, 0, 1) + verdict for number in numbers)


def _judge(number: int | None, argument: int, body: bytes) -> bytes:
    """For one call number, load an argument's low half and let `body`, which must return, decide."""
    if number is None:
        return b""
    load = _instruction(_LOAD, _AT_ARGUMENTS + _ARGUMENT_BYTES * argument)
    return _instruction(_JEQ, number, 0, (len(load) + len(body)) // len(load)) + load + body


def _deny_bits(bits: int) -> bytes:
    return _instruction(_JSET, bits, 0, 1) + _DENY + _PERMIT


def _deny_values(*values: int) -> bytes:
    return _answers(values, _DENY) + _PERMIT


def _permit_values(*values: int) -> bytes:
    return _answers(values, _PERMIT) + _DENY


_TRUNCATE_TO_WRITE = (
    _instruction(_JSET, _O_TRUNC, 1, 0)
    + _PERMIT
    + _instruction(_JSET, _O_WRONLY, 0, 2)
    + _instruction(_JSET, _O_RDWR, 0, 3)
    + _DENY
    + _instruction(_JSET, _O_RDWR, 1, 0)
    + _DENY
    + _PERMIT
)
"""O_TRUNC is for files opened to write or to read and write: before Linux 6.2 Landlock overlooks it on others."""


def _stricter_rules(machine: str, without: Without) -> bytes:
    """What takes the place of namespaces; these rules come before those of every tier."""
    inspected = _INSPECTED[machine]
    parts = [
        _answers(_DENIED_WITHOUT_NAMESPACES[machine].values(), _DENY),
        _judge(inspected["prctl"], 0, _deny_values(_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER)),
        _judge(inspected["prlimit64"], 0, _permit_values(0)),
        _judge(inspected["fcntl"], 1, _deny_values(_F_SETOWN, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY)),
        _judge(inspected["ioctl"], 1, _deny_values(_FIOSETOWN, _SIOCSPGRP)),
        _judge(inspected.get("open"), 1, _TRUNCATE_TO_WRITE),
        _judge(inspected["openat"], 2, _TRUNCATE_TO_WRITE),
    ]
    if not without.signal_scope:
        parts += [
            _answers(_SIGNALS[machine].values(), _DENY),
            _judge(inspected["tgkill"], 0, _permit_values(without.own_pid)),
        ]
    return b"".join(parts)


@cache
def _common_rules(machine: str) -> bytes:
    inspected = _INSPECTED[machine]
    parts = [
        _judge(inspected["clone"], 0, _deny_bits(_NEW_NAMESPACES)),
        _judge(inspected["socketpair"], 1, _deny_bits(_DATAGRAM_OR_RAW)),
        _answers(_DENIED[machine].values(), _DENY),
        _answers(_NEW_BUT_ALLOWED.values(), _PERMIT),
        _instruction(_JGE, _FIRST_SHARED, 0, 1) + _UNKNOWN + _PERMIT,
    ]
    return b"".join(parts)


def filter_program(machine: str, without: Without | None = None) -> bytes:
    """The BPF program for a machine as named by `platform.machine()`.

    Args:
        without: what the filter must make up for; None inside namespaces.
    Raises: KeyError for a machine other than x86_64 and aarch64.
    """
    kill = _instruction(_RETURN, _KILL)
    head = [
        _instruction(_LOAD, _AT_ARCH),
        _instruction(_JEQ, _ARCHITECTURES[machine], 1, 0) + kill,
        _instruction(_LOAD, _AT_NUMBER),
        _instruction(_JGE, _X32_BIT, 0, 1) + kill,
        _stricter_rules(machine, without) if without else b"",
    ]
    return b"".join([*head, _common_rules(machine)])


def install_filter(without: Without | None = None) -> None:
    """Filter this process's calls, and its children's, from now on; no_new_privs must be set.

    Raises: OSError when the kernel has no seccomp filters.
    """
    program = filter_program(platform.machine(), without)
    call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_FilterProgram(len(program) // 8, program)), 0, 0)
