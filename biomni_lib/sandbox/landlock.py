"""Landlock: what files a process and its children may open, by the kernel, without any right (Linux 5.13 and later).

A ruleset names folders with the rights below them; everything else is refused. It does not hide names and sizes, does
not bound metadata, and older kernels leave more open; the system-call filter makes up for that (`seccomp.Without`).
Source: the kernel's Documentation/userspace-api/landlock.rst; numbers are alike on every architecture.
"""

import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from biomni_lib.sandbox.kernel import call
from biomni_lib.sandbox.root import DEVICES, PACKAGE, PACKAGE_PARTS, visible_paths

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_LATER_RIGHTS = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEVICE}
"""Rights by the interface version that brought them."""
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_NODES_AND_SOCKETS = 1 << 6 | 1 << 9 | 1 << 11
_TCP_BIND_AND_CONNECT, _ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3
_TCP_VERSION, SIGNALS_VERSION = 4, 6
READ = _EXECUTE | _READ_FILE | _READ_DIR


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32)]


def version() -> int:
    """The kernel's Landlock interface.

    Raises: OSError where there is none, or where it is switched off or forbidden.
    """
    return call("syscall", ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), _ASK_VERSION)


def _handled_rights(interface: int) -> int:
    later = sum(right for since, right in _LATER_RIGHTS.items() if since <= interface)
    return _FIRST_RIGHTS | later


def _around_package(path: str) -> Iterator[tuple[str, int]]:
    """Rules for a visible path: all of it, or, where this package lies in it, all of it but the package's content."""
    package = str(PACKAGE)
    if path == package or not package.startswith(f"{path}/"):
        yield path, READ
        return
    yield path, _READ_DIR
    for name in os.listdir(path):
        inner = os.path.join(path, name)
        if inner != package:
            yield from _around_package(inner)


def session_rules(lake_dir: Path | None, scratch: str) -> Iterator[tuple[str, int]]:
    """Paths that a session may use and its rights there: libraries and lake to read, its scratch space to fill."""
    for path in visible_paths(lake_dir):
        yield from _around_package(path)
    yield from ((str(PACKAGE / part), READ) for part in PACKAGE_PARTS if (PACKAGE / part).exists())
    yield from ((f"/dev/{device}", _READ_FILE | _WRITE_FILE) for device in DEVICES)
    yield scratch, (_FIRST_RIGHTS | _REFER | _TRUNCATE) & ~(_EXECUTE | _NODES_AND_SOCKETS)


class Ruleset:
    """Rules that are ready to bind; made while the paths can still be opened.

    Args:
        rules: paths with rights.
    Raises: OSError naming the call that the kernel refused.
    """

    def __init__(self, rules: Iterator[tuple[str, int]]) -> None:
        interface = version()
        self._handled = _handled_rights(interface)
        network = _TCP_BIND_AND_CONNECT if interface >= _TCP_VERSION else 0
        scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if interface >= SIGNALS_VERSION else 0
        ruleset = _Ruleset(self._handled, network, scoped)
        size = ctypes.c_size_t(ctypes.sizeof(ruleset))
        self._descriptor = call("syscall", ctypes.c_long(_CREATE), ctypes.byref(ruleset), size, 0)
        for path, rights in rules:
            self._allow(path, rights)

    def _allow(self, path: str, rights: int) -> None:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # a link that leads nowhere
        try:
            if not stat.S_ISDIR(os.fstat(opened).st_mode):
                rights &= _OF_FILES
            rule = _PathBeneath(rights & self._handled, opened)
            call("syscall", ctypes.c_long(_ADD_RULE), self._descriptor, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(opened)

    def bind(self) -> None:
        """Restrict this thread and its future children for good; no_new_privs must be set."""
        call("syscall", ctypes.c_long(_RESTRICT_SELF), self._descriptor, 0)
        os.close(self._descriptor)
