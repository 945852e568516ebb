"""A session as a whole: a thread that reads /proc and reports process trees over their limits.

rlimits bound each process alone, so that children could share out what one may not take. The quick reading counts a
forked child's inherited pages again and again; only a tree over the limit by it is read exactly (proportional share,
`smaps_rollup`). Sessions that run a block are read every 50 ms, idle ones every second. Where a session has no file
system and no process numbers of its own, its scratch folder and its processes are counted as well. Linux only.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from biomni_lib.sandbox.kernel import acting_as_owner
from biomni_lib.sandbox.limits import MIB, SCRATCH_FILES, Limits

_INTERVAL_S = 0.05
_IDLE_ROUNDS, _SCRATCH_ROUNDS = 20, 4
_KIB = 1024
_BLOCK_BYTES = 512


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


def scratch_use(folder: Path, pids: list[int]) -> tuple[int, int]:
    """Bytes and files of a scratch folder, with removed files that a process still holds open or mapped."""
    sizes: dict[tuple[int, int], int] = {}
    waiting = [str(folder)]
    while waiting and len(sizes) <= SCRATCH_FILES:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                sizes[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK_BYTES
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    with contextlib.suppress(FileNotFoundError):  # the session has ended and its folder with it
        device = os.stat(folder).st_dev
        for pid in pids:
            sizes.update(_removed_open(pid, device))
            sizes.update(_removed_mapped(pid, str(folder)))
    return sum(sizes.values()), len(sizes)


def _removed_open(pid: int, device: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Removed files of a device that a process holds open, with their bytes."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            found = os.stat(f"/proc/{pid}/fd/{name}")
            if found.st_dev == device and found.st_nlink == 0 and stat.S_ISREG(found.st_mode):
                yield (found.st_dev, found.st_ino), found.st_blocks * _BLOCK_BYTES


def _removed_mapped(pid: int, folder: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Removed files of a folder that a process has mapped, with the bytes mapped last."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as lines:
        for line in lines:
            addresses, _, _, device, inode, *path = line.split(None, 5)
            if path and path[0].startswith(folder) and path[0].endswith("(deleted)\n"):
                start, end = (int(address, 16) for address in addresses.split("-"))
                major, minor = (int(part, 16) for part in device.split(":"))
                yield (os.makedev(major, minor), int(inode)), end - start


class Watchdog:
    """Looks after many sessions from one thread.

    Args:
        limits: bounds of one session.
        on_excess: called in the thread with the pid of a session and what it used too much of; it should kill it.
    """

    def __init__(self, limits: Limits, on_excess: Callable[[int, str], None]) -> None:
        self._limits, self._on_excess = limits, on_excess
        self._scratch_dir: Path | None = None
        self._sweep: Callable[[], None] | None = None
        self._inherited: dict[int, int] = {}
        self._running: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sandbox-watchdog", daemon=True)
        self._thread.start()

    def watch_scratch(self, scratch_dir: Path) -> None:
        """From now on count the processes of sessions and what lies in their folders in `scratch_dir`."""
        self._scratch_dir = scratch_dir

    def sweep_with(self, sweep: Callable[[], None]) -> None:
        """From now on call this once a second, to clear up after sessions that took their time to end."""
        self._sweep = sweep

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
            all_too = rounds % _IDLE_ROUNDS == 0
            if self._sweep and all_too:
                self._sweep()
            pids = list(self._inherited if all_too else self._running)
            for pid in pids:
                inherited = self._inherited.get(pid)
                if inherited is not None:
                    self._check(pid, inherited, with_scratch=rounds % _SCRATCH_ROUNDS == 0)

    def _check(self, pid: int, inherited_bytes: int, *, with_scratch: bool) -> None:
        limits = self._limits
        with acting_as_owner(pid):
            if tree_over(pid, limits.process_memory_bytes, inherited_bytes, len(self._inherited) + 1):
                self._on_excess(pid, f"{limits.memory_mb} MiB of memory")
            elif self._scratch_dir and with_scratch:
                pids = list(tree_pids(pid))
                used, files = scratch_use(self._scratch_dir / str(pid), pids)
                if sum(map(_tasks, pids)) > limits.processes:
                    self._on_excess(pid, f"{limits.processes} processes")
                elif used > limits.scratch_mb * MIB:
                    self._on_excess(pid, f"{limits.scratch_mb} MiB of scratch space")
                elif files > SCRATCH_FILES:
                    self._on_excess(pid, f"{SCRATCH_FILES} files of scratch space")


def _tasks(pid: int) -> int:
    """Threads of a process; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0
