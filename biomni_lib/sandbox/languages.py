"""Blocks in other languages than Python: a first line `#!BASH` or `#!R`.

Each block is a process of its own in the session's folder and under the session's limits; files last between blocks,
shell variables do not. What it prints goes to the descriptors that the interpreter collects.
"""

import contextlib
import os
import shutil
import signal
import subprocess

PROGRAMS = {"#!BASH": ("bash", "-c"), "#!R": ("Rscript", "--vanilla", "-e")}
"""What runs a block, by its first line; the block is the last argument."""


class LanguageUnavailable(Exception):
    """The machine has no program for a block's language."""


class BlockFailed(Exception):
    """A block in another language ended with a status other than 0."""


def split_language(code: str) -> tuple[str, str]:
    """A block's language marker (`#!BASH`, `#!R`, or nothing for Python) and the code below it."""
    first, _, rest = code.lstrip().partition("\n")
    marker = first.strip()
    return (marker, rest) if marker in PROGRAMS else ("", code)


def run_foreign(marker: str, code: str) -> None:
    """Run a block through its language's program; an exception on the way ends the program and its children.

    Raises: LanguageUnavailable; BlockFailed with the status or signal that ended the program.
    """
    name, *options = PROGRAMS[marker]
    program = shutil.which(name)
    if program is None:
        raise LanguageUnavailable(f"this machine has no {name}; write the block in Python")
    process, own_group = _start([program, *options, code])
    try:
        status = process.wait()
    except BaseException:
        _end(process, own_group)
        raise
    if status:
        ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise BlockFailed(f"{name} {ended}")


def _start(command: list[str]) -> tuple[subprocess.Popen[bytes], bool]:
    """The program, and whether it leads a process group of its own, which the landlock tier does not allow."""
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0), True
    except PermissionError:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL), False


def _end(process: subprocess.Popen[bytes], own_group: bool) -> None:
    """Kill the program; with a group of its own also what it started, which the session inherits and reaps."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if own_group else process.kill()
    process.wait()
    with contextlib.suppress(ChildProcessError):
        while own_group:
            os.waitpid(-process.pid, 0)
