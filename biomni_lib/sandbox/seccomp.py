"""The system-call filter of a session, a BPF program written by hand: a deny list that answers EPERM.

Denied is what namespaces alone leave open: new namespaces and mounts, other processes' memory, kernel keys, modules,
BPF, io_uring, every socket but a socketpair, System V and POSIX message IPC, anonymous memory files (which no process
limit counts). Calls newer than those listed here answer ENOSYS, so that a new kernel opens nothing new.
Source of the layout: the kernel's Documentation/userspace-api/seccomp_filter.rst.
"""

import ctypes
import errno
import platform
import struct
from functools import cache

from biomni_lib.sandbox.kernel import call

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_AT_NUMBER, _AT_ARCH, _AT_FIRST_ARGUMENT = 0, 4, 16
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_CLONE = {"x86_64": 56, "aarch64": 220}
_NEW_NAMESPACES = 0x7E020000

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


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _answer(number: int, value: int) -> bytes:
    """Return `value` for one call number, else go on."""
    return _instruction(_JEQ, number, 0, 1) + _instruction(_RETURN, value)


@cache
def filter_program(machine: str) -> bytes:
    """The BPF program for a machine as named by `platform.machine()`.

    Raises: KeyError for a machine other than x86_64 and aarch64.
    """
    denied, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    parts = [
        _instruction(_LOAD, _AT_ARCH),
        _instruction(_JEQ, _ARCHITECTURES[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _AT_NUMBER),
        _instruction(_JGE, _X32_BIT, 0, 1),
        _instruction(_RETURN, _KILL),
        _instruction(_JEQ, _CLONE[machine], 0, 4),
        _instruction(_LOAD, _AT_FIRST_ARGUMENT),
        _instruction(_JSET, _NEW_NAMESPACES, 0, 1),
        _instruction(_RETURN, denied),
        _instruction(_RETURN, _ALLOW),
    ]
    parts += [_answer(number, denied) for number in _DENIED[machine].values()]
    parts += [_answer(number, _ALLOW) for number in _NEW_BUT_ALLOWED.values()]
    parts += [_instruction(_JGE, _FIRST_SHARED, 0, 1), _instruction(_RETURN, unknown), _instruction(_RETURN, _ALLOW)]
    return b"".join(parts)


def install_filter() -> None:
    """Filter this process's calls, and its children's, from now on; no_new_privs must be set.

    Raises: OSError when the kernel has no seccomp filters.
    """
    program = filter_program(platform.machine())
    call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_FilterProgram(len(program) // 8, program)), 0, 0)
