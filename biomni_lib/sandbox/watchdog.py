"""Memory of a session as a whole: a thread that reads /proc and reports process trees over their limit.

rlimits bound each process alone, so that children could share out what one may not take. The quick reading counts a
forked child's inherited pages again and again; only a tree over the limit by it is read exactly (proportional share,
`smaps_rollup`). Sessions that run a block are read every 50 ms, idle ones every second. Linux only.
"""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_INTERVAL_S = 0.05
_IDLE_ROUNDS = 20
_KIB = 1024


def tree_pids(pid: int) -> Iterator[int]:
    """A process and its living descendants."""
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        yield current
        try:
            threads = os.listdir(f"/proc/{current}/task")
        except OSError:
            continue  # the process has ended since it was listed
        for thread in threads:
            try:
                waiting += map(int, Path(f"/proc/{current}/task/{thread}/children").read_text().split())
            except OSError:
                continue


def _sum_fields(path: str, fields: tuple[str, ...]) -> int | None:
    try:
        with open(path) as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(fields)) * _KIB
    except OSError:
        return None


def resident_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process, inherited pages included; 0 when it is gone."""
    return _sum_fields(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:")) or 0


def proportional_bytes(pid: int) -> int:
    """The process's share of anonymous and shared memory; the whole of it where the kernel does not tell."""
    share = _sum_fields(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))
    return resident_bytes(pid) if share is None else share


def tree_over(pid: int, limit_bytes: int, inherited_bytes: int, sharers: int) -> bool:
    """Whether a session's processes together use more than the limit.

    Args:
        pid: the session's first process.
        limit_bytes: for all processes together.
        inherited_bytes: what a session has from the zygote without using memory of its own.
        sharers: processes that share the inherited pages, the zygote and the sessions.
    """
    pids = list(tree_pids(pid))
    if sum(map(resident_bytes, pids)) - inherited_bytes <= limit_bytes:
        return False
    return sum(map(proportional_bytes, pids)) - inherited_bytes // sharers > limit_bytes


class Watchdog:
    """Looks after many sessions from one thread.

    Args:
        limit_bytes: memory of one session's processes together.
        on_excess: called in the thread with the pid of a session over the limit; it should kill it.
    """

    def __init__(self, limit_bytes: int, on_excess: Callable[[int], None]) -> None:
        self._limit, self._on_excess = limit_bytes, on_excess
        self._inherited: dict[int, int] = {}
        self._running: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sandbox-watchdog", daemon=True)
        self._thread.start()

    def add(self, pid: int) -> None:
        """Watch a session that has not run anything yet."""
        self._inherited[pid] = resident_bytes(pid)

    def remove(self, pid: int) -> None:
        """Forget a session."""
        self._inherited.pop(pid, None)
        self._running.discard(pid)

    def mark(self, pid: int, *, running: bool) -> None:
        """Say whether the session runs a block now."""
        (self._running.add if running else self._running.discard)(pid)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        rounds = 0
        while not self._stop.wait(_INTERVAL_S):
            rounds += 1
            pids = list(self._inherited) if rounds % _IDLE_ROUNDS == 0 else list(self._running)
            for pid in pids:
                inherited = self._inherited.get(pid)
                if inherited is not None and tree_over(pid, self._limit, inherited, len(self._inherited) + 1):
                    self._on_excess(pid)
