"""Choosing how sessions are shut in: the strongest tier in which a trial session starts on this machine."""

import os
from collections.abc import Callable
from pathlib import Path

from biomni_lib.sandbox.isolation import NamespaceIsolation
from biomni_lib.sandbox.limits import Limits
from biomni_lib.sandbox.protection import REMEDY, IsolationError
from biomni_lib.sandbox.same_host import LandlockIsolation, ProcessIsolation

Isolation = NamespaceIsolation | LandlockIsolation | ProcessIsolation
_STRICT = ("namespaces", "landlock")
_REASON_BYTES = 2000


def choose(asked: str, limits: Limits, lake_dir: Path | None, scratch_dir: Path) -> tuple[Isolation, tuple[str, ...]]:
    """The isolation for this machine, and what the machine does not give.

    Args:
        asked: `strict`, or the name of one tier.
        limits: bounds of one session.
        lake_dir: the one data folder that sessions may read, or None.
        scratch_dir: where tiers without file systems of their own keep sessions' files.
    Raises: IsolationError with each tier's reason and the remedy.
    """
    make: dict[str, Callable[[], Isolation]] = {
        "namespaces": lambda: NamespaceIsolation(limits, lake_dir),
        "landlock": lambda: LandlockIsolation(limits, lake_dir, scratch_dir),
        "process": lambda: ProcessIsolation(limits, scratch_dir),
    }
    refused: list[str] = []
    for name in _STRICT if asked == "strict" else (asked,):
        refusal = "" if name == "process" else _refusal(make[name]())
        if not refusal:
            isolation = make[name]()
            return isolation, (*(reason.removeprefix("no ") for reason in refused), *isolation.missing)
        refused.append(refusal)
    raise IsolationError(f"this machine gives {' and '.join(refused)}; {REMEDY}")


def _refusal(isolation: Isolation) -> str:
    """Why a trial session of this tier does not start; empty when it does. Leaves nothing behind."""
    read, write = os.pipe()
    trial = os.fork()
    if trial == 0:
        os.close(read)
        _report(write, lambda: _try_launcher(isolation, write))
    os.close(write)
    with os.fdopen(read, "rb") as reader:
        reason = reader.read(_REASON_BYTES).decode("utf-8", "replace")
    _, status = os.waitpid(trial, 0)
    return reason or (f"no {isolation.name} (the trial ended with status {status})" if status else "")


def _report(write: int, run: Callable[[], None]) -> None:
    """Run in this process to its end; a failure's reason goes down the pipe."""
    status = 1
    try:
        run()
        status = 0
    except (IsolationError, OSError) as error:
        os.write(write, str(error).encode())
    finally:
        os._exit(status)


def _try_launcher(isolation: Isolation, write: int) -> None:
    isolation.enter_launcher()
    zygote = os.fork()
    if zygote == 0:
        _report(write, lambda: _try_zygote(isolation, write))
    _require_success(zygote)


def _try_zygote(isolation: Isolation, write: int) -> None:
    isolation.enter_zygote()
    session = isolation.fork()
    if session == 0:
        _report(write, lambda: _try_session(isolation))
    _require_success(session)
    isolation.end()


def _try_session(isolation: Isolation) -> None:
    isolation.enter_session()
    isolation.seal_session()


def _require_success(pid: int) -> None:
    """Wait for a child; its own report is in the pipe when it failed."""
    if os.waitpid(pid, 0)[1]:
        os._exit(1)
